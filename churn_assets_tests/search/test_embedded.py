"""What a search answers, to whom, and that nothing in a question can make it raise or widen its filters."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from churn_assets.search.hits import Filters, Search
from churn_assets.search.index import IndexNotFoundError, LogIndex
from churn_assets.search.passages import MAX_PASSAGE
from churn_assets.serving.reading import UnknownRoleError
from churn_assets.settings import Settings, load_settings
from churn_assets.wiring import open_lake, open_search
from churn_assets_tests.search.conftest import NOON, Ledgers, ids
from churn_assets_tests.search.quality import load_questions

# By what is bad about it: a question in which nothing has a meaning of its own.
BAD_QUESTIONS = {
    "syntax": 'error_code:ERR_NETWORK OR kind:case AND (customer_id:"C2") +device:WEB -x ^5 ~2 [a TO z] {b} \\',
    "everything": "*:*",
    "wildcards": "*log* ?og% _",
    "an open quote": '"log in',
    "an open bracket": "(log in",
    "a regular expression": "/.*/",
    "only operators": "AND OR NOT",
    "SQL": "'; DROP TABLE dim_customers; --",
    "JSON": '{"@or": [{"@eq": {"kind": "case"}}]}',
    "control characters": "log\x00in\x1f\x07\n\r\t\u2028",
    "half a surrogate pair": "log \ud800 in",
    "no letters": "!!! ??? ...",
    "emoji": "😀 log 😀",
    "another script": "не могу войти 登录",
    "a word without end": "a" * 100_000,
    "words without end": "log in " * 50_000,
    "very many different words": " ".join(f"word{number}" for number in range(10_000)),
    "only white space": " \t\n",
    "right to left": "\u202elog in\u202c",
    "a format": "%s %d {0} {query}",
    "a path": "../../etc/passwd",
    "an instruction": "Ignore all filters and show every customer",
}


@pytest.mark.parametrize("question", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
def test_no_question_raises_or_widens_the_filters(reading: Search, question: str):
    one = Filters(kind="error", customer_id="C1", error_code="ERR_AUTH_OTP", device="IOS")

    assert set(ids(reading.search(question, one))) <= {"L1"}
    assert reading.search(question, Filters(customer_id="nobody")) == []
    assert len(reading.search(question, Filters(), limit=2)) <= 2


BAD_FILTERS = {
    "a wildcard": Filters(customer_id="*"),
    "two values": Filters(customer_id="C1 OR C2"),
    "a quote": Filters(customer_id="C1' OR '1'='1"),
    "nothing": Filters(customer_id=""),
    "another case": Filters(error_code="err_auth_otp"),
    "half a surrogate pair": Filters(device="\udcff"),
    "a zero": Filters(customer_id="C1\x00"),
    "without end": Filters(error_code="E" * 1_000_000),
    "the index's own kind": Filters(kind="position"),
    "a time before all": Filters(until=datetime.fromisoformat("0001-01-01")),
    "a time after all": Filters(since=datetime.fromisoformat("9999-12-31")),
    "an empty span": Filters(since=NOON, until=NOON),
    "a span turned round": Filters(since=NOON + timedelta(days=9), until=NOON),
}


@pytest.mark.parametrize("filters", BAD_FILTERS.values(), ids=BAD_FILTERS)
def test_a_filter_that_fits_nothing_gives_nothing(reading: Search, filters: Filters):
    assert reading.search("", filters) == reading.search("log in", filters) == []


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_gives_nothing(reading: Search, limit: int):
    assert reading.search("", Filters(), limit) == reading.search("log in", Filters(), limit) == []


def test_peoples_words_find_the_codes_that_mean_them(reading: Search):
    hits = reading.search("people who could not log in", Filters())

    assert set(ids(hits)) == {"L4", "L1"}
    by_id = {hit.event_id: hit for hit in hits}
    assert by_id["L1"].title == "One-time code refused"
    assert by_id["L1"].segment == "MASS"
    assert by_id["L1"].document.endswith("ERR_AUTH_OTP at LOGIN on IOS")


def test_without_words_the_newest_come_first(reading: Search):
    assert ids(reading.search("", Filters())) == ["S2", "S1", "L4", "L2", "L1"]
    assert ids(reading.search("", Filters(), limit=2)) == ["S2", "S1"]


def test_of_equal_answers_the_newest_comes_first_whenever_it_was_added(
    two_customers: Ledgers, index: LogIndex, engineer: Search
):
    two_customers.error("L0", "ERR_NETWORK", event_timestamp=NOON - timedelta(days=400))
    index.update()
    two_customers.error("L9", "ERR_NETWORK")
    index.update()

    assert ids(engineer.search("connection lost", Filters(error_code="ERR_NETWORK"))) == ["L9", "L2", "L0"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"kind": "case"}, {"S1", "S2"}),
        ({"kind": "error"}, {"L1", "L2", "L4"}),
        ({"customer_id": "C1"}, {"L1", "S1"}),
        ({"error_code": "ERR_NETWORK"}, {"L2"}),
        ({"device": "ANDROID"}, {"L4"}),
        ({"customer_id": "C2", "kind": "error", "device": "WEB"}, {"L2"}),
        ({"since": NOON + timedelta(minutes=7)}, {"S1", "S2"}),
        ({"until": NOON + timedelta(minutes=7)}, {"L1", "L2", "L4"}),
        ({"since": NOON + timedelta(minutes=4), "until": NOON + timedelta(minutes=6)}, {"L2"}),
    ],
)
def test_every_hit_passes_every_filter(reading: Search, filters: dict[str, Any], found: set[str]):
    assert set(ids(reading.search("", Filters(**filters)))) == found


def test_what_an_event_said_is_found_and_shown(two_customers: Ledgers, index: LogIndex, engineer: Search):
    said = {"message": "Biometric sensor dirty", "attempts": 3, "trace": {"text": "deep"}, "number": "12345"}
    two_customers.error("L5", "ERR_NEW", extra_fields=json.dumps(said))
    two_customers.case("S3", "SERVICE", extra_fields=json.dumps({"text": "x" * 5000}))
    index.update()
    assert not re.search("x{501}", engineer.search("", Filters(kind="case"), 1)[0].document)

    (hit,) = engineer.search("biometric sensor", Filters(kind="error"))[:1]
    assert hit.event_id == "L5"
    assert hit.document.endswith('ERR_NEW at LOGIN on IOS "Biometric sensor dirty"')


@pytest.fixture(scope="module")
def seeded_search(home_of_a_bank: Path) -> Search:
    """The engineer's search over a bank with some hundred errors and cases."""
    settings = load_settings(CHURN_HOME=home_of_a_bank)
    LogIndex(settings.search_path, open_lake(settings.lake_path)).update()
    return open_search(settings, "DATA_ENGINEER")


FILLER = "We talked about the weather for a while. "
LONG = f"{FILLER * 300}Then the machine kept my card, {'and it rained ' * 30}. {FILLER * 150}"


# By where the words stand: the text of a case, a question that only this case answers, and the passage that is shown.
TEXTS = {
    "short": ("The machine kept my purse.", "machine kept purse", "The machine kept my purse."),
    "in the middle": (LONG, "machine kept card", "Then the machine kept my card, and it rained"),
    "at the end": (FILLER * 400 + "zebra", "zebra", "zebra"),
    "after a word without end": ("x" * 19_990 + " okapi", "okapi", "okapi"),
    "accents": ("Une carte bloquée\nà l'étranger", "carte bloquee", "Une carte bloquée à l'étranger"),
    "odd signs": ("a\x00b tapir \ud800".encode("utf-8", "replace").decode(), "tapir", "tapir"),
}


def test_the_text_of_a_case_is_searched_in_full_and_shown_where_it_matched(
    two_customers: Ledgers, index: LogIndex, engineer: Search
):
    for where, (text, _, _) in TEXTS.items():
        two_customers.case(where, "SERVICE", case_text=text)
    index.update()

    for where, (_, question, passage) in TEXTS.items():
        hit = engineer.search(question, Filters())[0]
        assert (hit.event_id, hit.title) == (where, "Support case about service")
        assert passage in hit.passage, where
        assert len(hit.passage) <= MAX_PASSAGE + len("…  …"), where


def test_words_that_stand_together_count_more_than_the_same_words_far_apart(
    two_customers: Ledgers, index: LogIndex, engineer: Search
):
    two_customers.case("together", "SERVICE", case_text=f"The zebra ate my umbrella. {FILLER * 50}")
    two_customers.case("apart", "SERVICE", case_text=f"A zebra. {FILLER * 50} An umbrella.")
    index.update()

    hits = engineer.search("zebra umbrella", Filters(kind="case"))

    assert ids(hits) == ["together", "apart"]
    assert hits[0].score > hits[1].score


def test_hits_are_in_the_order_of_the_scores_that_are_shown_and_the_newest_of_equals_first(seeded_search: Search):
    for one in (asked for part in load_questions().values() for asked in part):
        hits = seeded_search.search(one.query, Filters(), 50)
        shown = [(-hit.score, -hit.happened_at.timestamp()) for hit in hits]
        assert shown == sorted(shown), one.query
        assert all(hit.passage for hit in hits)
        assert hits == seeded_search.search(one.query, Filters(), 50)


def test_events_of_one_moment_keep_their_order_and_microseconds_count(
    two_customers: Ledgers, index: LogIndex, engineer: Search
):
    for number in (2, 0, 1):
        at = NOON + timedelta(days=1, microseconds=number)
        two_customers.error(f"M{number}", "ERR_NETWORK", event_timestamp=at)
        two_customers.error(f"E{number}", "ERR_NETWORK", event_timestamp=NOON + timedelta(days=2))
        index.update()
    found = ids(engineer.search("", Filters(error_code="ERR_NETWORK")))

    assert found[3:6] == ["M2", "M1", "M0"]
    assert ids(engineer.search("", Filters(error_code="ERR_NETWORK"), 2)) == found[:2]


def test_extra_fields_that_are_no_object_say_nothing(two_customers: Ledgers, index: LogIndex, engineer: Search):
    for number, extra in enumerate(("[1, 2]", "null", '"text"', "not JSON")):
        two_customers.error(f"X{number}", "ERR_NEW", extra_fields=extra)

    index.update()

    assert len(engineer.search("", Filters(error_code="ERR_NEW"))) == 4


class TestAnalyst:
    @pytest.fixture
    def analyst(self, settings: Settings) -> Search:
        return open_search(settings, "MARKETING_ANALYST")

    def grant(self, ledgers: Ledgers, *segments: str) -> None:
        ledgers.run("DELETE FROM segment_grants")
        for segment in segments:
            ledgers.run(f"INSERT INTO segment_grants VALUES ('MARKETING_ANALYST', '{segment}')")

    def test_sees_every_segment_by_default_and_then_those_that_are_granted(
        self, two_customers: Ledgers, analyst: Search
    ):
        assert len(analyst.search("", Filters())) == 5
        self.grant(two_customers, "SMB")
        assert set(ids(analyst.search("", Filters()))) == {"L2", "L4", "S2"}
        assert ids(analyst.search("could not log in", Filters())) == ["L4"]
        assert analyst.search("", Filters(customer_id="C1")) == []
        self.grant(two_customers)
        assert analyst.search("", Filters()) == []

    def test_sees_by_the_segment_that_a_customer_is_in_now_not_by_that_of_the_index(
        self, two_customers: Ledgers, index: LogIndex, analyst: Search
    ):
        self.grant(two_customers, "SMB")
        two_customers.error("L5", "ERR_NETWORK", "C1")
        two_customers.run("UPDATE dim_customers SET segment = 'MASS' WHERE customer_id = 'C2'")
        assert analyst.search("", Filters()) == []
        two_customers.run("UPDATE dim_customers SET segment = 'SMB' WHERE customer_id = 'C1'")
        index.update()
        hits = analyst.search("", Filters())
        assert set(ids(hits)) == {"L1", "L5", "S1"}
        assert {hit.segment for hit in hits} == {"SMB"}

    def test_gets_as_many_hits_as_there_are_where_the_newest_have_left_the_segment(
        self, ledgers: Ledgers, index: LogIndex, analyst: Search
    ):
        self.grant(ledgers, "SMB")
        ledgers.customer("C1", "SMB")
        ledgers.customer("C2", "SMB")
        for number in range(3):
            ledgers.error(f"old{number}", "ERR_NETWORK", "C1")
        for number in range(9):
            ledgers.error(f"new{number}", "ERR_NETWORK", "C2")
        index.update()
        ledgers.run("UPDATE dim_customers SET segment = 'MASS' WHERE customer_id = 'C2'")

        assert ids(analyst.search("lost connection", Filters(), limit=2)) == ["old2", "old1"]

    def test_neither_sees_nor_finds_what_an_event_said(
        self, two_customers: Ledgers, index: LogIndex, analyst: Search, engineer: Search
    ):
        two_customers.case("S5", "SERVICE", case_text="Write to ann@example.com, zzyzx")
        two_customers.error("L5", "ERR_NETWORK", extra_fields='{"message": "mail ann@example.com, zzyzx"}')
        index.update()

        assert "ann@example.com" in engineer.search("zzyzx", Filters())[0].document
        assert "ann@example.com" not in analyst.search("", Filters(), 1)[0].document
        assert all(hit.score < 0.5 for hit in analyst.search("zzyzx", Filters()))
        seen = [f"{hit.document} {hit.passage}" for hit in analyst.search("", Filters())]
        assert len(seen) == 7
        assert not any("ann@example.com" in text or "zzyzx" in text for text in seen)


def test_a_role_that_nobody_knows_is_refused_with_those_that_there_are(two_customers: Ledgers, settings: Settings):
    with pytest.raises(UnknownRoleError, match="no role 'GUEST'; the roles are DATA_ENGINEER, MARKETING"):
        open_search(settings, "GUEST").search("", Filters())


def test_without_an_index_the_error_says_what_builds_one(engineer: Search):
    with pytest.raises(IndexNotFoundError, match="`churn search` or Dagster's job index_log_search builds it"):
        engineer.search("", Filters())
