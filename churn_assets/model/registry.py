"""The trained models, which of them serves, and every change of their status.

A model is the challenger after its training, the champion while it serves, and archived when another has replaced it or was
trained after it. The predictions read the champion's row in `churn_champion`. A change of that row is a change of their
source, so they are recomputed as after any other change.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, Literal

from churn_assets.errors import ChurnError
from churn_assets.model import artefact
from churn_assets.model.by_digest import servable
from churn_assets.model.gate import Gate
from churn_assets.model.scoring import Model
from churn_assets.model.training import last_tested
from churn_assets.warehouse.protocol import Statements, Transaction, Warehouse
from churn_assets.warehouse.values import one_row

Status = Literal["challenger", "champion", "archived"]
SERVES = "churn"
CHAMPION = "SELECT version, artefact FROM churn_champion WHERE serves = ?"  # SERVES
_BY_TRAINING = "training"


class RegistryError(ChurnError):
    """There is no such model, or its status may not change so; the message says what to do instead."""


@dataclass(frozen=True)
class Version:
    """One trained model. Times are UTC."""

    version: int
    status: Status
    artefact: str
    trained_at: datetime
    passed_gate: bool
    card: dict[str, Any]
    gate: dict[str, Any]
    changed_at: datetime
    changed_by: str
    reason: str

    @property
    def family(self) -> str:
        """What kind of model it is; version 0.2 trained forests only and did not say so."""
        return self.card.get("family", "forest")

    @property
    def latest_cut_off(self) -> date:
        """The last cut-off that it was trained or judged on."""
        return last_tested(self.card)


def register(warehouse: Warehouse, model: Model, gate: Gate, now: datetime) -> int:
    """Store a model as the challenger, which replaces the current one; returns its version. The file is written first."""
    content = artefact.dumps(model)
    name = artefact.digest(content)
    warehouse.store_model(artefact.file_name(name), content)
    return warehouse.transact(lambda tx: add(tx, name, model, gate, now))


def add(tx: Statements, name: str, model: Model, gate: Gate, now: datetime) -> int:
    """The part of `register` in the tables, for a model whose file is stored under the digest `name`; returns its version."""
    (newest,) = tx.rows("SELECT coalesce(max(version), 0) FROM churn_models")[0]
    version = newest + 1
    challengers = [found for (found,) in tx.rows("SELECT version FROM churn_models WHERE status = 'challenger'")]
    _move(tx, challengers, "archived", now, _BY_TRAINING, f"version {version} was trained")
    tx.execute(
        "INSERT INTO churn_models (version, status, artefact, trained_at, card, gate, passed_gate)"
        " VALUES (?, 'challenger', ?, ?, ?, ?, ?)",
        [version, name, now, json.dumps(model.card), json.dumps(asdict(gate)), gate.passed],
    )
    _log(tx, version, "challenger", now, _BY_TRAINING, f"{gate.not_worse.finding}; {gate.calibrated.finding}")
    return version


def promote(warehouse: Warehouse, version: int, now: datetime, by: str, reason: str, *, force: bool = False) -> None:
    """Let a version serve; the champion is archived. `RegistryError` if it failed the gate, unless `force`."""
    warehouse.transact(lambda tx: _promote(tx, version, now, by, reason, force=force))


def rollback(warehouse: Warehouse, now: datetime, by: str, reason: str) -> int:
    """Let the version serve that served before the champion was first promoted; returns that version."""

    def back(tx: Transaction) -> int:
        serving = [
            version
            for (version,) in tx.rows(
                "SELECT version FROM churn_model_log WHERE status = 'champion' ORDER BY changed_at"
            )
        ]
        earlier = serving[: serving.index(serving[-1])] if serving else []
        if not earlier:
            raise RegistryError("there is no champion before this one; see `churn model list`")
        _promote(tx, earlier[-1], now, by, reason, force=True)
        return earlier[-1]

    return warehouse.transact(back)


def versions(warehouse: Warehouse) -> list[Version]:
    """Every model, newest first."""
    rows = warehouse.query(
        "SELECT models.version, models.status, models.artefact, models.trained_at, models.passed_gate, models.card, models.gate,"
        " log.changed_at, log.changed_by, log.reason FROM churn_models AS models INNER JOIN ("
        "SELECT *, row_number() OVER (PARTITION BY version ORDER BY changed_at DESC NULLS LAST) AS place FROM churn_model_log"
        ") AS log ON models.version = log.version AND log.place = 1 ORDER BY models.version DESC NULLS LAST"
    ).to_pylist()
    return [Version(**{**row, "card": json.loads(row["card"]), "gate": json.loads(row["gate"])}) for row in rows]


def champion(warehouse: Warehouse) -> tuple[int, Model] | None:
    """The serving version and its model, or None if no model serves; `ArtefactError` if its file cannot be used."""
    found = warehouse.query(CHAMPION, [SERVES]).to_pylist()
    return (found[0]["version"], servable(warehouse.read_model, found[0]["artefact"])) if found else None


def serving_since(warehouse: Warehouse) -> datetime | None:
    """When the champion was promoted (UTC); None while no prediction comes from it."""
    return warehouse.query(
        "SELECT max(log.changed_at) AS promoted_at FROM churn_champion AS champion INNER JOIN churn_model_log AS log"
        " ON champion.version = log.version AND log.status = 'champion'"
        " WHERE champion.version IN (SELECT model_version FROM dyn_churn_predictions)"
    )["promoted_at"][0].as_py()


def _promote(tx: Statements, version: int, now: datetime, by: str, reason: str, *, force: bool) -> None:
    found = tx.rows("SELECT status, artefact, passed_gate, gate FROM churn_models WHERE version = ?", [version])
    if not found:
        raise RegistryError(f"there is no version {version}; see `churn model list`")
    status, name, passed, gate = found[0]
    if status == "champion":
        raise RegistryError(f"version {version} serves already")
    if not (passed or force):
        verdicts = json.loads(gate)
        failed = "; ".join(
            verdicts[rule]["finding"] for rule in ("not_worse", "calibrated") if not verdicts[rule]["passed"]
        )
        raise RegistryError(f"version {version} failed the gate: {failed}; --force promotes it anyway")
    serving = [other for (other,) in tx.rows("SELECT version FROM churn_models WHERE status = 'champion'")]
    _move(tx, serving, "archived", now, by, f"version {version} was promoted")
    _move(tx, [version], "champion", now, by, reason)
    tx.execute("DELETE FROM churn_champion WHERE serves = ?", [SERVES])
    tx.execute("INSERT INTO churn_champion (serves, version, artefact) VALUES (?, ?, ?)", [SERVES, version, name])


def _move(tx: Statements, which: Sequence[int], status: Status, now: datetime, by: str, reason: str) -> None:
    if not which:
        return
    tx.execute(f"UPDATE churn_models SET status = ? WHERE version IN ({one_row(which)})", [status, *which])
    for version in which:
        _log(tx, version, status, now, by, reason)


def _log(tx: Statements, version: int, status: Status, now: datetime, by: str, reason: str) -> None:
    tx.execute(
        "INSERT INTO churn_model_log (version, status, changed_at, changed_by, reason) VALUES (?, ?, ?, ?, ?)",
        [version, status, now, by, reason],
    )
