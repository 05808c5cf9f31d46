"""Whether the retention emails keep customers: churn with and without them, and how sure that is.

Here belong what counts as having left, the estimate with its interval, and what may be concluded. `control` assigns the
control group; `churn_assets.assets.effect` shows the effect in Dagster.

The estimate is by intention to treat. A customer whose first intervention is CONTROL is in the control group. Every other
customer counts as treated, even if the email was rejected, cancelled or failed. Such customers differ from the rest: an email
is cancelled because its customer leaves, for example. Without them, the groups would differ by more than the email. The price:
the estimate is the effect of being chosen for an email, which is smaller than the effect of reading one.

An interval holds for one look at a time fixed beforehand. Looking every day until the interval excludes zero finds an effect
that does not exist in more than 5 of 100 cases.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from statistics import NormalDist
from typing import TypeAlias

from churn_assets.configuration import rules
from churn_assets.rules import EARLIEST_LIFE
from churn_assets.warehouse.codes import closed_at, is_closed
from churn_assets.warehouse.protocol import Warehouse

Interval: TypeAlias = tuple[float, float]

CONFIDENCE = 0.95  # two-sided
POWER = 0.8  # with which `still_needed` customers would tell the present difference from zero
_Z_CONFIDENCE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)


def outcomes_in_sql(schema: str = "") -> str:
    """A query with one row per customer with an intervention: customer_id, and of the first one is_control, created_at (UTC) and
    has_left. A customer has left if all accounts are closed, the last one after the intervention and within `emails.effect_days`.

    Accounts opened later do not count: a customer who left and came back had left. The query omits customers who had left
    before, or nobody has said when, and customers without a known account. Neither depends on the group, so both groups miss
    them alike. `schema` is the prefix of the tables, as `database.schema.`. The SQL runs on both warehouses.
    """
    return f"""
    SELECT
        ends.customer_id,
        ends.is_control,
        ends.created_at,
        ends.left_at IS NOT NULL AND ends.left_at <= ends.created_at + INTERVAL '{rules().emails.effect_days} days' AS has_left
    FROM (
        SELECT
            firsts.customer_id,
            firsts.is_control,
            firsts.created_at,
            CASE
                WHEN count(*) = count(CASE WHEN {is_closed("accounts.account_status")} THEN 1 END)
                    THEN max(coalesce({closed_at("accounts.")}, CAST('{EARLIEST_LIFE}' AS TIMESTAMP)))
            END AS left_at
        FROM (
            SELECT
                customer_id,
                created_at,
                status = 'CONTROL' AS is_control,
                row_number() OVER (PARTITION BY customer_id ORDER BY created_at, intervention_id) AS place
            FROM {schema}agent_intervention_log
        ) AS firsts
        INNER JOIN {schema}dim_accounts AS accounts
            ON firsts.customer_id = accounts.customer_id
            AND (
                accounts.opened_at IS NULL
                OR accounts.opened_at <= firsts.created_at + INTERVAL '{rules().emails.effect_days} days'
            )
        WHERE firsts.place = 1
        GROUP BY firsts.customer_id, firsts.is_control, firsts.created_at
    ) AS ends
    WHERE ends.left_at IS NULL OR ends.left_at > ends.created_at
"""


@dataclass(frozen=True)
class Group:
    """Customers of one group and how many of them left. Shares are 0 to 1, and None for an empty group."""

    customers: int
    left: int
    churn: float | None
    interval: Interval | None
    """Wilson's 95 % interval of the churn."""


@dataclass(frozen=True)
class Effect:
    """The effect of the emails on churn within `emails.effect_days`. Shares are 0 to 1; None means not known yet."""

    treated: Group
    control: Group
    difference: float | None
    """Churn of the control group minus churn of the treated; positive means that emails keep customers."""
    interval: Interval | None
    """The 95 % interval of the difference."""
    relative_reduction: float | None
    """The difference as a share of the control group's churn; also None if nobody in the control group left."""
    still_needed: int | None
    """How many more customers, in both groups together, would tell the present difference from zero; None if it is 0."""
    maturing: int = 0
    """Customers whose intervention is too recent to count. They are the first of those still needed."""

    @property
    def is_told_from_zero(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def conclusion(self) -> str:
        """What may be concluded, in one sentence."""
        if self.interval is None:
            missing = "the control group" if self.control.churn is None else "those chosen for an email"
            return f"Not known yet: nobody of {missing} has been watched for {rules().emails.effect_days} days."
        within = f"within {rules().emails.effect_days} days"
        low, high = (100 * bound for bound in self.interval)
        if low > 0:
            return (
                f"Emails keep between {low:.1f} and {high:.1f} of 100 customers chosen for one from leaving {within}."
            )
        if high < 0:
            return f"Emails drive away between {-high:.1f} and {-low:.1f} of 100 customers chosen for one {within}."
        if self.still_needed is None:
            return "Not yet distinguishable from zero."
        return f"Not yet distinguishable from zero; about {self.still_needed:,} more customers are needed."


def estimate(treated: int, treated_left: int, control: int, control_left: int) -> Effect:
    """The effect from numbers of customers and how many of them left; `ValueError` if more left than there are.

    The interval of the difference is Newcombe's hybrid score interval: RG Newcombe, Interval estimation for the difference
    between independent proportions: comparison of eleven methods, Statistics in Medicine 17 (1998) 873-890, method 10.
    """
    with_email, without = _group(treated, treated_left), _group(control, control_left)
    unknown = Effect(with_email, without, difference=None, interval=None, relative_reduction=None, still_needed=None)
    if with_email.churn is None or with_email.interval is None or without.churn is None or without.interval is None:
        return unknown
    difference = without.churn - with_email.churn
    # How far each churn may be off towards a smaller and towards a larger difference.
    control_down, control_up = without.churn - without.interval[0], without.interval[1] - without.churn
    treated_down, treated_up = with_email.churn - with_email.interval[0], with_email.interval[1] - with_email.churn
    control_towards_zero, treated_towards_zero = (
        (control_down, treated_up) if difference > 0 else (control_up, treated_down)
    )
    return replace(
        unknown,
        difference=difference,
        interval=(
            difference - math.hypot(control_down, treated_up),
            difference + math.hypot(control_up, treated_down),
        ),
        relative_reduction=difference / without.churn if without.churn else None,
        # The variances are those of the interval, so that still_needed is 0 only if the interval excludes zero, even if a group
        # is small or if nobody or everybody left: GY Zou, A Donner, Construction of confidence intervals about effect
        # measures: a general approach, Statistics in Medicine 27 (2008) 1693-1702.
        still_needed=further_customers(
            difference,
            control * (control_towards_zero / _Z_CONFIDENCE) ** 2,
            treated * (treated_towards_zero / _Z_CONFIDENCE) ** 2,
            control,
            treated,
        )
        if difference
        else None,
    )


def further_customers(
    difference: float,
    control_variance: float,
    treated_variance: float,
    control: int = 0,
    treated: int = 0,
    share: float | None = None,
) -> int:
    """How many more customers, in both groups together, it takes to tell a `difference` (not 0) from zero.

    The variances are those of one customer, churn * (1 - churn). `share` of the further customers are in the control group;
    without one, it is `emails.control_share`. With n_c and n_t customers at the end, the power is POWER where
    control_variance / n_c + treated_variance / n_t = (difference / (z_0.975 + z_0.8))^2: S Chow, J Shao, H Wang, Sample Size
    Calculations in Clinical Research, 2nd ed. (2008), 4.2, the test for equality of two proportions.
    """
    wanted = (difference / (_Z_CONFIDENCE + _Z_POWER)) ** 2
    share = rules().emails.control_share if share is None else share
    rest = 1 - share
    # n_c = control + share * further and n_t = treated + rest * further make it a quadratic equation for `further`.
    square = wanted * share * rest
    linear = wanted * (share * treated + rest * control) - rest * control_variance - share * treated_variance
    constant = wanted * control * treated - control_variance * treated - treated_variance * control
    further = (-linear + math.sqrt(linear**2 - 4 * square * constant)) / (2 * square)
    return max(0, math.ceil(further))


def intervention_effect(warehouse: Warehouse, now: datetime) -> Effect:
    """The effect over all first interventions that are `emails.effect_days` old at `now` (UTC)."""
    return _effect(sum(_counts_by_month(warehouse, now).values(), Counter[str]()))


def effect_by_month(warehouse: Warehouse, now: datetime) -> dict[date, Effect]:
    """The effect by the month (its first day) of the first intervention, oldest first."""
    return {month: _effect(counts) for month, counts in _counts_by_month(warehouse, now).items()}


def _group(customers: int, left: int) -> Group:
    if not 0 <= left <= customers:
        raise ValueError(f"{left} of {customers} customers cannot have left")
    if not customers:
        return Group(customers, left, churn=None, interval=None)
    # SciPy takes half a second to import, which only a measurement has to pay for.
    from scipy.stats import binomtest  # noqa: PLC0415

    interval = binomtest(left, customers).proportion_ci(CONFIDENCE, method="wilson")
    return Group(customers, left, left / customers, (float(interval.low), float(interval.high)))


def _effect(counts: Counter[str]) -> Effect:
    found = estimate(counts["treated"], counts["treated_left"], counts["control"], counts["control_left"])
    return replace(found, maturing=counts["maturing"])


def _counts_by_month(warehouse: Warehouse, now: datetime) -> dict[date, Counter[str]]:
    matured_until = now - timedelta(days=rules().emails.effect_days)
    rows = warehouse.query(
        "SELECT CAST(date_trunc('month', created_at) AS DATE) AS intervention_month,"
        " count(CASE WHEN is_control AND created_at <= ? THEN 1 END) AS control,"
        " count(CASE WHEN is_control AND has_left AND created_at <= ? THEN 1 END) AS control_left,"
        " count(CASE WHEN NOT is_control AND created_at <= ? THEN 1 END) AS treated,"
        " count(CASE WHEN NOT is_control AND has_left AND created_at <= ? THEN 1 END) AS treated_left,"
        " count(CASE WHEN created_at > ? THEN 1 END) AS maturing"
        f" FROM ({outcomes_in_sql()}) AS outcomes GROUP BY 1 ORDER BY 1",
        [matured_until] * 5,
    ).to_pylist()
    return {row.pop("intervention_month"): Counter(row) for row in rows}
