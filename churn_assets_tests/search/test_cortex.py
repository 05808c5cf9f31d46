"""Search on Snowflake over a scripted warehouse: what the service is asked, and what is made of its answer."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from churn_assets.search.cortex import SEARCH_PREVIEW, CortexSearch, json_filter
from churn_assets.search.grants import SeenByGrants
from churn_assets.search.hits import Filters
from churn_assets.settings import load_settings
from churn_assets.warehouse.protocol import WarehouseError
from churn_assets.warehouse.snowflake_names import Names
from churn_assets.wiring import open_search

TEXTS = "CHURN.MAIN.case_texts_search"
NOON = datetime.fromisoformat("2026-03-01T12:00:00")


class ScriptedWarehouse:
    """Answers by how a query begins, and remembers what it was asked."""

    def __init__(self, answer: Any = None, grants: Sequence[str] = ("*",), texts: Any = '{"results": []}') -> None:
        self.asked: list[tuple[str, list[Any]]] = []
        self._answer = answer
        self._texts = texts
        self._grants = grants

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        self.asked.append((sql, list(parameters)))
        if sql == SEARCH_PREVIEW:
            of_texts = parameters[0] == TEXTS
            return pa.table({"answer": [self._texts if of_texts else self._answer]})
        if sql.startswith("SELECT segment FROM segment_grants"):
            return pa.table({"segment": pa.array(self._grants, pa.string())})
        if sql.startswith("SELECT customer_id, segment FROM dim_customers"):
            return pa.table({"customer_id": ["C1", "C2"], "segment": ["MASS", "SMB"]})
        return pa.Table.from_pylist([row("L9")])


def row(event_id: str, customer: str = "C1", **other: Any) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "kind": "error",
        "customer_id": customer,
        "error_code": "ERR_AUTH_OTP",
        "device": "IOS",
        "happened_at": "2026-03-01T10:00:00.000000000",
        "document": "One-time code refused. ERR_AUTH_OTP at LOGIN on IOS",
        "@scores": {"cosine_similarity": 0.4},
        **other,
    }


def search(warehouse: ScriptedWarehouse, role: str = "MARKETING_ANALYST") -> CortexSearch:
    return CortexSearch(warehouse, Names(), SeenByGrants(warehouse, role))  # type: ignore[arg-type]


def answer(*rows: dict[str, Any]) -> str:
    return json.dumps({"results": rows, "request_id": "r1"})


def test_the_service_is_asked_with_bound_text_and_its_answer_becomes_hits():
    case = row(
        "S1",
        "C2",
        kind="case",
        error_code=None,
        device=None,
        document="Support case about fees. In other words: costs.",
    )
    warehouse = ScriptedWarehouse(answer(row("L1"), case))

    hits = search(warehouse).search("it's \"quoted\" '); DROP TABLE x", Filters(device="IOS"), limit=5)

    (_, (service, asked)) = next(one for one in warehouse.asked if one[0] == SEARCH_PREVIEW)
    assert service == "CHURN.SERVING.churn_logs_search"
    assert json.loads(asked)["query"] == "it's \"quoted\" '); DROP TABLE x"
    assert json.loads(asked)["limit"] == 5
    assert json.loads(asked)["filter"] == {"@and": [{"@eq": {"device": "IOS"}}]}
    assert [(hit.event_id, hit.title, hit.segment, hit.score) for hit in hits] == [
        ("L1", "One-time code refused", "MASS", 1.0),
        ("S1", "Support case about fees", "SMB", 0.5),
    ]


def test_an_engineer_finds_cases_by_what_customers_wrote_and_sees_the_passage_once_with_the_better_score():
    def passage(number: int, event_id: str, document: str) -> dict[str, Any]:
        more = {"passage_id": f"{event_id}#{number}", "category": "CARD"}
        return row(event_id, kind="case", error_code=None, device=None, document=document, **more)

    texts = [
        passage(1, "S2", "I am at the airport. The machine kept my card."),
        passage(0, "S2", "Dear bank"),
        passage(0, "S1", "It kept me waiting."),
    ]
    of_all = answer(
        row("L1"), row("S1", kind="case", error_code=None, device=None, document="Support case about card.")
    )

    hits = search(ScriptedWarehouse(of_all, texts=answer(*texts)), "DATA_ENGINEER").search("kept my card", Filters())

    assert [(hit.event_id, hit.score, hit.passage) for hit in hits] == [
        ("L1", 1.0, "One-time code refused. ERR_AUTH_OTP at LOGIN on IOS"),
        ("S2", 1.0, "I am at the airport. The machine kept my card."),
        ("S1", 0.5, "It kept me waiting."),
    ]
    assert {hit.title for hit in hits[1:]} == {"Support case about card"}


@pytest.mark.parametrize("role", ["MARKETING_ANALYST", "TELLER"])
def test_no_other_role_asks_the_service_of_the_texts(role: str):
    warehouse = ScriptedWarehouse(answer(row("L1")))

    search(warehouse, role).search("kept my card", Filters())

    assert [parameters[0] for sql, parameters in warehouse.asked if sql == SEARCH_PREVIEW] == [
        "CHURN.SERVING.churn_logs_search"
    ]


def test_times_are_asked_for_by_day_and_kept_to_the_second():
    filters = Filters(since=NOON, until=NOON.replace(hour=13))
    late, early = row("L2", happened_at="2026-03-01T13:00:00"), row("L3", happened_at="2026-03-01T11:59:59")
    warehouse = ScriptedWarehouse(answer(row("L1", happened_at="2026-03-01T12:00:00"), late, early))

    hits = search(warehouse).search("log in", filters)

    assert [hit.event_id for hit in hits] == ["L1"]
    assert json_filter(filters, None) == {
        "@and": [{"@gte": {"happened_at": "2026-03-01"}}, {"@lte": {"happened_at": "2026-03-02"}}]
    }
    assert json.loads(warehouse.asked[1][1][1])["limit"] == 1000


def test_an_analyst_is_shown_customers_who_are_in_a_granted_segment_now():
    warehouse = ScriptedWarehouse(answer(row("L1", "C1"), row("L2", "C2"), row("L3", "C3")), grants=["SMB"])

    hits = search(warehouse, "MARKETING_ANALYST").search("log in", Filters())

    assert [hit.event_id for hit in hits] == ["L2"]
    asked = json.loads(next(one for sql, one in warehouse.asked if sql == SEARCH_PREVIEW)[1])
    assert asked["filter"] == {"@and": [{"@or": [{"@eq": {"segment": "SMB"}}]}]}


def test_an_analyst_without_grants_is_shown_nothing_and_nothing_is_asked():
    warehouse = ScriptedWarehouse(grants=[])

    assert search(warehouse, "MARKETING_ANALYST").search("log in", Filters()) == []
    assert all(sql != SEARCH_PREVIEW for sql, _ in warehouse.asked)


def test_without_words_the_newest_are_read_from_the_ledgers():
    warehouse = ScriptedWarehouse(grants=["SMB", "MASS"])

    hits = search(warehouse, "MARKETING_ANALYST").search(
        " \n", Filters(customer_id="C1", since=NOON.replace(hour=9)), 3
    )

    sql, values = next((sql, values) for sql, values in warehouse.asked if "ORDER BY" in sql)
    assert sql.endswith(
        "WHERE TRUE AND customer_id = ? AND happened_at >= ? AND segment IN (?, ?) ORDER BY happened_at DESC NULLS LAST,"
        " event_id LIMIT 3"
    )
    assert "FROM CHURN.MAIN.searchable_events WHERE" in sql
    assert values == ["C1", NOON.replace(hour=9), "MASS", "SMB"]
    assert [(hit.event_id, hit.score) for hit in hits] == [("L9", 0.0)]


@pytest.mark.parametrize("said", [None, "", "oops", "[]", '{"results": [{"event_id": "L1"}]}'])
def test_an_answer_that_cannot_be_read_is_an_error_with_what_it_was(said: Any):
    with pytest.raises(WarehouseError, match=r"CHURN\.SERVING\.churn_logs_search gave an unreadable answer"):
        search(ScriptedWarehouse(said)).search("log in", Filters())


def test_the_settings_choose_the_service():
    settings = load_settings(CHURN_TARGET="snowflake", SNOWFLAKE_ACCOUNT="O-A", SNOWFLAKE_USER="u", SNOWFLAKE_TOKEN="t")

    assert isinstance(open_search(settings, "DATA_ENGINEER"), CortexSearch)
