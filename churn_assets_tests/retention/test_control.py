import pytest
from scipy.stats import binom

from churn_assets.retention.control import is_in_control_group
from churn_assets.rules import Rules

IDS = [f"C{number:08d}" for number in range(100_000)]
# Computed once. A change of these would move customers from one group to the other amid the experiment.
PINNED = [
    ("C00000001", False),
    ("C00000002", False),
    ("Ann", False),
    ("", False),
    ("C00000018", True),
    ("C00000023", True),
    ("C00000026", True),
]


def test_a_tenth_of_the_customers_is_in_the_control_group():
    low, high = binom.interval(0.999, len(IDS), Rules().emails.control_share)

    assert low <= sum(is_in_control_group(id_, Rules().emails.control_share) for id_ in IDS) <= high


@pytest.mark.parametrize(("customer_id", "assigned"), PINNED)
def test_a_customer_never_changes_sides(customer_id: str, assigned: bool):
    assert is_in_control_group(customer_id, 0.1) == assigned


def test_a_larger_share_only_adds_customers_to_the_control_group():
    assert all(is_in_control_group(id_, 0.2) for id_ in IDS[:10_000] if is_in_control_group(id_, 0.1))


def test_no_share_means_nobody_and_the_whole_share_everybody():
    assert not any(is_in_control_group(id_, 0.0) for id_ in IDS[:1_000])
    assert all(is_in_control_group(id_, 1.0) for id_ in IDS[:1_000])
