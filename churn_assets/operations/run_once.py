"""`churn run`: what Dagster's jobs do from waiting events to the queue, once and in order, without Dagster.

Here belong the order of the steps and what is said of each. A step is the function that the asset of the same name calls, so it
does what is missing and may be repeated or killed; another run, or Dagster, may be at work at the same time.
"""

from collections.abc import Callable
from datetime import datetime

from churn_assets.errors import ChurnError
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import ingest_waiting
from churn_assets.model import registry, training_set
from churn_assets.model.challenge import challenge, is_training_due
from churn_assets.operations.dbt import deployed_score_source, features_query, manifest_path
from churn_assets.operations.driver import who_drives_instead
from churn_assets.retention.queue import fill_queue, raise_alerts
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse


def run_once(
    settings: Settings,
    warehouse: Warehouse,
    by: str,
    clock: Callable[[], datetime],
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> None:
    """Store waiting events, refresh, label, train if it is due, score, and fill the queue.

    `by` says who promotes a model; `clock` gives UTC; `say` gets a line for each step that is done, `show` what is under way.
    Raises `ChurnError` where a step cannot be done; those before it stay done.
    """
    if not warehouse.dynamic_tables(clock()):
        raise ChurnError("no dynamic table is declared yet; run `churn deploy`")
    if settings.kafka_bootstrap_servers or kafka.is_running(settings.broker_file):
        show("storing what waits in Kafka")
        stored = ingest_waiting(settings, warehouse, on_gap=settings.on_gap, clock=clock, report=show)
        say(
            f"Kafka: {stored.messages:,} messages, {stored.rows.total():,} stored, {stored.duplicates.total():,} known already,"
            f" {stored.rejected.total():,} rejected"
        )
    show("refreshing features and scores")
    say(_refresh(warehouse, clock()))
    show("making the training set")
    query, dialect = features_query(manifest_path(settings))
    found = training_set.extend(warehouse, query, clock(), show, dialect)
    cut_offs = len(training_set.leavers_by_cut_off(warehouse))
    say(
        f"labels: {cut_offs} cut-offs, {found.added:,} rows added, {found.corrected:,} corrected"
        if cut_offs
        else f"labels: none; {training_set.why_empty(warehouse, clock())}"
    )
    show("training")
    is_new, said = _train(warehouse, by, clock, show)
    say(said)
    if is_new:
        show("scoring with the new model")
        say(_refresh(warehouse, clock()))
    if registry.champion(warehouse) and deployed_score_source(settings) != "model":
        say("the rules make the risk class; for the model's, set CHURN_SCORE_SOURCE=model and run `churn deploy`")
    if problem := who_drives_instead(settings, warehouse):
        say(f"queue: not filled; {problem}")
    else:
        joined = warehouse.transact(lambda tx: fill_queue(tx, clock()))
        alerts = warehouse.transact(lambda tx: raise_alerts(tx, clock()))
        say(f"queue: {joined:,} customers joined it, {alerts:,} alerts")


def _refresh(warehouse: Warehouse, now: datetime) -> str:
    refreshes = warehouse.refresh([table.name for table in warehouse.dynamic_tables(now)], now)
    changed = {each.name: each.rows_inserted + each.rows_updated + each.rows_deleted for each in refreshes}
    return f"refresh: {', '.join(f'{name} {rows:,} rows changed' for name, rows in changed.items() if rows) or 'no change'}"


def _train(
    warehouse: Warehouse, by: str, clock: Callable[[], datetime], show: Callable[[str], None]
) -> tuple[bool, str]:
    """Train a challenger if one is due and let it serve if it passes; whether another model serves now, and what to say."""
    is_due, why = is_training_due(warehouse, [], clock())
    if not is_due:
        waiting = [one for one in registry.versions(warehouse) if one.status == "challenger" and one.passed_gate]
        if not waiting:
            return False, f"model: not trained; {why}"
        # A run was ended after it had trained, and a second training would not be due for a week.
        registry.promote(warehouse, waiting[0].version, clock(), by, "passed the gate")
        return True, f"model: version {waiting[0].version}, trained by a run that did not end; it serves"
    found = challenge(training_set.read(warehouse), lambda: registry.champion(warehouse), show)
    version = registry.register(warehouse, found.trained.model, found.gate, clock())
    auc = found.trained.evaluations["model"].roc_auc.value
    said = f"model: version {version}, ROC AUC {auc:.3f}"
    if not found.gate.passed:
        failed = [one.finding for one in (found.gate.not_worse, found.gate.calibrated) if not one.passed]
        return False, f"{said}; it stays a challenger: {'; '.join(failed)}"
    registry.promote(warehouse, version, clock(), by, "passed the gate")
    return True, f"{said}; it serves"
