"""Which refreshes are requested, and which are only recorded."""

from dataclasses import replace
from datetime import datetime

import dagster as dg
import pytest

from churn_assets.assets.interventions import ALERTS
from churn_assets.automation.refreshes import is_due, with_late_sources
from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.tables import DynamicTable
from churn_assets.retention.queue import STREAM, fill_queue, raise_alerts
from churn_assets_tests.assets.conftest import Graph, skip_reason, the_request


def table(lag_seconds: float, name: str = "t", *sources: str) -> DynamicTable:
    return DynamicTable(name, frozenset(sources), 300, False, lag_seconds, datetime(2026, 1, 1), "FULL")


def test_a_refresh_is_requested_in_time_for_the_lag_to_stay_under_its_target():
    assert not is_due(table(200), eager=False)
    assert is_due(table(271), eager=False)
    assert is_due(table(1), eager=True)
    assert not is_due(table(0), eager=True)


def test_a_table_that_keeps_itself_fresh_is_never_due():
    late = replace(table(10_000), keeps_itself_fresh=True)
    assert not is_due(late, eager=False)
    assert not is_due(late, eager=True)
    assert not is_due(replace(late, is_to_be_initialized=True), eager=False)


def test_tables_that_are_due_are_refreshed_with_the_late_ones_beneath_them():
    tables = [
        table(9, "a", "ledger"),
        table(0, "b", "ledger"),
        table(9, "c", "a", "b"),
        table(9, "d", "c"),
        table(9, "e"),
    ]
    assert with_late_sources(tables, ["d"]) == ["a", "c", "d"]
    assert with_late_sources(tables, ["e", "a"]) == ["a", "e"]
    assert with_late_sources(tables, []) == []


def test_where_tables_keep_themselves_fresh_a_run_only_reads_their_streams(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    found = [replace(each, keeps_itself_fresh=True) for each in graph.lake.dynamic_tables(utc_now())]
    monkeypatch.setattr(graph.lake, "dynamic_tables", lambda now: found)

    assert the_request(graph.tick("refresh_sensor")).asset_selection == [dg.AssetKey(STREAM), dg.AssetKey(ALERTS)]

    graph.lake.transact(lambda tx: (fill_queue(tx, utc_now()), raise_alerts(tx, utc_now())))
    tick = graph.tick("refresh_sensor")
    assert not tick.run_requests
    assert not tick.asset_events, "the warehouse's own history tells of them"


def test_an_idle_table_is_recorded_as_fresh_without_a_run(graph: Graph):
    graph.lake.transact(lambda tx: (fill_queue(tx, utc_now()), raise_alerts(tx, utc_now())))
    tick = graph.tick("refresh_sensor")
    recorded = {event.asset_key.path[-1] for event in tick.asset_events}

    assert recorded == {"customer_day", "dyn_customer_features", "dyn_churn_predictions", "churn_metrics_live"}


def test_a_refresh_outside_of_a_run_is_recorded_once_and_one_of_a_run_not_again(graph: Graph, live_bank):
    graph.lake.refresh(["customer_day", "dyn_customer_features"], utc_now())

    recorded = graph.tick("refresh_history_sensor").asset_events
    for event in recorded:
        graph.instance.report_runless_asset_event(event)

    assert {event.asset_key.path[-1] for event in recorded} >= {"customer_day", "dyn_customer_features"}
    assert all(event.metadata["refreshed_at"] and event.metadata["duration_seconds"] for event in recorded)
    assert skip_reason(graph.tick("refresh_history_sensor")) == "every refresh is recorded"
    assert graph.run("refresh_dynamic_tables").success
    assert skip_reason(graph.tick("refresh_history_sensor")) == "every refresh is recorded"
