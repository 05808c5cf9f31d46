"""Feeds the decoder with bytes that nobody thought of, in a child process, and keeps what it does wrong.

    make fuzz ARGS="--minutes=30"

Hostile messages are made by mutating valid ones: bytes, members, values, brackets. Each batch goes through `decode`, and must
come out with every message exactly once; no message may be a failure of the decoder, a valid one beside it must be stored, and
what DuckDB takes in bulk must be what Python makes of it one by one. Inputs that do harm are written to `--keep`.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion import decoding
from churn_assets.ingestion.events import EVENT_TYPES
from churn_assets_tests.ingestion.messages import PAYLOADS, message

NOW = datetime(2026, 6, 1, 12)
BATCH = 2_000
PATIENCE_SECONDS = 60.0  # of a batch; a decoder that takes longer hangs
NEIGHBOUR = message("TXN", transaction_ref="neighbour")

# What means something to a parser, a cast or an eye.
PIECES = [
    *(
        b'"',
        b"\\",
        b",",
        b" ",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"nan",
        b"inf",
        b"/*",
        b"'",
    ),
    *(
        b"1e5",
        b"10.0",
        b"-0",
        b"E+2",
        b"_",
        b".",
        b"-",
        b"+",
        b"0",
        b"9" * 30,
        b"1e400",
        b"0x1",
        b"Z",
        b"+02:00",
        b"T",
        b":60",
    ),
    *(
        b"24:00:00",
        b"9999-12-31",
        b"1900-01-01",
        b"BC",
        b"UTC",
        b"\\u0061",
        b"\\u0000",
        b"\\ud800",
        b"\\ude00",
        b"\n",
        b"\0",
        b"\x7f",
    ),
    *(
        b"\xc2\xa0",
        b"\xe3\x80\x80",
        b"\xe2\x80\x8b",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xc3\x9f",
        b"\xf0\x9f\x98\x80",
    ),
    *(b'"a":1,', b'"amount":1,', b'"payload":{}', b'"event_type":"TXN"', b'"envelope":1,', b"pos", b"closed"),
]
VALUES: list[Any] = [
    *(0, 1, -1, 1.5, 1e5, 10.0, 10**25, -0.0, 1e400, float("nan"), True, False, None, {}, [], {"a": {"b": [1]}}),
    *(
        "",
        " ",
        " x",
        "x ",
        "10.0",
        "1e5",
        "1E+5",
        ".5",
        "5.",
        "1_000",
        "+5",
        "NaN",
        "true",
        "nan",
        "inf",
        "0x10",
        "12.50",
    ),
    *("2026-03-01", "2026-03-01T10:00Z", "2026-03-01 10:00:00", "2026-03-01T10:00:00+02:00", "20260301T100000Z"),
    *("2026-03-01T24:00:00Z", "2026-03-01T24:00:00.000000Z", "2026-03-01T10:00:00.1234567Z", "2026-03-01T 1:00:00Z"),
    *(
        "9999-12-31",
        "1900-01-01",
        "0026-01-01",
        "-026-01-01",
        " 026-01-01T10:00:00.000000Z",
        "2026-02-30",
        "2026- 1-01",
    ),
    *(
        "2026-03-01T10:00:00-00:00",
        "2026-03-01T10:00:00+24:00",
        "2025-12-31T23:59:60Z",
        "pos",
        "closed",
        "é",
        "É",
        "ß",
        "日本",
    ),
    *("\u00a0x", "x\u200b", "a\tb", "a\0", "\ud800", "x" * 255, "x" * 256, "é" * 200, "x" * 5000, "[" * 300),
]


@dataclass
class Run:
    """What a run has tried and found."""

    messages: int = 0
    stored: int = 0
    found: list[str] = field(default_factory=list[str])


def mutated(luck: random.Random) -> bytes:
    """A message that began as a valid one, or as nothing."""
    kind = luck.random()
    if kind < 0.05:
        return luck.randbytes(luck.randrange(60))
    if kind < 0.08:
        return _deep(luck)
    name = luck.choice(list(PAYLOADS))
    payload: dict[str, Any] = dict(PAYLOADS[name])
    for _ in range(luck.choice((0, 1, 1, 2, 5))):
        payload[luck.choice([*payload, "zz", "envelope", "payload", ""])] = luck.choice(VALUES)
    if luck.random() < 0.3:
        payload = dict(luck.sample(list(payload.items()), len(payload)))
    if luck.random() < 0.3:
        payload.pop(luck.choice(list(payload)))
    event = {"event_type": name, "payload": payload}
    if luck.random() < 0.1:
        event = {"payload": payload, "event_type": name, **({"id": luck.choice(VALUES)} if luck.random() < 0.5 else {})}
    separators = luck.choice([(",", ":"), (", ", ": "), (" , ", " : ")])
    value = json.dumps(event, separators=separators, ensure_ascii=luck.random() < 0.5).encode(errors="replace")
    return _broken(value, luck) if luck.random() < 0.6 else value


def _broken(value: bytes, luck: random.Random) -> bytes:
    broken = bytearray(value)
    for _ in range(luck.choice((1, 1, 2, 3, 8))):
        at = luck.randrange(len(broken) + 1)
        match luck.randrange(6):
            case 0:
                broken[at:at] = luck.choice(PIECES)
            case 1:
                broken[at : at + luck.randint(0, 4)] = luck.choice(PIECES)
            case 2:
                del broken[at : at + luck.randint(1, 3)]
            case 3:
                end = luck.randrange(len(broken) + 1)
                broken[at:at] = broken[min(at, end) : max(at, end)][:2000]
            case 4:
                del broken[at:]
            case _ if broken:
                broken[min(at, len(broken) - 1)] = luck.randrange(256)
            case _:
                pass
    return bytes(broken)


def _deep(luck: random.Random) -> bytes:
    """Brackets, quotes and members by the thousand, whole or not."""
    many = luck.choice((50, 98, 99, 100, 101, 1_000, 20_000))
    opens, closes = luck.choice(
        [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]"), (b'"', b'"'), (b'\\"', b""), (b"[1,", b"0]")]
    )
    core = opens * many + (b"1" if luck.random() < 0.5 else b"") + closes * luck.choice((many, 0, many - 1))
    where = luck.random()
    if where < 0.3:
        return core
    return message("TXN", zz="@").replace(b'"@"', core if where < 0.7 else b'"' + core + b'"')


def table(values: list[bytes]) -> pa.Table:
    """The values as messages of one partition."""
    size = len(values)
    columns = [[0] * size, list(range(size)), [NOW] * size, values]
    schema = decoding.MESSAGE_SCHEMA
    return pa.table([pa.array(c, schema.field(n).type) for n, c in enumerate(columns)], schema=schema)


def wrong_with(values: list[bytes]) -> tuple[int, list[tuple[int, str]]]:
    """The number of rows that the decoder makes of the messages, and what it does wrong, by position."""
    messages = table(values)
    begin = time.process_time()
    result = decoding.decode(messages, NOW)
    seconds = time.process_time() - begin
    exact, _ = decoding._one_by_one(messages, NOW + timedelta(hours=24))  # pyright: ignore[reportPrivateUsage]
    wrong: list[tuple[int, str]] = []
    if seconds > 1 + sum(map(len, values)) / 200_000:
        wrong.append((max(range(len(values)), key=lambda n: len(values[n])), f"{seconds:.0f} s for a batch"))
    offsets = [offset for one in [*result.rows.values(), result.rejects] for offset in one["kafka_offset"].to_pylist()]
    if sorted(offsets) != list(range(len(values))):
        wrong.append((0, "not every message is there exactly once"))
    for event_type in EVENT_TYPES:
        rows = [found.get(event_type.ledger) for found in (result.rows, exact)]
        by_offset = [{row["kafka_offset"]: row for row in one.to_pylist()} if one else {} for one in rows]
        for offset in by_offset[0].keys() | by_offset[1].keys():
            if by_offset[0].get(offset) != by_offset[1].get(offset):
                wrong.append((offset, f"{by_offset[0].get(offset)} in bulk, alone {by_offset[1].get(offset)}"))
    stored = set(pc.drop_null(result.rows["fact_transaction_ledger"]["kafka_offset"]).to_pylist())
    wrong += [
        (n, "a neighbour is not stored") for n, value in enumerate(values) if value == NEIGHBOUR and n not in stored
    ]
    return sum(one.num_rows for one in result.rows.values()), wrong


def _child(connection: Connection) -> None:
    while True:
        connection.send(wrong_with(connection.recv()))


def fuzz(cpu_seconds: float, seed: int, keep: Path, report: Callable[[Run], None]) -> Run:
    """Try messages until the child has used so much CPU time. A batch that kills or hangs the child is halved."""
    luck, run = random.Random(seed), Run()
    keep.mkdir(parents=True, exist_ok=True)
    child = _Child()

    def note(value: bytes, what: str) -> None:
        file = keep / f"{seed}-{len(run.found)}.bin"
        file.write_bytes(value)
        run.found.append(f"{file}: {what}")

    while child.cpu_seconds() < cpu_seconds:
        values = [mutated(luck) if luck.random() < 0.9 else NEIGHBOUR for _ in range(BATCH - 1)] + [NEIGHBOUR]
        waiting = [values]
        while waiting:
            batch = waiting.pop()
            answer = child.ask(batch)
            if answer is not None:
                stored, wrong = answer
                run.stored += stored
                for at, what in wrong:
                    note(batch[at], what)
            elif len(batch) > 1:
                waiting += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
            else:
                note(batch[0], "the decoder died on it, failed on it or hangs")
        run.messages += len(values)
        report(run)
    child.kill()
    return run


class _Child:
    """The process that decodes; it is made anew when it has died."""

    def __init__(self) -> None:
        self._used = 0.0
        self._start()

    def _start(self) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_child, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, values: list[bytes]) -> tuple[int, list[tuple[int, str]]] | None:
        """What is wrong with a batch; None if the process died or did not answer in time."""
        try:
            self._ours.send(values)
            if self._ours.poll(PATIENCE_SECONDS):
                return self._ours.recv()
        except (EOFError, OSError):
            pass
        self.kill()
        self._start()
        return None

    def cpu_seconds(self) -> float:
        """The CPU time of all its lives."""
        return self._used + _cpu_seconds(self._process.pid)

    def kill(self) -> None:
        self._used += _cpu_seconds(self._process.pid)
        self._process.kill()
        self._process.join()


def _cpu_seconds(pid: int | None) -> float:
    """The CPU time that a process has used so far, user and system (Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Fuzz for as many minutes of CPU as asked; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="CPU time of the decoding process")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"), help="folder for the inputs that do harm")
    options = parser.parse_args()

    def report(run: Run) -> None:
        if run.messages % (50 * BATCH) == 0:
            _say(f"{run.messages:,} messages, {run.stored:,} rows, {len(run.found)} found")

    run = fuzz(options.minutes * 60, options.seed, options.keep, report)
    for line in run.found:
        _say(line[:500])
    _say(
        f"seed {options.seed}, {options.minutes:g} CPU minutes: {run.messages:,} messages became {run.stored:,} rows and"
        f" {run.messages - run.stored:,} rejects; {len(run.found)} found"
    )
    return 1 if run.found else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
