"""Which processes of a home are running, and with which settings, so that the doctor finds those that differ.

A process that goes on for long announces itself by a file in CHURN_HOME/processes, whose lock it holds until it ends: the
kernel gives the lock back however it ended. The file has no secret, not even its hash. Commands that end soon do not announce
themselves.
"""

import fcntl
import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from churn_assets.configuration import rules
from churn_assets.settings import SECRETS, Settings

# What depends on how a process was started, and not on who set it: `churn demo` sets the last two for its processes.
_MAY_DIFFER = {"CHURN_HOME", "CHURN_CONFIG", "CHURN_REFRESH", "CHURN_DASHBOARD_URL"}
RULES = "churn.toml"
_announced: dict[Path, TextIO] = {}  # the lock is held as long as the file is open


@dataclass(frozen=True)
class Running:
    """A process that runs now: what it is, since when (UTC, ISO 8601), and its settings by their variables."""

    name: str
    since: str
    settings: dict[str, str]


def announce(settings: Settings, name: str, now: datetime) -> None:
    """Say that this process runs as `name`, once. `now` is UTC.

    A home that cannot be written to is told by whoever has to write; who only reads goes on.
    """
    file = _folder(settings) / f"{name.replace(' ', '_')}-{socket.gethostname()}-{os.getpid()}.json"
    if file in _announced:
        return
    running(settings)  # deletes what others left behind
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("w", encoding="utf-8")
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump({"name": name, "since": now.isoformat(timespec="seconds"), "settings": shown(settings)}, opened)
        opened.flush()
        _announced[file] = opened


def running(settings: Settings) -> list[Running]:
    """The processes that run now, in order. Files that others left behind are deleted."""
    found: list[Running] = []
    for file in sorted(_folder(settings).glob("*.json")):
        with suppress(FileNotFoundError), file.open(encoding="utf-8") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with suppress(ValueError):  # it is just being written
                    found.append(Running(**json.load(opened)))
            else:
                file.unlink()
    return found


def shown(settings: Settings) -> dict[str, str]:
    """The settings by their variables, without secrets, and all rules under one name."""
    fields = {field.alias: getattr(settings, name) for name, field in Settings.model_fields.items() if field.alias}
    return {
        **{name: str(value) for name, value in sorted(fields.items()) if name not in SECRETS},
        RULES: rules().model_dump_json(),
    }


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The variables whose values differ, but for those that depend on how a process was started."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in _MAY_DIFFER and one.get(name) != other.get(name)
    ]


def _folder(settings: Settings) -> Path:
    return settings.home.absolute() / "processes"
