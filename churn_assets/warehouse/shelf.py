"""What is kept beside a warehouse, so that it is there where the warehouse goes back, and who may use it now.

Here belongs where that is: a folder of this machine, or of all hosts of a shared lake. What is kept is the business of those
who keep it.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from churn_assets.folder import Folder, Lines
from churn_assets.warehouse.turns import Turns, TurnsHere

RESTORED = "restored.json"  # a file that says that the warehouse was restored, until that is recorded in it


@dataclass(frozen=True)
class Shelf:
    """A folder of lines, and turns among all processes that use it."""

    folder: Folder
    turns: Turns

    @classmethod
    def here(cls, folder: Path) -> "Shelf":
        """A folder of this machine."""
        return cls(Folder(folder), TurnsHere(folder))

    def lines(self, name: str) -> Lines:
        """Lines by their name."""
        return self.folder.lines(name)

    def turn(self, name: str, taken: Exception | None = None) -> AbstractContextManager[None]:
        """Have the turn of a name. Waits while others have it; with `taken`, raises that exception at once instead."""
        return self.turns.turn(name, taken)
