"""The run that lives on: with CHURN_REFRESH=eager it takes batch after batch from Kafka to the retention queue.

Here belongs what such a run does with a batch, what it records of it, and when it ends. Each batch is what the runs of
`ingest_events` and `refresh_dynamic_tables` do: a transaction for the ledgers, and one for the dynamic tables, their tests and,
if these pass, the streams. When a run is requested is in `ingestion`.
"""

import json
import math
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic, time
from typing import Any

import dagster as dg
import pydantic

from churn_assets.assets import ledgers, pools
from churn_assets.assets.driver import must_drive
from churn_assets.assets.dynamic_tables import check_results, count_failing, data_tests, lag_check, numbers_of
from churn_assets.assets.interventions import ALERTS
from churn_assets.assets.readable import rounded
from churn_assets.automation.gates import blocked
from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.tables import Refresh
from churn_assets.ingestion import kafka
from churn_assets.ingestion.commit import Stored
from churn_assets.ingestion.following import Following
from churn_assets.operations.dbt import manifest_path
from churn_assets.retention.queue import STREAM, fill_queue, raise_alerts
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Transaction, Warehouse, row_count, row_counts
from dagster_warm.worker import should_end

_POLL_SECONDS = 1.0  # for which a batch waits for its first message
# Between two reports to Dagster, after the first; the batches in between are summed. A report is some 50 kB in Dagster's log.
_REPORT_SECONDS = 30.0
_REPEAT_SECONDS = 60.0  # after which a report says again what has not changed: a check that passes, a table at rest
_LOOK_SECONDS = 5.0  # between two looks at Dagster, and at what others wrote to the warehouse
_BEAT_SECONDS = 60.0  # twice the time between two signs of life of Dagster's daemon
_STREAMS_SECONDS = (
    60.0  # after which the streams are moved though their tables did not change: some rules wait for a time
)
_BLOCKING = {key.name for key in ledgers.BLOCKING_INGEST_CHECKS}
_READ_BY_STREAMS = {"dyn_churn_predictions", "churn_metrics_live"}


class StreamConfig(dg.Config):
    """How long a run goes on."""

    quiet_seconds: float = pydantic.Field(60.0, ge=0, description="The run ends when nothing has come for so long.")
    most_seconds: float = pydantic.Field(900.0, ge=0, description="It ends after so long in any case.")
    isolated: bool = pydantic.Field(
        False, description="Decode what waits in a child process, which finds a message on which the decoder dies."
    )


@dataclass
class _Report:
    """What the batches since the last report have done."""

    began_at: datetime = field(default_factory=utc_now)
    stored: Stored = field(default_factory=Stored)
    seconds: float = 0.0  # of ingestion
    refreshes: dict[str, Refresh] = field(default_factory=dict[str, Refresh])
    found: dict[tuple[str, str], dg.AssetCheckResult] = field(
        default_factory=dict[tuple[str, str], dg.AssetCheckResult]
    )
    joined: int = 0  # the queue
    alerts: int = 0
    batches: int = 0


@dataclass(frozen=True)
class _Refreshed:
    """What a refresh has done, the rows that break the tests of each table that was tested, and what joined the queue."""

    results: list[Refresh]
    failing: dict[str, list[int]]
    streams: tuple[int, int] | None  # customers and alerts, if the streams were moved


class _Run:
    """One run of `stream_events`."""

    def __init__(
        self, context: dg.OpExecutionContext, config: StreamConfig, warehouse: Warehouse, settings: Settings
    ) -> None:
        self._context, self._config, self._warehouse, self._settings = context, config, warehouse, settings
        manifest = json.loads(manifest_path(settings).read_text())
        self._tables = [table.name for table in warehouse.dynamic_tables(utc_now())]
        self._tests = {name: data_tests(manifest, name) for name in self._tables}
        self._report = _Report()
        self._looked = self._looked_outside = monotonic()
        self._reported = self._moved = -math.inf
        self._tested: set[str] = set()  # tables
        self._said: dict[tuple[str, ...], tuple[Any, float]] = {}  # by asset, or by asset and check, and when
        self._version: object | None = None

    def go_on(self, following: Following) -> str:
        """Take batches until the run has to end; returns why. Raises `dg.Failure` where a blocking check fails."""
        began = last = monotonic()
        while True:
            started = monotonic()
            stored = following.next_batch(min(_POLL_SECONDS, self._config.quiet_seconds))
            now = monotonic()
            has_come = bool(stored.ranges or stored.skipped)
            if has_come:
                last = now
                self._note(stored, now - started)
            if any(lag.is_blocked(self._settings.on_gap) for lag in following.standing):
                self._stop_if(self.tell(following, about_gaps=True))
            if has_come or self._is_due_without_messages():
                self._refresh()
            if now - self._reported >= _REPORT_SECONDS:
                self._stop_if(self.tell(following))
            if now - last >= self._config.quiet_seconds:
                return f"nothing has come for {self._config.quiet_seconds:g} s"
            if now - began >= self._config.most_seconds:
                return f"it has run for {self._config.most_seconds:g} s"
            if should_end():
                return "Dagster's daemon has ended"
            if now - self._looked >= _LOOK_SECONDS:
                self._looked = now
                if why := self._why_to_end():
                    return why

    def _stop_if(self, failed: list[str]) -> None:
        if failed:
            raise dg.Failure(f"stopped by failed checks: {', '.join(failed)}")

    def _note(self, stored: Stored, seconds: float) -> None:
        report = self._report
        report.stored.add(stored)
        report.seconds += seconds
        report.batches += 1
        if stored.accounted != stored.messages:
            raise dg.Failure(
                f"of {stored.messages} messages only {stored.accounted} are accounted for: {stored.ranges}"
            )

    def _refresh(self) -> None:
        """Refresh what is late, check it, and move the streams unless a check has failed."""
        report, now = self._report, utc_now()
        must_drive(self._settings, self._warehouse)
        done = self._warehouse.refresh_and(
            self._tables, now, lambda tx, results: self._check_and_move(tx, results, now)
        )
        for each in done.results:
            report.refreshes[each.name] = _together(report.refreshes.get(each.name), each)
        for name, counts in done.failing.items():
            self._tested.add(name)
            for check in check_results(self._warehouse, dg.AssetKey(name), self._tests[name], counts):
                report.found[name, str(check.check_name)] = check
        self._stop_if([f"{name} of {table}" for (table, name), check in report.found.items() if not check.passed])
        if done.streams is not None:
            joined, alerts = done.streams
            report.joined += joined
            report.alerts += alerts
            self._moved = monotonic()
        self._version = self._warehouse.version()

    def _check_and_move(self, tx: Transaction, results: list[Refresh], now: datetime) -> _Refreshed:
        changed = {each.name for each in results if each.rows_inserted or each.rows_updated or each.rows_deleted}
        # A test that failed in the run before holds until it passes, whether or not the table has changed since.
        tested = [each.name for each in results if each.name in changed or each.name not in self._tested]
        counts = iter(count_failing(tx, [test for name in tested for test in self._tests[name]]))
        failing = {name: [next(counts) for _ in self._tests[name]] for name in tested}
        must_move = changed & _READ_BY_STREAMS or monotonic() >= self._moved + _STREAMS_SECONDS
        if any(map(any, failing.values())) or not must_move:
            return _Refreshed(results, failing, None)
        return _Refreshed(results, failing, (fill_queue(tx, now), raise_alerts(tx, now)))

    def _is_due_without_messages(self) -> bool:
        """Whether a table is late because of another writer, or because time has passed."""
        now, version = monotonic(), self._warehouse.version()
        has_changed = version is not None and version != self._version
        if not has_changed and now - self._looked_outside < _LOOK_SECONDS:
            return False
        self._looked_outside, self._version = now, version
        return any(table.lag_seconds > 0 for table in self._warehouse.dynamic_tables(utc_now()))

    def _why_to_end(self) -> str | None:
        instance = self._context.instance
        if skip := blocked(instance):
            return skip.skip_message
        # Where the run is no fork of the daemon's, as in containers, its beats tell.
        beats = [one.last_heartbeat.timestamp for one in instance.get_daemon_statuses().values() if one.last_heartbeat]
        if beats and time() > max(beats) + _BEAT_SECONDS:
            return "Dagster's daemon has given no sign of life for a minute"
        for waiting in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            used = waiting.run_op_concurrency.all_pools if waiting.run_op_concurrency else None
            if pools.INGESTION in (used or ()):
                return f"a run of {waiting.job_name} waits for its turn"
        return None

    def tell(self, following: Following, *, about_gaps: bool = False) -> list[str]:
        """Record what no report has told yet, if anything; returns the blocking checks of the ledgers that failed."""
        report, failed = self._report, list[str]()
        if not (report.batches or report.refreshes or about_gaps):
            return failed
        self._report, self._reported = _Report(), monotonic()
        if report.stored.ranges or report.stored.skipped or about_gaps:
            for result in ledgers.materializations(self._warehouse, report.stored, report.seconds):
                self._record(result)
            for observation in ledgers.observations(following.standing, report.stored.ranges, report.seconds):
                self._context.log_event(observation)
            for check in ledgers.checks(self._warehouse, report.stored, report.seconds, report.began_at):
                self._evaluate(check)
                if not check.passed and check.check_name in _BLOCKING:
                    failed.append(str(check.check_name))
        self._tell_of_tables(report)
        for stream, table, metadata in (
            (STREAM, "retention_queue", {"joined_the_queue": report.joined}),
            (ALERTS, ALERTS, {"alerts": report.alerts}),
        ):
            if any(metadata.values()) or self._is_news((stream,), None):
                metadata["dagster/row_count"] = row_count(self._warehouse, table)
                self._record(dg.MaterializeResult(asset_key=stream, metadata=metadata))
        return failed

    def _tell_of_tables(self, report: _Report) -> None:
        tables = {table.name: table for table in self._warehouse.dynamic_tables(utc_now())}
        told = [
            each for each in report.refreshes.values() if each.action != "NO_DATA" or self._is_news((each.name,), None)
        ]
        counts = row_counts(self._warehouse, [each.name for each in told])
        for each in told:
            lag = rounded({"lag_seconds": tables[each.name].lag_seconds})
            more = {"batches": report.batches, "dagster/row_count": counts[each.name]}
            self._record(dg.MaterializeResult(asset_key=each.name, metadata={**numbers_of(each), **lag, **more}))
            self._evaluate(lag_check(dg.AssetKey(each.name), each, tables[each.name]))
        for check in report.found.values():
            self._evaluate(check)

    def _is_news(self, key: tuple[str, ...], what: Any) -> bool:
        """Whether the run has not said so yet, or not for a while; after the call it has."""
        before, at = self._said.get(key, (None, -math.inf))
        if before == what and monotonic() < at + _REPEAT_SECONDS:
            return False
        self._said[key] = what, monotonic()
        return True

    def _record(self, result: dg.MaterializeResult[Any]) -> None:
        assert result.asset_key is not None
        self._context.log_event(dg.AssetMaterialization(result.asset_key, metadata=result.metadata))

    def _evaluate(self, result: dg.AssetCheckResult) -> None:
        assert result.asset_key is not None
        assert result.check_name is not None
        if not self._is_news((result.asset_key.to_user_string(), result.check_name), result.passed):
            return
        self._context.log_event(  # its type leaves out evaluations, which it takes
            dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
            )  # pyright: ignore[reportArgumentType]
        )


def _together(before: Refresh | None, latest: Refresh) -> Refresh:
    """Two refreshes of a table as one."""
    if before is None:
        return latest
    did = latest if latest.action != "NO_DATA" else before
    return replace(
        latest,
        action=did.action,
        reason=did.reason,
        duration_seconds=before.duration_seconds + latest.duration_seconds,
        rows_inserted=before.rows_inserted + latest.rows_inserted,
        rows_updated=before.rows_updated + latest.rows_updated,
        rows_deleted=before.rows_deleted + latest.rows_deleted,
        lag_seconds_before=max(before.lag_seconds_before, latest.lag_seconds_before),
    )


@dg.op(
    description="Store what arrives in Kafka, refresh what it changes and fill the retention queue, batch after batch.",
    pool=pools.INGESTION,
)
def stream(
    context: dg.OpExecutionContext,
    config: StreamConfig,
    warehouse: dg.ResourceParam[Warehouse],
    settings: dg.ResourceParam[Settings],
) -> None:
    """Take batches until nothing comes for a while, or the run has to end."""
    run = _Run(context, config, warehouse, settings)
    with closing(
        Following(settings, warehouse, kafka.connect(settings), utc_now, context.log.info, isolated=config.isolated)
    ) as following:
        try:
            why = run.go_on(following)
        finally:
            run.tell(following)
    context.log.info(f"the run ends: {why}; the next one goes on where it ended")
