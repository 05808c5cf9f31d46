from datetime import datetime

import pytest

from churn_assets.search.hits import FilterError, Filters, parse_filters

NOON = datetime.fromisoformat("2026-03-01T12:00:00")


def test_filters_are_read_from_name_and_value():
    found = parse_filters(["customer_id=C1", "device=a=b", "kind=case"], NOON, None)

    assert found == Filters(kind="case", customer_id="C1", device="a=b", since=NOON)


@pytest.mark.parametrize(
    ("filters", "since", "until", "error"),
    [
        (["segment=MASS"], None, None, "no filter 'segment'; filters are kind, customer_id, error_code, device"),
        (["=C1"], None, None, "no filter ''"),
        (["customer_id"], None, None, "needs a value: --filter customer_id="),
        (["customer_id="], None, None, "needs a value"),
        (["device=IOS", "device=WEB"], None, None, "is given twice"),
        (["kind=email"], None, None, "no kind 'email'; kinds are error, case"),
        ([], NOON, NOON, "--since must be earlier than --until"),
    ],
)
def test_a_wrong_filter_is_refused_with_what_is_allowed(filters, since, until, error):
    with pytest.raises(FilterError, match=error):
        parse_filters(filters, since, until)
