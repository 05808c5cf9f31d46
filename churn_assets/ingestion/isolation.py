"""Decoding in a child process, so that a message on which the decoder dies is found and rejected.

The decoder runs native code over bytes from outside. A message that makes it crash would take the process with it, again at
each attempt, and nothing behind that message would ever be stored. Here belongs what survives that: the child, the search
for the message, and the reasons of its reject. What a message means is in `decoding`.
"""

import faulthandler
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from io import BytesIO
from itertools import count
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeAlias, cast

import pyarrow as pa
from pyarrow import ipc

from churn_assets.errors import ChurnError
from churn_assets.ingestion import decoding
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded
from churn_assets.ingestion.mapping import rows as mapped
from churn_assets.ingestion.mapping.compiling import MappedSource
from churn_assets.rules import DECODE_SECONDS

Decode: TypeAlias = Callable[[pa.Table, datetime, MappedSource | None], Decoded]

DIED, FAILED, TOO_SLOW = "the decoder died on it", "the decoder failed on it", "the decoder took too long on it"
FATAL_REASONS = (DIED, FAILED, TOO_SLOW)

_ATTEMPTS = 2  # on a message alone before it is rejected
# By signals that native code brings on itself. SIGKILL and SIGTERM come from outside: a person, or a machine without memory.
_ENDS = {
    -signal.SIGALRM: TOO_SLOW,
    **{-number: DIED for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)},
    **{-number: DIED for number in (signal.SIGTRAP, signal.SIGSYS)},
}
_SERVE = f"import sys; from {__name__} import serve; serve(int(sys.argv[1]))"
# Arrives as a reject with a reason like any other. If the decoder dies on this one, too, the fault is not in the messages.
_HARMLESS = pa.table([[0], [0], [None], [b"{}"]], schema=MESSAGE_SCHEMA)


class DecoderError(ChurnError):
    """The decoder cannot work on this machine, or was killed from outside; nothing is rejected for that."""


@dataclass(frozen=True)
class _Failure:
    """An attempt without a result. `reason` is that of a reject, or None if the message is not to blame."""

    reason: str | None
    description: str


def decode(messages: pa.Table, now: datetime, source: MappedSource | None = None) -> Decoded:
    """The rows and rejects of messages of the contract, or of a source that is mapped to it."""
    return decoding.decode(messages, now) if source is None else mapped.decode(messages, now, source)


def decode_here(messages: pa.Table, now: datetime, source: MappedSource | None = None) -> Decoded:
    """`decode` in this process, which ends if that takes longer than `DECODE_SECONDS`: native code never returns."""
    faulthandler.dump_traceback_later(DECODE_SECONDS, exit=True, file=2)
    try:
        return decode(messages, now, source)
    finally:
        faulthandler.cancel_dump_traceback_later()


class IsolatedDecoder:
    """Decodes in a child process, which starts with the first messages. Close it at the end.

    When the child dies, fails or takes longer than `DECODE_SECONDS`, the messages are halved until those are found on which
    it does so alone, twice. They become rejects with one of `FATAL_REASONS`, all others rows as ever. Nothing is rejected
    for a kill from outside, or while the decoder dies on a harmless message, too.
    """

    def __init__(self) -> None:
        self._numbers = count()

    def decode(self, messages: pa.Table, now: datetime, source: MappedSource | None = None) -> Decoded:
        """As `decode`; `DecoderError` if the child was killed, or the decoder dies on every message."""
        outcome = self._attempt(messages, now, source)
        if isinstance(outcome, Decoded):
            return outcome
        if messages.num_rows > 1:
            half = messages.num_rows // 2
            halves = (messages.slice(0, half), messages.slice(half))
            return _joined([self.decode(of_half, now, source) for of_half in halves])
        return self._judged(messages, now, source, outcome)

    def close(self) -> None:
        """End the child at once, whatever it does; a `decode` in another thread then raises."""
        if "_child" in vars(self):
            process, line = self._child
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            line.close()

    def _judged(self, message: pa.Table, now: datetime, source: MappedSource | None, first: _Failure) -> Decoded:
        """A reject, if the message alone is to blame."""
        failures = [first]
        while len(failures) < _ATTEMPTS:
            outcome = self._attempt(message, now, source)
            if isinstance(outcome, Decoded):
                return outcome
            failures.append(outcome)
        if outside := next((failure for failure in failures if failure.reason is None), None):
            raise DecoderError(
                f"the decoder {outside.description}; nothing is lost, the next run reads the messages again. If nobody"
                " killed it, the machine has too little memory"
            )
        harmless = self._attempt(_HARMLESS, now, None)
        if isinstance(harmless, _Failure):
            raise DecoderError(
                f"the decoder {harmless.description}, even on a harmless message; nothing is lost. Install the project"
                " again (`make install`): its libraries do not fit this machine"
            )
        return _rejected(message, str(failures[-1].reason))

    def _attempt(self, messages: pa.Table, now: datetime, source: MappedSource | None) -> Decoded | _Failure:
        _, line = self._child
        number = next(self._numbers)
        answered, answer = -1, cast("Any", None)
        try:
            line.send((number, now, source, _packed(messages)))
            # A death has no number. Of one while nothing was asked, the answer to what was asked then comes late.
            while answered not in (number, None):
                answered, answer = line.recv()
        except (OSError, EOFError) as error:
            raise DecoderError("the decoder's process is gone; the next run reads the messages again") from error
        if isinstance(answer, int):
            return _Failure(_ENDS.get(answer), f"was ended by {_signal_name(answer)}")
        if isinstance(answer, str):
            return _Failure(FAILED, f"failed with {answer}")
        rows, rejects, voids, left_out, further = answer
        return Decoded(_unpacked_all(rows), _unpacked(rejects), left_out, _unpacked_all(voids), further)

    @cached_property
    def _child(self) -> tuple["subprocess.Popen[bytes]", Connection]:
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the parent, which then closes this
            )
        return process, ours


def serve(line_number: int) -> None:
    """What the child does: a fork of it decodes, until it dies; so the next attempt starts within milliseconds."""
    line = Connection(line_number)
    while True:
        if (pid := os.fork()) == 0:
            try:
                _answer(line)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status == 0:  # the parent is gone
            return
        line.send((None, os.waitstatus_to_exitcode(status)))


def _answer(line: Connection) -> None:
    """Decode whatever arrives, and send what became of it, or the name of the error. Ends when the parent is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, OSError):
        while True:
            number, now, source, packed = line.recv()
            answer: Any
            signal.alarm(DECODE_SECONDS)
            try:
                decoded = decode(_unpacked(packed), now, source)
                rows, voids = (
                    {ledger: _packed(table) for ledger, table in tables.items()}
                    for tables in (decoded.rows, decoded.voids)
                )
                answer = rows, _packed(decoded.rejects), voids, decoded.left_out, decoded.further
            except Exception as error:  # noqa: BLE001  # whatever it is, the message that causes it has to be found
                answer = type(error).__name__
            signal.alarm(0)
            line.send((number, answer))


def _packed(table: pa.Table) -> bytes:
    """A table as Arrow's IPC stream; pickled, a slice would carry the whole table."""
    sink = BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _unpacked(packed: bytes) -> pa.Table:
    return ipc.open_stream(packed).read_all()


def _unpacked_all(packed: dict[str, bytes]) -> dict[str, pa.Table]:
    return {ledger: _unpacked(table) for ledger, table in packed.items()}


def _joined(parts: Iterable[Decoded]) -> Decoded:
    parts = list(parts)

    def by_ledger(tables: list[dict[str, pa.Table]]) -> dict[str, pa.Table]:
        ledgers = dict.fromkeys(ledger for one in tables for ledger in one)
        return {ledger: pa.concat_tables(one[ledger] for one in tables if ledger in one) for ledger in ledgers}

    return Decoded(
        by_ledger([part.rows for part in parts]),
        pa.concat_tables(part.rejects for part in parts),
        sum(part.left_out for part in parts),
        by_ledger([part.voids for part in parts]),
        sum(part.further for part in parts),
    )


def _rejected(message: pa.Table, reason: str) -> Decoded:
    columns = ["kafka_partition", "kafka_offset", "kafka_time"]
    reasons = pa.array([reason] * message.num_rows, pa.string())
    return Decoded(
        {}, pa.table([*message.select(columns).columns, reasons, message["value"]], [*columns, "reason", "original"])
    )


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
