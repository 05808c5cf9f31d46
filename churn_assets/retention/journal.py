"""Answers that were paid for, kept beside the warehouse until it has stored their outcome.

If a run dies between a language model's answer and the commit that stores it, the next run finds the answer here and does not
pay again. Here belong the lines only; the warehouse decides which texts are still owed. One run at a time uses them
(`turn_to_write`).
"""

import json
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict
from threading import Lock

from churn_assets.retention.writing.writer import Answer
from churn_assets.warehouse.shelf import Shelf


def turn_to_write(shelf: Shelf) -> AbstractContextManager[None]:
    """Wait until no other run writes emails."""
    return shelf.turn("lock")


class AnswerJournal:
    """The lines `answers.ndjson` of a shelf: one answer a line, kept before it is used."""

    def __init__(self, shelf: Shelf) -> None:
        self._lines = shelf.lines("answers.ndjson")
        self._lock = Lock()

    def append(self, intervention_id: str, answer: Answer) -> None:
        """Keep one answer; it survives the process and the machine. Safe from several threads."""
        line = json.dumps({"intervention_id": intervention_id, **asdict(answer)})
        with self._lock:
            self._lines.append([line])

    def answers(self, owed: Collection[str]) -> dict[str, list[Answer]]:
        """The answers for these interventions, in the order in which they came. All others are deleted."""
        found: dict[str, list[Answer]] = {}

        def is_owed(line: str) -> bool:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                return False  # the last line, cut off by a loss of power
            intervention_id = entry.pop("intervention_id")
            if intervention_id not in owed:
                return False
            found.setdefault(intervention_id, []).append(Answer(**entry))
            return True

        self._lines.keep(is_owed)
        return found
