"""Whether the retention emails keep customers: churn with and without them, and how sure that is.

Here belong what counts as having left, the estimate with its interval, and what may be concluded. Who is in the control group
is `control`; how it looks in Dagster is `churn_assets.assets.effect`.

The estimate is by intention to treat: a customer whose first intervention is CONTROL is in the control group, every other one
counts as treated, also where the email was rejected, was cancelled or failed. Those are not customers like the others (who
leaves has the email cancelled, for one), so leaving them out would compare groups that differ by more than the email. The
price is that the effect is that of being chosen for an email, and smaller than that of reading one.

An interval holds for one look at a time fixed beforehand. Who looks every day until it leaves out zero finds an effect more
often than in 5 of 100 cases where there is none.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from statistics import NormalDist
from typing import TypeAlias

from churn_assets.rules import CONTROL_SHARE, EFFECT_DAYS
from churn_assets.warehouse.protocol import Warehouse

Interval: TypeAlias = tuple[float, float]

CONFIDENCE = 0.95  # two-sided
POWER = 0.8  # with which `still_needed` customers would tell the present difference from zero
_Z_CONFIDENCE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)


def outcomes_in_sql(schema: str = "") -> str:
    """A query with one row per customer with an intervention, of the first one: customer_id, is_control, created_at (UTC) and
    has_left: all accounts are closed, the last one after the intervention and within EFFECT_DAYS.

    Accounts opened later say nothing about that: who left and came back had left. Not among the rows are customers who had
    left already, and those without a known account, of whom it cannot be said. Neither has to do with the group, so they are
    missing from both alike. Tables are those of `schema`, given as `database.schema.`; both warehouses take the SQL.
    """
    return f"""
    SELECT
        ends.customer_id,
        ends.is_control,
        ends.created_at,
        ends.left_at IS NOT NULL AND ends.left_at <= ends.created_at + INTERVAL '{EFFECT_DAYS} days' AS has_left
    FROM (
        SELECT
            firsts.customer_id,
            firsts.is_control,
            firsts.created_at,
            CASE
                WHEN count(*) = count(CASE WHEN accounts.account_status = 'CLOSED' THEN 1 END)
                    THEN max(coalesce(accounts.closed_at, accounts.updated_at))
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
                OR accounts.opened_at <= firsts.created_at + INTERVAL '{EFFECT_DAYS} days'
            )
        WHERE firsts.place = 1
        GROUP BY firsts.customer_id, firsts.is_control, firsts.created_at
    ) AS ends
    WHERE ends.left_at IS NULL OR ends.left_at > ends.created_at
"""


@dataclass(frozen=True)
class Group:
    """Customers of one group and how many of them left; shares are 0 to 1, None where there is no customer."""

    customers: int
    left: int
    churn: float | None
    interval: Interval | None
    """Of the churn: Wilson's, 95 %."""


@dataclass(frozen=True)
class Effect:
    """What the emails do, from 0 to 1: differences of churn within EFFECT_DAYS. None is: not known yet."""

    treated: Group
    control: Group
    difference: float | None
    """Churn of the control group less that of the treated; positive means that emails keep customers."""
    interval: Interval | None
    """Of the difference, 95 %."""
    relative_reduction: float | None
    """The difference as a part of the control group's churn; None also where nobody of the control group left."""
    still_needed: int | None
    """Further customers, both groups together, that would tell the present difference from zero; None where it is 0."""
    maturing: int = 0
    """Customers whose intervention is too young to count; they are among the first of those still needed."""

    @property
    def is_told_from_zero(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def conclusion(self) -> str:
        """What may be concluded, in one sentence."""
        if self.interval is None:
            missing = "the control group" if self.control.churn is None else "those chosen for an email"
            return f"Not known yet: nobody of {missing} has been watched for {EFFECT_DAYS} days."
        low, high = (100 * bound for bound in self.interval)
        if low > 0:
            return f"Emails keep between {low:.1f} and {high:.1f} of 100 customers chosen for one {_FROM_LEAVING}."
        if high < 0:
            return f"Emails drive away between {-high:.1f} and {-low:.1f} of 100 customers chosen for one {_WITHIN}."
        if self.still_needed is None:
            return "Not yet distinguishable from zero."
        return f"Not yet distinguishable from zero; about {self.still_needed:,} more customers are needed."


_WITHIN = f"within {EFFECT_DAYS} days"
_FROM_LEAVING = f"from leaving {_WITHIN}"


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
        # Variances as the interval has them, so that nothing is needed only where the interval leaves out zero, also where a
        # group is small or nobody or everybody left: GY Zou, A Donner, Construction of confidence intervals about effect
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
    share: float = CONTROL_SHARE,
) -> int:
    """How many customers, both groups together, must come to those there are to tell a difference (not 0) from zero.

    The variances are those of one customer, churn * (1 - churn). Of the further customers `share` are in the control group.
    With n_c and n_t customers at the end, the power is POWER where control_variance / n_c + treated_variance / n_t =
    (difference / (z_0.975 + z_0.8))^2: S Chow, J Shao, H Wang, Sample Size Calculations in Clinical Research, 2nd ed. (2008),
    4.2, the test for equality of two proportions.
    """
    wanted = (difference / (_Z_CONFIDENCE + _Z_POWER)) ** 2
    rest = 1 - share
    # n_c = control + share * further and n_t = treated + rest * further make it a quadratic equation for `further`.
    square = wanted * share * rest
    linear = wanted * (share * treated + rest * control) - rest * control_variance - share * treated_variance
    constant = wanted * control * treated - control_variance * treated - treated_variance * control
    further = (-linear + math.sqrt(linear**2 - 4 * square * constant)) / (2 * square)
    return max(0, math.ceil(further))


def intervention_effect(warehouse: Warehouse, now: datetime) -> Effect:
    """The effect over all first interventions that are EFFECT_DAYS old at `now` (UTC)."""
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
    matured_until = now - timedelta(days=EFFECT_DAYS)
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
