"""How long a target lag is, also where it is DOWNSTREAM."""

import pytest

from churn_assets.dynamic_tables.tables import DynamicTableError, parse_target_lag, target_lag_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60 seconds", 60),
        ("1 minute", 60),
        ("5 minutes", 300),
        (" 2  hours ", 7200),
        ("1 day", 86400),
        ("90 second", 90),
    ],
)
def test_a_target_lag_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_target_lag(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "5", "minutes", "5 weeks", "-5 minutes", "1.5 hours", "5minutes", "5 minutes ago", "downstream"],
)
def test_anything_else_is_not_a_target_lag(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number and a unit"):
        parse_target_lag(text)


@pytest.mark.parametrize("text", ["59 seconds", "30 seconds", "0 days"])
def test_a_target_lag_is_at_least_a_minute(text: str) -> None:
    with pytest.raises(ValueError, match="below the minimum"):
        parse_target_lag(text)


# Two tables beneath two that are read by people.
SOURCES = {"days": {"events"}, "sums": {"days"}, "scores": {"sums"}, "counts": {"days"}}


@pytest.mark.parametrize("downstream", ["DOWNSTREAM", "downstream"])
def test_a_table_that_is_downstream_is_as_fresh_as_the_most_hurried_of_its_readers_needs(downstream: str) -> None:
    declared = {"days": downstream, "sums": downstream, "scores": "1 hour", "counts": "2 hours"}
    assert {name: target_lag_seconds(name, declared, SOURCES) for name in declared} == {
        "days": 3600,
        "sums": 3600,
        "scores": 3600,
        "counts": 7200,
    }


def test_a_table_that_is_downstream_and_that_nothing_reads_is_an_error_that_names_it() -> None:
    declared = {"days": "1 hour", "sums": "1 hour", "scores": "DOWNSTREAM", "counts": "1 hour"}
    assert target_lag_seconds("days", declared, SOURCES) == 3600
    with pytest.raises(DynamicTableError, match="scores has target_lag DOWNSTREAM, but no dynamic table reads it"):
        target_lag_seconds("scores", declared, SOURCES)
