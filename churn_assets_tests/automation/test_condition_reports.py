"""What is wrong though no run has failed is told once, and again when it is over, to whoever is to be told."""

import json
from typing import Any

import pytest

from churn_assets.operations import doctor
from churn_assets_tests.assets.conftest import Graph, skip_reason
from churn_assets_tests.operations.test_alert_delivery import Pager


class Reports:
    """The sensor, tick by tick with its cursor."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._cursor: str | None = None

    def tick(self) -> list[dict[str, Any]]:
        """The alerts about the disk that a tick adds."""
        before = len(self._lines())
        tick = self.graph.tick("condition_reports", self._cursor)
        assert skip_reason(tick)
        self._cursor = tick.cursor
        found = [json.loads(line) for line in self._lines()[before:]]
        return [one for one in found if one["message"].startswith("disk")]

    def _lines(self) -> list[str]:
        file = self.graph.settings.alerts_file
        return file.read_text().splitlines() if file.exists() else []


def test_a_full_disk_is_told_once_after_two_looks_and_once_when_it_is_over(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
):
    reports = Reports(graph)
    assert reports.tick() == []
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 60)
    assert reports.tick() == [], "it may be a busy moment"

    (begins,) = reports.tick()
    assert (begins["kind"], begins["severity"], begins["state"]) == ("condition", "error", "begins")
    assert "are free" in begins["message"]
    assert reports.tick() == reports.tick() == []

    monkeypatch.undo()
    (over,) = reports.tick()
    assert (over["severity"], over["state"]) == ("info", "is over")
    assert reports.tick() == []


def test_what_lasts_for_one_look_only_is_not_told(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    reports = Reports(graph)
    for _ in range(3):
        monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 60)
        assert reports.tick() == []
        monkeypatch.undo()
        assert reports.tick() == []


def test_on_snowflake_a_look_that_is_billed_comes_once_an_hour(graph: Graph):
    graph.settings = graph.settings.model_copy(update={"target": "snowflake"})
    first = graph.tick("condition_reports")
    assert "ago" not in skip_reason(first)
    assert "less than an hour ago" in skip_reason(graph.tick("condition_reports", first.cursor))
    graph.clock.forward(3601)
    assert "ago" not in skip_reason(graph.tick("condition_reports", first.cursor))


def test_the_sensor_tells_a_destination_and_goes_on_where_the_setting_is_wrong_or_it_is_down(graph: Graph):
    pager = Pager()
    assert skip_reason(graph.tick("alert_delivery")) == "CHURN_ALERTS is not set"
    graph.settings = graph.settings.model_copy(update={"alerts": None})
    graph.set(alerts=_secret("nothing://s3cret@x"))
    wrong = graph.tick("alert_delivery")
    assert "the address number 1" in skip_reason(wrong)
    assert "s3cret" not in skip_reason(wrong)
    graph.set(alerts=_secret(pager.address))
    first = graph.tick("alert_delivery")
    graph.tick("failure_reports")
    begun = graph.tick("failure_reports").cursor
    graph.lake.transact(lambda tx: tx.execute("DROP TABLE IF EXISTS churn_training_set"))
    graph.run("extend_training_set")
    graph.tick("failure_reports", begun)

    down = graph.tick("alert_delivery", first.cursor)
    assert "did not take an alert, for the 1. time" in skip_reason(down)
    pager.start()
    graph.clock.forward(31)
    assert "know all there is" in skip_reason(graph.tick("alert_delivery", down.cursor))
    assert any("extend_training_set failed" in told for told in pager.told)
    pager.stop()


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)
