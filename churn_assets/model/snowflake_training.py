"""The code of Snowflake's procedure TRAIN_CHURN_MODEL: one training from end to end, on Snowflake's tables and stage.

It was written from the documentation and has not run in a live account. Training, judging and registering are the same
functions as for the lake. `snowflake_functions` registers the procedure and lists the available packages.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date, datetime
from io import BytesIO
from typing import Any, Protocol, TypeVar

import pandas as pd
from snowflake.snowpark import Session
from snowflake.snowpark.functions import col

from churn_assets.clock import utc_now
from churn_assets.model import artefact, registry
from churn_assets.model.challenge import challenge
from churn_assets.model.scoring import Model
from churn_assets.model.snowflake_scoring import staged_model
from churn_assets.rules import FEATURES, TRAINING_WEEKS
from churn_assets.warehouse.protocol import Statements

STAGE = "@churn_models"  # a procedure with owner's rights finds it, and the tables, in its own schema
T = TypeVar("T")


class Tables(Protocol):
    """Gives access to the registry's tables."""

    def transact(self, work: Callable[[Statements], T], /) -> T:
        """Run `work` in one transaction."""
        ...


def train_churn_model(session: Session) -> str:
    """The handler of TRAIN_CHURN_MODEL: train a challenger, judge it and store it; returns the findings as JSON."""
    return json.dumps(train_and_keep(session, SnowparkTables(session), utc_now()))


def train_and_keep(session: Session, tables: Tables, now: datetime) -> dict[str, Any]:
    """Train a challenger at `now` (UTC) and store it; returns its version, the verdicts, the measures and the reports."""
    said: list[str] = []
    found = challenge(training_rows(session), lambda: _champion(tables), said.append)
    content = artefact.dumps(found.trained.model)
    name = artefact.digest(content)
    session.file.put_stream(BytesIO(content), f"{STAGE}/{artefact.file_name(name)}", auto_compress=False)
    version = tables.transact(lambda tx: registry.add(tx, name, found.trained.model, found.gate, now))
    return {
        "version": version,
        "artefact": name,
        "passed_gate": found.gate.passed,
        "gate": asdict(found.gate),
        "evaluations": found.trained.model.card["evaluations"],
        "said": said,
    }


def training_rows(session: Session) -> pd.DataFrame:
    """The rows of the latest TRAINING_WEEKS cut-offs, as `train` takes them."""
    rows = session.table("churn_training_set")
    cut_offs = sorted(cut_off for (cut_off,) in rows.select("cut_off").distinct().collect())
    since = next(iter(cut_offs[-TRAINING_WEEKS:]), date.max)
    found = rows.filter(col("cut_off") >= since).select("customer_id", "cut_off", *FEATURES, "has_left").to_pandas()
    return found.rename(columns=str.lower)


class SnowparkTables:
    """The tables of a session's schema; implements `Tables` and `Statements`.

    A transaction waits for the locks of others, so nothing is retried. But two trainings at once could take the same version,
    because Snowflake reads what was committed and enforces no key. This cannot happen: only one task calls the procedure,
    and a task does not overlap with itself.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def transact(self, work: Callable[[Statements], T], /) -> T:
        """See `Tables`."""
        self._session.begin_transaction()
        try:
            result = work(self)
        except BaseException:
            self._session.rollback()
            raise
        self._session.commit()
        return result

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """See `Statements`."""
        return self.rows(sql, parameters)[0][0]

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See `Statements`."""
        return [tuple(row) for row in self._session.sql(sql, list(parameters)).collect()]


def _champion(tables: Tables) -> tuple[int, Model] | None:
    found = tables.transact(lambda tx: tx.rows(registry.CHAMPION, [registry.SERVES]))
    return (found[0][0], staged_model(STAGE, found[0][1])) if found else None
