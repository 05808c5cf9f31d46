"""Send alerts on to people by Apprise: Slack, Teams, email, PagerDuty, webhooks and a hundred others (CHURN_ALERTS).

Here belongs the way from CHURN_HOME/alerts.jsonl to the destinations. How far each destination has been told is a `Position`,
which the caller keeps. It moves after a message has arrived, so what is interrupted in between is sent again: an alert may
come twice, and none is lost, unless a destination is down for so long that the file is rotated twice meanwhile (10 MB).

Destinations hold keys. They are named by their number and kind, in errors as well, and Apprise's own log is not shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from churn_assets.operations.alerts import Alert, older, read
from churn_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from apprise import Apprise

MESSAGES_PER_TURN = 20  # to each destination, so that a turn stays short
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 30.0, 900.0
# Its log names addresses, and in debug mode prints them with their keys.
logging.getLogger("apprise").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Position:
    """How far a destination has been told: up to `offset` of the file with the number `inode`. Times are UTC, ISO 8601."""

    inode: int
    offset: int
    failures: int = 0
    retry_at: str = ""


def destinations_of(settings: Settings) -> list[Apprise]:
    """The destinations of CHURN_ALERTS in order; `SettingsError` names the one that Apprise does not know, by its number."""
    if settings.alerts is None:
        return []
    # It takes half a second to import, which only those should pay who have a destination.
    from apprise import Apprise  # noqa: PLC0415
    from apprise.utils.parse import parse_urls  # noqa: PLC0415

    found: list[Apprise] = []
    for number, address in enumerate(parse_urls(settings.alerts.get_secret_value()), 1):
        destination = Apprise()
        if not destination.add(address):
            raise SettingsError(
                f"wrong setting: CHURN_ALERTS: Apprise cannot use the address number {number}; see"
                " https://github.com/caronc/apprise/wiki for its form"
            )
        found.append(destination)
    if not found:
        raise SettingsError(
            "wrong setting: CHURN_ALERTS: must be addresses such as slack://TokenA/TokenB/TokenC, comma-separated"
        )
    return found


def deliver(settings: Settings, positions: Sequence[Position], now: datetime) -> tuple[list[Position], list[str]]:
    """Tell each destination what it has not been told; returns the new positions, and a line for each that did not take it.

    A destination without a position is told from now on. One that fails is tried again later, after pauses that grow to
    fifteen minutes. Never raises for a destination; `SettingsError` if CHURN_ALERTS is wrong. `now` is UTC.
    """
    destinations = destinations_of(settings)
    known = [*positions, *[_end(settings)] * (len(destinations) - len(positions))][: len(destinations)]
    if not destinations:
        return [], []
    with ThreadPoolExecutor(len(destinations)) as threads:  # one that hangs does not hold up the others
        told = list(threads.map(lambda one, position: _tell(settings, one, position, now), destinations, known))
    problems = [
        f"destination {number} of CHURN_ALERTS ({destination[0].service_name}) did not take an alert, for"
        f" the {position.failures}. time; next try at {position.retry_at} UTC"
        for number, (destination, position) in enumerate(zip(destinations, told, strict=True), 1)
        if position.failures
    ]
    return told, problems


def _tell(settings: Settings, destination: Apprise, position: Position, now: datetime) -> Position:
    if position.retry_at > now.isoformat():
        return position
    for told, (alert, after) in enumerate(_after(settings, position)):
        if told == MESSAGES_PER_TURN:
            break
        if alert is not None and alert.state != "goes on" and not _took(destination, alert):
            failures = position.failures + 1
            pause = min(_LONGEST_RETRY_SECONDS, _RETRY_SECONDS * 2 ** min(failures - 1, 10))
            retry_at = (now + timedelta(seconds=pause)).isoformat(timespec="seconds")
            return replace(position, failures=failures, retry_at=retry_at)
        position = after
    return replace(position, failures=0, retry_at="")


def _took(destination: Apprise, alert: Alert) -> bool:
    kinds = {"error": "failure", "warning": "warning", "info": "success"}
    title = {"begins": "churn: it fails", "is over": "churn: it is over"}[alert.state]
    body = f"{alert.message}\n{alert.when} UTC {alert.link}"
    # It catches whatever a destination raises.
    return bool(destination.notify(body=body, title=title, notify_type=kinds[alert.severity]))


def _end(settings: Settings) -> Position:
    """The end of the file as it is: what was before a destination was named is not told."""
    found = _stat(settings.alerts_file)
    return Position(found.st_ino, found.st_size) if found else Position(0, 0)


def _after(settings: Settings, position: Position) -> Generator[tuple[Alert | None, Position]]:
    """The alerts after a position, each with the position behind it, across a rotation."""
    old, new = older(settings), settings.alerts_file
    start = position.offset
    if (found := _stat(old)) and found.st_ino == position.inode:
        yield from _lines(old, found.st_ino, start)
        start = 0
    found = _stat(new)
    if found is None:
        return
    # A file of another number was made after the one that was read, so all of it is new.
    yield from _lines(new, found.st_ino, start if found.st_ino == position.inode else 0)


def _lines(file: Path, inode: int, start: int) -> Generator[tuple[Alert | None, Position]]:
    with file.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            if line.endswith(b"\n"):  # half a line is still being written
                start += len(line)
                yield read(line), Position(inode, start)


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None
