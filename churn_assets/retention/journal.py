"""Answers that were paid for, kept on this machine until the warehouse has stored their outcome.

If a run dies between a language model's answer and the commit that stores it, the next run finds the answer here and does not
pay again. Here belongs the file only; the warehouse decides which texts are still owed. One run at a time uses the file
(`turn_to_write`).
"""

import json
import os
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from churn_assets.retention.writing.writer import Answer
from churn_assets.warehouse.turns import turn


def turn_to_write(folder: Path) -> AbstractContextManager[None]:
    """Wait until no other run of this machine writes emails."""
    return turn(folder / "lock")


class AnswerJournal:
    """The file `answers.ndjson` in a folder: one answer a line, appended and synced before it is used."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "answers.ndjson"
        self._lock = Lock()

    def append(self, intervention_id: str, answer: Answer) -> None:
        """Keep one answer; it survives the process and the machine. Safe from several threads."""
        line = json.dumps({"intervention_id": intervention_id, **asdict(answer)}) + "\n"
        with self._lock, self._file.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def answers(self, owed: Collection[str]) -> dict[str, list[Answer]]:
        """The answers for these interventions, in the order in which they came. All others are deleted from the file."""
        found: dict[str, list[Answer]] = {}
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        kept: list[str] = []
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line, cut off by a loss of power
            intervention_id = entry.pop("intervention_id")
            if intervention_id in owed:
                kept.append(line)
                found.setdefault(intervention_id, []).append(Answer(**entry))
        if len(kept) < len(lines):
            fresh = self._file.with_suffix(".new")
            fresh.write_text("".join(f"{line}\n" for line in kept))
            fresh.replace(self._file)
        return found
