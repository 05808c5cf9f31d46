"""`churn demo`: start everything on one machine and stop it cleanly.

Here belongs what it has beside Dagster, and the order in which all of it ends. The demo runs the same commands and the same
graph as any other deployment.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from churn_assets.cli.logs import rotate
from churn_assets.cli.ports import must_be_free
from churn_assets.cli.stop import StopSignal
from churn_assets.cli.up import LOOK_SECONDS, logs, look_after, now, prepare_dagster_home, run, start_dagster
from churn_assets.clock import utc_now
from churn_assets.dashboard.serve import command as dashboard_command
from churn_assets.ingestion.backlog import ingest_waiting
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.operations.lake import deploy
from churn_assets.operations.status import status
from churn_assets.retention.emails import next_day
from churn_assets.retention.queue import ALERT_STREAM, STREAM
from churn_assets.settings import Settings
from churn_assets.simulator import seeding
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.wiring import limits_of, must_be_in_home, warehouse_to_write

STATE_EVERY_SECONDS = 5.0
WORK_OFF_SECONDS = 60.0  # for active runs to finish
SEED = 1


def run_demo(
    settings: Settings,
    *,
    port: int,
    dashboard_port: int,
    customers: int,
    days: int,
    rate: float,
    say: Callable[[str], None],
) -> None:
    """Run broker, producer, Dagster and the dashboard until Ctrl-C or SIGTERM, printing the state every few seconds.

    The first start creates the bank; later starts continue it and ignore `customers` and `days`.
    """
    must_be_in_home(settings, "churn demo")
    for option, taken in (("--port", port), ("--dashboard-port", dashboard_port)):
        must_be_free(taken, option)
    here = {"dashboard_url": settings.dashboard_url or f"http://127.0.0.1:{dashboard_port}"}
    settings = settings.model_copy(update=here)
    stop = StopSignal()
    warehouse = warehouse_to_write(settings)
    bank = seeding.seeded_bank(warehouse) or seeding.new_bank(customers, days, SEED, utc_now())
    say(f"bank of {bank.customers:,} customers, {bank.days} days of history")
    seeding.seed(warehouse, bank, utc_now(), lambda ledger, rows: say(f"  {ledger}: {rows:,} rows"))
    deploy(settings, warehouse, lambda step: say(f"  {step}"))
    prepare_dagster_home(settings.dagster_home)
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home.absolute())

    with ExitStack() as stack:
        if settings.kafka_bootstrap_servers is None:
            cluster = stack.enter_context(embedded_broker(settings.broker_file))
            say(f"Kafka      {cluster.bootstrap_servers} (embedded)")
        else:
            say(f"Kafka      {settings.kafka_bootstrap_servers}")
        environment = {
            # Someone is watching, so by default the demo does not wait for the target lag.
            "CHURN_REFRESH": settings.refresh if "refresh" in settings.model_fields_set else "eager",
            "CHURN_DASHBOARD_URL": settings.dashboard_url or "",
        }
        processes = start_dagster(stack, settings, environment, "127.0.0.1", port)
        processes.append(run(stack, settings, environment, "dashboard", dashboard_command(dashboard_port)))
        # The stack unwinds in reverse: first the producer ends, then its events are stored and the runs finish, then
        # Dagster ends, so that no run is interrupted.
        stack.callback(_work_off, settings, warehouse, stop, say)
        stack.callback(_drain, settings, warehouse, say)
        produce = [sys.executable, "-m", "churn_assets.cli", "produce", "--rate", str(rate)]
        processes.append(run(stack, settings, environment, "producer", produce))
        say(
            f"Dagster    http://127.0.0.1:{port}\ndashboard  http://127.0.0.1:{dashboard_port}\nlogs       {logs(settings)}\n"
            "Ctrl-C stops everything; the next start continues from there"
        )
        state_at = time.monotonic() + STATE_EVERY_SECONDS
        while not stop.wait(LOOK_SECONDS):
            look_after(processes, say)
            if time.monotonic() >= state_at:
                say(f"{now()}  {_state(settings, warehouse)}")
                rotate(logs(settings))
                state_at = time.monotonic() + STATE_EVERY_SECONDS
        say("stopping after the active runs; Ctrl-C again stops at once")
    say("stopped")


def _state(settings: Settings, warehouse: Warehouse) -> str:
    state = status(settings, warehouse, utc_now())
    waiting = sum(offset["lag"] for offset in state["offsets"])
    stored = sum(offset["committed"] for offset in state["offsets"])
    lag = max(table["lag_seconds"] for table in state["dynamic_tables"])
    return (
        f"events in {stored:,} (waiting {waiting:,}, rejected {state['rejects']:,})"
        f"  scores {lag:.0f} s behind  HIGH {state['risk']['HIGH']:,}  queue {state['queue']:,}"
        f"  emails {state['emails']['total']:,}  model {state['model']['version'] if state['model'] else 'none'}"
    )


def _drain(settings: Settings, warehouse: Warehouse, say: Callable[[str], None]) -> None:
    """Store the waiting messages before the embedded broker loses them. A run may do the same at the same time."""
    if settings.kafka_bootstrap_servers is None:
        result = ingest_waiting(settings, warehouse, on_gap="skip", clock=utc_now, report=lambda _: None)
        say(f"  {result.messages:,} waiting messages stored")


def _work_off(settings: Settings, warehouse: Warehouse, stop: StopSignal, say: Callable[[str], None]) -> None:
    """Wait until no run is active and no sensor has a reason to start one.

    The run that takes batch after batch has nothing to do then, and ends with Dagster.
    """
    from dagster import DagsterInstance, RunsFilter  # a second of imports, needed only here

    from churn_assets.automation.gates import UNDER_WAY
    from churn_assets.automation.jobs import stream_job

    stopped_before = stop.count
    end = time.monotonic() + WORK_OFF_SECONDS
    with DagsterInstance.get() as instance:
        while time.monotonic() < end and stop.count == stopped_before:
            idle = (
                not any(table.lag_seconds for table in warehouse.dynamic_tables(utc_now()))
                and not any(warehouse.stream_has_data(stream) for stream in (STREAM, ALERT_STREAM))
                and next_day(warehouse, limits_of(settings), utc_now()) is None
            )
            active = instance.get_runs(RunsFilter(statuses=UNDER_WAY))
            if idle and all(run.job_name == stream_job.name for run in active):
                return
            time.sleep(0.5)
    say("  some runs were interrupted; the next start repeats their work")
