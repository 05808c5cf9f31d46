"""Metrics for Prometheus, computed from the warehouse, Kafka and the alerts at each scrape; nothing is counted here.

Here belong the names of the metrics and the endpoint that serves them. What they mean is in docs/monitoring.md, and
docs/grafana.json shows them.
"""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import duckdb
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from churn_assets.errors import ChurnError
from churn_assets.ingestion import gaps
from churn_assets.operations.alerts import alerts_since
from churn_assets.operations.doctor import Finding, watched
from churn_assets.operations.status import ALERTS_HOURS, status
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse

CACHE_SECONDS = 5.0  # several scrapers cost no more than one
_REFRESH_HOURS = 1
_logger = logging.getLogger(__name__)


@contextmanager
def serve(
    settings: Settings, warehouse: Warehouse, clock: Callable[[], datetime], host: str, port: int
) -> Generator[CollectorRegistry]:
    """Serve the metrics on http://host:port/metrics from threads of this process. `clock` gives UTC."""
    registry = CollectorRegistry()
    registry.register(StateCollector(settings, warehouse, clock))
    server, thread = start_http_server(port, host, registry)
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class StateCollector(Collector):
    """The state of the system as metrics."""

    def __init__(self, settings: Settings, warehouse: Warehouse, clock: Callable[[], datetime]) -> None:
        self._settings, self._warehouse, self._clock = settings, warehouse, clock
        self._turn = threading.Lock()
        self._known: tuple[float, list[Metric]] | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: otherwise the registry would look at the warehouse when the collector is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics; only churn_up, as 0, if the warehouse does not answer."""
        with self._turn:
            if self._known is None or time.monotonic() - self._known[0] > CACHE_SECONDS:
                self._known = time.monotonic(), self._look()
            return self._known[1]

    def _look(self) -> list[Metric]:
        started = time.monotonic()
        try:
            found = [_gauge("churn_up", "1 if the warehouse answers.", 1), *self._metrics()]
        except (ChurnError, duckdb.Error) as error:
            _logger.error("the warehouse does not answer: %s", error)
            found = [_gauge("churn_up", "1 if the warehouse answers.", 0)]
        seconds = time.monotonic() - started
        return [*found, _gauge("churn_scrape_seconds", "Seconds that it took to look at everything.", seconds)]

    def _metrics(self) -> Iterator[Metric]:
        now = self._clock()
        with ThreadPoolExecutor(2) as threads:  # each waits for Kafka if it does not answer
            state = threads.submit(status, self._settings, self._warehouse, now)
            findings = threads.submit(watched, self._settings, self._warehouse, now)
            yield from _of_state(state.result(), now)
            yield _of_findings(findings.result())
        yield from _of_history(self._warehouse, now)
        told = Counter(
            (alert.kind, alert.severity)
            for alert in alerts_since(self._settings, now - timedelta(hours=ALERTS_HOURS))
            if alert.state != "is over"
        )
        yield _gauges(
            "churn_failures",
            f"Failed runs, failed checks and conditions that were reported in {ALERTS_HOURS} hours.",
            (
                {"kind": kind, "severity": severity, "": told[kind, severity]}
                for kind, severity in (
                    ("run", "error"),
                    ("check", "error"),
                    ("check", "warning"),
                    ("condition", "error"),
                )
            ),
        )
        free = shutil.disk_usage(self._settings.home).free
        yield _gauge("churn_disk_free_bytes", "Free bytes of the disk with CHURN_HOME.", free)


def _of_state(state: dict[str, Any], now: datetime) -> Iterator[Metric]:
    yield _gauge("churn_kafka_up", "1 if Kafka answers.", int(state["kafka"] is None))
    of_partition = [({"topic": one["topic"], "partition": str(one["partition"])}, one) for one in state["offsets"]]
    yield _gauges(
        "churn_kafka_lag_messages",
        "Messages of a partition that are not stored yet.",
        (labels | {"": one["lag"]} for labels, one in of_partition),
    )
    yield _gauges(
        "churn_kafka_problem",
        "1 if a partition is not read to its end: messages are missing, or it has no leader.",
        (labels | {"": int(one["problem"] is not None)} for labels, one in of_partition),
    )
    yield _gauges(
        "churn_table_lag_seconds",
        "Age of the oldest change that a dynamic table does not show; of dyn_churn_predictions, the age of the scores.",
        ({"table": one["name"], "": one["lag_seconds"]} for one in state["dynamic_tables"]),
    )
    yield _gauges(
        "churn_table_target_lag_seconds",
        "Target lag of a dynamic table.",
        ({"table": one["name"], "": one["target_lag_seconds"]} for one in state["dynamic_tables"]),
    )
    yield _gauges(
        "churn_ledger_rows",
        "Rows of a ledger.",
        ({"ledger": name, "": rows} for name, rows in state["ledgers"].items()),
    )
    yield _gauge(
        "churn_rejects", "Messages and rows that could not be stored, replayed ones included.", state["rejects"]
    )
    yield _gauges(
        "churn_customers",
        "Customers of a risk class.",
        ({"risk_class": name, "": count} for name, count in state["risk"].items()),
    )
    yield _gauge("churn_queue_customers", "Customers who wait for an email.", state["queue"])
    yield _gauge("churn_damaged_files", "Files that are missing or damaged.", len(state["damage"]))
    if model := state["model"]:
        age = (now - datetime.fromisoformat(model["trained_at"])).total_seconds()
        yield _gauge("churn_model_age_seconds", "Time since the training of the model that serves.", age)
        yield _gauge("churn_model_version", "Version of the model that serves.", model["version"])


def _of_findings(findings: list[Finding]) -> Metric:
    return _gauges(
        "churn_problem",
        "1 if a check of the doctor is red; `churn doctor` says why.",
        ({"check": one.what, "": int(one.problem is not None)} for one in findings),
    )


def _of_history(warehouse: Warehouse, now: datetime) -> Iterator[Metric]:
    latest = {one.name: one.duration_seconds for one in warehouse.past_refreshes(now - timedelta(hours=_REFRESH_HOURS))}
    yield _gauges(
        "churn_refresh_seconds",
        f"Duration of the last refresh of a dynamic table, if it is of the last {_REFRESH_HOURS} hour.",
        ({"table": name, "": seconds} for name, seconds in latest.items()),
    )
    (batches,) = warehouse.query(
        "SELECT count(DISTINCT CASE WHEN stored_at > ? THEN stored_at END) AS batches,"
        " coalesce(sum(end_offset - start_offset), 0) AS messages FROM ingest_ranges WHERE outcome = 'STORED'",
        [now - timedelta(hours=1)],
    ).to_pylist()
    yield _gauge("churn_batches", "Batches of messages that were stored in the last hour.", batches["batches"])
    yield CounterMetricFamily("churn_messages", "Messages that were stored.", float(batches["messages"]))
    yield _gauge("churn_gaps", "Gaps that nobody has resolved; `churn gaps` lists them.", len(gaps.kept(warehouse)))
    emails = warehouse.query("SELECT status, count(*) AS emails FROM agent_intervention_log GROUP BY status")
    yield _gauges(
        "churn_emails",
        "Emails by their status; UNCERTAIN: nobody knows whether it was sent.",
        ({"status": row["status"], "": row["emails"]} for row in emails.to_pylist()),
    )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value)


def _gauges(name: str, about: str, rows: Iterable[dict[str, Any]]) -> Metric:
    """A gauge with labels; the value of a row is under the empty name."""
    found = list(rows)
    labels = [label for label in (found[0] if found else {}) if label]
    family = GaugeMetricFamily(name, about, labels=labels)
    for row in found:
        family.add_metric([str(row[label]) for label in labels], float(row[""]))
    return family
