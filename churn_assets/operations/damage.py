"""Damaged files of the warehouse and of models, each with the way out.

Here belongs what a file means and what it can be made from again. How damage is found is the warehouse's affair.
"""

from dataclasses import dataclass
from datetime import datetime

from churn_assets.clock import utc_now
from churn_assets.errors import ModelFileError
from churn_assets.ingestion.events import LEDGERS
from churn_assets.model import artefact
from churn_assets.warehouse.protocol import Damage, FileCheck, Warehouse

_SHOWN = 3  # files named in one sentence


@dataclass(frozen=True)
class Found:
    """A damaged file, what is wrong with it, and what to do."""

    file: str
    table: str
    problem: str
    way_out: str

    @property
    def in_words(self) -> str:
        """The finding in one sentence."""
        return f"{self.file}{f' of {self.table}' if self.table else ''} {self.problem}; {self.way_out}"


@dataclass(frozen=True)
class Checked:
    """What a check of contents read, and all damage that is known after it. `new`: files read for the first time."""

    files: int
    read: int
    new: int
    bytes_read: int
    damage: list[Found]


def damage(warehouse: Warehouse) -> list[Found]:
    """All damage that is known: by the sizes of files, by the last check of their contents, and of the models' files."""
    return _explained(warehouse, warehouse.damage())


def check(warehouse: Warehouse, share: float, now: datetime) -> Checked:
    """Compare the contents of a `share` of the files with what they were; `now` is UTC."""
    done: FileCheck = warehouse.check_files(share, now)
    return Checked(done.files, done.read, done.new, done.bytes_read, _explained(warehouse, done.damage))


def in_words(found: list[Found]) -> str:
    """All damage in one sentence, the first files by name."""
    more = f"; and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return "; ".join(one.in_words for one in found[:_SHOWN]) + more


def _explained(warehouse: Warehouse, of_files: list[Damage]) -> list[Found]:
    damaged = {one.table for one in of_files}
    # What is damaged itself cannot be asked.
    derived = set[str]()
    if damaged and not damaged & {"dynamic_tables", "streams"}:
        # A stream would take every row of a new table for news, so its table cannot be computed anew.
        streamed = set(warehouse.query("SELECT table_name FROM streams")["table_name"].to_pylist())
        derived = {table.name for table in warehouse.dynamic_tables(utc_now())} - streamed
    derived &= damaged
    return [
        *(Found(one.file, one.table, one.problem, _way_out(one.table, one.file, derived)) for one in of_files),
        *([] if "churn_models" in damaged else _models(warehouse)),
    ]


def _way_out(table: str, file: str, derived: set[str]) -> str:
    if file == "checksums.sqlite":
        return "delete it, and the next check makes it anew"
    if table in derived:
        return f"restore a backup, or run `churn rebuild {' '.join(sorted(derived))}`, which computes it anew from the ledgers"
    if table in LEDGERS:
        return "restore a backup, or let a new CHURN_HOME read everything again, if Kafka still has it"
    return "restore a backup (docs/backup.md)"


def _models(warehouse: Warehouse) -> list[Found]:
    names = warehouse.query("SELECT DISTINCT artefact FROM churn_models ORDER BY artefact")["artefact"].to_pylist()
    return [
        Found(artefact.file_name(name), "churn_models", problem, "restore it, or run `churn model rollback`")
        for name in names
        if (problem := _of_model(warehouse, name))
    ]


def _of_model(warehouse: Warehouse, name: str) -> str | None:
    try:
        content = warehouse.read_model(artefact.file_name(name))
    except ModelFileError:
        return "is missing or cannot be read"
    return None if artefact.digest(content) == name else "has another content than what was stored"
