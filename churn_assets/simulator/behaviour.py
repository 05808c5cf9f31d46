"""What customers do: their daily rates, the drift that may end in leaving, and the facts that result.

Everything here works on columns of numbers for many customers at once; a customer is a position in `People`.
`bank` and `live` decide which days or windows are generated, and with what ids; text and Arrow are in `ledgers`.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from churn_assets.simulator.population import (
    CHECKING,
    CREDIT_CARD,
    EVERYDAY_EVENTS_MEDIAN,
    EVERYDAY_EVENTS_SIGMA,
    SAVINGS,
    Bools,
    Floats,
    Instants,
    Ints,
    People,
    office_hours,
)
from churn_assets.simulator.streams import Purpose, stream

# ---- The vocabulary. Columns hold positions in these tuples, or ABSENT if there is no value. ----

ABSENT = -1
CODES = ("POS", "ATM", "BILL_PAY", "WIRE_OUT", "FEE", "DEPOSIT", "WIRE_IN", "REFUND", "REVERSAL")
POS, ATM, BILL_PAY, WIRE_OUT, FEE, DEPOSIT, WIRE_IN, REFUND, REVERSAL = range(9)
CHANNELS = ("CARD", "MOBILE", "WEB", "BRANCH", "ATM")
CARD, MOBILE, WEB, BRANCH, AT_ATM = range(5)
ACTIONS = ("LOGIN", "VIEW_BALANCE", "TRANSFER", "PAY_BILL", "CARD_SETTINGS")
LOGIN, VIEW_BALANCE = 0, 1
DEVICES = ("IOS", "ANDROID", "WEB")
ERRORS = (
    "ERR_AUTH_TIMEOUT",
    "ERR_AUTH_OTP",
    "ERR_PAYMENT_DECLINED",
    "ERR_NETWORK",
    "ERR_APP_CRASH",
    "ERR_LIMIT_EXCEEDED",
)
CATEGORIES = ("FEES", "APP_ISSUE", "CARD", "FRAUD", "SERVICE")
# What customers write to support: the same number of texts for each category, in the order of the categories.
CASE_TEXTS = (
    "I was charged a monthly fee although my account should be free of charge.",
    "The fee for a transfer abroad is higher than you told me at the counter.",
    "You took the overdraft fee twice this month. Please pay one of them back.",
    "Why does it cost more to draw cash at another bank's machine?",
    "The app closes as soon as I open my statements.",
    "Since the update I cannot log in with my fingerprint any more.",
    "The transfer screen keeps loading and then says try again later.",
    "I get no code on my new phone, so I cannot confirm a payment.",
    "My card was declined at the supermarket although there is money on the account.",
    "The new card has not arrived after two weeks.",
    "The machine kept my card and I need a replacement before I travel.",
    "Paying without contact does not work any more, only with the PIN.",
    "There is a payment on my account that I did not make.",
    "Somebody called me in the bank's name and asked for my password.",
    "My card was used in a country where I have never been. Please block it.",
    "I clicked on a link in a message and now a transfer is missing.",
    "I waited forty minutes on the phone and then the line was cut.",
    "Nobody has answered the letter that I wrote three weeks ago.",
    "The branch near me has closed. Where can I pay in cash?",
    "I would like to speak to the same adviser as last time.",
)
MERCHANTS = tuple(
    name
    for category in (
        ("Harvest Market", "Corner Grocer", "Daily Basket", "Green Valley Foods"),
        ("Blue Line Transit", "City Cabs", "Northway Fuel", "Parkwell"),
        ("Cafe Lumen", "Noodle House", "The Copper Pot", "Pizzeria Vela"),
        ("Brightside Electronics", "Oak & Thread", "Homeware Depot", "Page One Books"),
        ("Streamly", "Cloudbox", "Gamehall", "Soundwave"),
        ("Skyport Airlines", "Harbour Hotels", "Rail Direct", "Wander Travel"),
        ("Wellness Pharmacy", "Dental Care Centre", "Fit Factory", "Optica"),
    )
    for name in category
)
# The share of card payments of each merchant, in the order above: groceries and cafes have more than airlines.
_MERCHANT_CDF = np.cumsum(np.repeat([0.30, 0.13, 0.22, 0.13, 0.10, 0.04, 0.08], 4) / 4)

# ---- Rhythms: relative frequency of each hour of the day (UTC), and of weekend days by segment. ----

_WEEKDAY_HOURS = (1, 0.6, 0.4, 0.3, 0.5, 1.2, 3, 5, 7, 7, 7, 8, 9, 8, 7, 7, 8, 10, 11, 10, 8, 6, 4, 2)
_WEEKEND_HOURS = (2, 1.5, 1, 0.6, 0.4, 0.5, 1, 2, 4, 7, 10, 11, 11, 10, 10, 9, 8, 8, 9, 9, 8, 7, 5, 3)
WEEKEND_FACTOR = (1.15, 1.05, 0.35, 1.25)
WEEKDAY_FACTOR = (0.94, 0.98, 1.26, 0.90)
SATURDAY = 5

# ---- Everyday postings, by segment in the order of SEGMENTS. ----

_EVERYDAY_CODES = np.array([POS, ATM, BILL_PAY, WIRE_IN, REFUND, FEE, REVERSAL])
_EVERYDAY_CODE_CDF = np.cumsum(
    [
        (0.710, 0.105, 0.105, 0.025, 0.025, 0.022, 0.008),
        (0.720, 0.055, 0.130, 0.040, 0.030, 0.015, 0.010),
        (0.520, 0.060, 0.200, 0.145, 0.030, 0.030, 0.015),
        (0.790, 0.100, 0.045, 0.025, 0.020, 0.015, 0.005),
    ],
    axis=1,
)
# Median amount by segment (rows) and code (columns, in the order of CODES), and the log-normal spread by code.
_MEDIAN_AMOUNT = np.array(
    [
        (24.0, 60.0, 75.0, 420.0, 6.0, 1_250.0, 180.0, 22.0, 24.0),
        (58.0, 120.0, 160.0, 1_600.0, 9.0, 3_400.0, 900.0, 55.0, 60.0),
        (85.0, 150.0, 260.0, 1_900.0, 15.0, 2_800.0, 1_500.0, 80.0, 90.0),
        (12.0, 30.0, 35.0, 150.0, 3.0, 480.0, 90.0, 14.0, 12.0),
    ]
)
_AMOUNT_SIGMA = np.array([0.85, 0.45, 0.60, 0.75, 0.30, 0.18, 0.80, 0.80, 0.80])
_SMALL_PAYMENT_MEDIAN = 7.5
_SMALLEST_AMOUNT = 0.5

# ---- Signs of trouble: events per healthy customer and day ... ----

WIRES_PER_DAY = (0.020, 0.040, 0.075, 0.008)
ERRORS_PER_APP_ACTION = 0.045
CASES_PER_DAY = 0.0045
HEALTHY_SENTIMENT = 0.64
# ... and what a drift at full strength adds to them, for a customer with a style of 1.
DRIFT_WIRES_PER_DAY = 0.45
DRIFT_WIRE_AMOUNT_FACTOR = 3.0
DRIFT_ERRORS_PER_DAY = 0.60
DRIFT_CASES_PER_DAY = 0.30
DRIFT_SENTIMENT_DROP = 0.46
DRIFT_FADING = 0.62
"""The share of the everyday activity that is lost."""
SENTIMENT_CONCENTRATION = 7.0
"""Of the beta distribution: the higher, the closer the sentiments are to their mean."""

# ---- The hidden course of a relationship. Hazards are per customer and day, before heterogeneity. ----

DRIFT_HAZARD = 3.9e-4
ABRUPT_HAZARD = 1.9e-4
FRAILTY_SIGMA = 0.2
"""Log-normal spread of both hazards between customers that nothing observable shows."""
DETACHMENT = 0.85
"""Spread that is observable: customers who use the bank little leave more easily. Standard deviation of log hazards."""
DRIFT_DAYS = (30.0, 60.0)
DRIFT_STEEPNESS = 1.7
"""How many times faster the signs of a drift reach full strength than the drift itself ends."""
RECOVERING_SHARE = 0.30
STYLE_SIGMA = 0.65
"""Log-normal spread, between customers, of how strongly a drift shows in each kind of event."""
SETTLING_IN_DAYS = 14.0
"""No customer starts to leave so soon after joining."""
BAD_MONTH_DAYS = 26.0
BAD_MONTH_EVERY_DAYS = (400.0, 3_600.0)
"""Now and then a customer has a month of bad luck, which looks like a drift but means nothing."""
BAD_MONTH_INTENSITY = 0.72

DAY = np.timedelta64(86_400_000_000, "us")
NEVER = np.datetime64("9999-12-31T00:00:00", "us")
_FAR_FUTURE_DAYS = 50_000.0

_Facts = TypeVar("_Facts")


@dataclass(frozen=True)
class Courses:
    """The course of each customer's relationship, by position in `People`; the bank sees none of it."""

    drift_from: Instants
    drift_to: Instants
    recovers: Bools
    left_at: Instants
    """When all accounts are closed; NEVER for those who stay."""
    abrupt_hazard: Floats
    wire_style: Floats
    error_style: Floats
    case_style: Floats
    fade_style: Floats
    bad_month_every: Floats
    bad_month_phase: Floats


@dataclass(frozen=True)
class Rates:
    """Expected events per customer on one day."""

    postings: Floats
    app_actions: Floats
    salaries: Floats
    """1 on the customer's pay day, otherwise 0."""
    wires: Floats
    errors: Floats
    cases: Floats
    trouble: Floats
    """How bad things are for the customer, 0 to 1."""


@dataclass(frozen=True)
class Transactions:
    """Postings as columns; `who` is the position of the customer."""

    at: Instants
    who: Ints
    product: Ints
    code: Ints
    amount: Floats
    channel: Ints
    merchant: Ints


@dataclass(frozen=True)
class AppActions:
    """Actions in the app as columns; `who` is the position of the customer."""

    at: Instants
    who: Ints
    action: Ints
    error: Ints
    device: Ints


@dataclass(frozen=True)
class Cases:
    """Support cases as columns; `who` is the position of the customer."""

    at: Instants
    who: Ints
    category: Ints
    sentiment: Floats

    @property
    def text(self) -> Ints:
        """The position in `CASE_TEXTS` of what each customer wrote: one of the texts of the category."""
        # Drawn from the last digits of the sentiment, so that texts need no randomness of their own.
        choices = len(CASE_TEXTS) // len(CATEGORIES)
        return self.category * choices + np.rint(self.sentiment * 1000).astype(np.int64) % choices


def draw_courses(seed: int, people: People, first_day: np.datetime64) -> Courses:
    """Draw the courses of the relationships from `first_day` on; nobody has left by then, but some are already drifting."""
    count = len(people)
    rng = stream(seed, Purpose.COURSES, int(people.number[0]))
    use = np.log(people.everyday_events / np.array(EVERYDAY_EVENTS_MEDIAN)[people.segment]) / EVERYDAY_EVENTS_SIGMA
    detachment = np.exp(-DETACHMENT * use - DETACHMENT**2 / 2)
    frailty = detachment * rng.lognormal(-(FRAILTY_SIGMA**2) / 2, FRAILTY_SIGMA, count)
    settled_at = people.joined_at + _days(np.full(count, SETTLING_IN_DAYS))
    drifts_possible_from: Instants = np.maximum(first_day.astype("M8[us]") - _days(np.array(DRIFT_DAYS[1])), settled_at)
    drift_from = drifts_possible_from + _days(rng.exponential(1.0, count) / (DRIFT_HAZARD * frailty))
    drift_to = drift_from + _days(rng.uniform(*DRIFT_DAYS, count))
    recovers = rng.random(count) < RECOVERING_SHARE
    abrupt_hazard = ABRUPT_HAZARD * frailty
    abrupt_at = np.maximum(first_day.astype("M8[us]"), settled_at) + _days(rng.exponential(1.0, count) / abrupt_hazard)

    gone_before = ~recovers & (drift_to < first_day + DAY)
    drift_from[gone_before] = NEVER
    drift_to[gone_before] = NEVER
    leaves_at = np.minimum(np.where(recovers, NEVER, drift_to), abrupt_at)
    styles = rng.lognormal(0.0, STYLE_SIGMA, (4, count))
    bad_month_every = rng.uniform(*BAD_MONTH_EVERY_DAYS, count)
    return Courses(
        drift_from=drift_from,
        drift_to=drift_to,
        recovers=recovers,
        left_at=np.where(
            leaves_at < NEVER, leaves_at.astype("M8[D]").astype("M8[us]") + office_hours(rng, count), NEVER
        ),
        abrupt_hazard=abrupt_hazard,
        wire_style=styles[0],
        error_style=styles[1],
        case_style=styles[2],
        fade_style=styles[3],
        bad_month_every=bad_month_every,
        bad_month_phase=rng.uniform(0.0, bad_month_every),
    )


def chance_of_leaving(courses: Courses, as_of: np.datetime64, days: float) -> Floats:
    """Return the true probability that each customer leaves in the `days` after `as_of`.

    It knows the hidden course up to `as_of` (a drift and its age, the hazards), but not the future. A drift that has not
    begun yet is left out: it leads to leaving after DRIFT_DAYS[0] days at the earliest.
    """
    shortest, longest = DRIFT_DAYS
    age = np.clip((as_of - courses.drift_from) / DAY, 0.0, longest)
    drifting = (courses.drift_from <= as_of) & (as_of < courses.drift_to)
    ends_in_time = (np.clip(age + days, shortest, longest) - np.maximum(age, shortest)) / np.maximum(
        longest - np.maximum(age, shortest), 1e-9
    )
    leaves_by_drift = np.where(drifting, (1.0 - RECOVERING_SHARE) * ends_in_time, 0.0)
    return 1.0 - (1.0 - leaves_by_drift) * np.exp(-courses.abrupt_hazard * days)


def rates_on(people: People, courses: Courses, day: np.datetime64) -> Rates:
    """Return what each customer is expected to do on the UTC day `day`, regardless of joining and leaving."""
    noon = day.astype("M8[us]") + DAY // 2
    rhythm = np.array(WEEKEND_FACTOR if _is_weekend(day) else WEEKDAY_FACTOR)
    everyday = people.everyday_events * rhythm[people.segment]

    progress: Floats = (noon - courses.drift_from) / (courses.drift_to - courses.drift_from + np.timedelta64(1, "us"))
    under_way = (progress > 0.0) & (progress < 1.0)
    # A drift that ends in leaving rises to its maximum and stays there; a drift with recovery peaks half-way.
    rising = np.minimum(progress * DRIFT_STEEPNESS, 1.0) / 2
    phase: Floats = np.where(courses.recovers, progress, rising)
    drift = np.where(under_way, np.sin(np.pi * phase), 0.0)
    bad_month = (_ordinal(day) - courses.bad_month_phase) % courses.bad_month_every < BAD_MONTH_DAYS
    trouble = np.maximum(drift, np.where(bad_month, BAD_MONTH_INTENSITY, 0.0))

    everyday = everyday * (1.0 - DRIFT_FADING * drift * np.minimum(courses.fade_style, 1.4))
    app_actions = everyday * people.app_share
    wires = np.array(WIRES_PER_DAY)[people.segment] * people.sends_wires
    return Rates(
        postings=everyday - app_actions,
        app_actions=app_actions,
        salaries=_is_pay_day(people, day).astype(np.float64),
        wires=wires + DRIFT_WIRES_PER_DAY * trouble * courses.wire_style,
        errors=ERRORS_PER_APP_ACTION * app_actions + DRIFT_ERRORS_PER_DAY * trouble * courses.error_style,
        cases=CASES_PER_DAY + DRIFT_CASES_PER_DAY * trouble * courses.case_style,
        trouble=trouble,
    )


def draw_day(seed: int, people: People, courses: Courses, day: np.datetime64) -> tuple[Transactions, AppActions, Cases]:
    """Draw all facts of one UTC day, in order of time, for customers who at that moment have joined and not left."""
    rng = stream(seed, Purpose.HISTORY_DAY, _ordinal(day))
    rates = rates_on(people, courses, day)

    def happening(rate: Floats) -> tuple[Ints, Instants]:
        who = draw_customers(rng, np.cumsum(rate))
        at = _times_of_day(rng, day, len(who))
        belongs = (people.joined_at[who] < at) & (at < courses.left_at[who])
        return who[belongs], at[belongs]

    paid = np.flatnonzero(rates.salaries)
    # Payroll runs early in the morning.
    paid_at = day.astype("M8[us]") + (rng.uniform(4.0, 8.0, len(paid)) * 3_600_000_000).astype("m8[us]")
    belongs = (people.joined_at[paid] < paid_at) & (paid_at < courses.left_at[paid])

    transactions = concatenated(
        [
            everyday_postings(rng, people, *happening(rates.postings)),
            salaries(rng, people, paid[belongs], paid_at[belongs]),
            wires_out(rng, people, rates.trouble, *happening(rates.wires)),
        ]
    )
    actions = concatenated(
        [
            everyday_actions(rng, people, *happening(rates.app_actions)),
            failed_actions(rng, people, *happening(rates.errors)),
        ]
    )
    cases = support_cases(rng, rates.trouble, *happening(rates.cases))
    return (
        reordered(transactions, np.argsort(transactions.at, kind="stable")),
        reordered(actions, np.argsort(actions.at, kind="stable")),
        reordered(cases, np.argsort(cases.at, kind="stable")),
    )


def draw_customers(rng: np.random.Generator, cumulative_rate: Floats, size: int | None = None) -> Ints:
    """Draw the customers of events, in proportion to their rates; without `size`, the rates give the number of events."""
    total = float(cumulative_rate[-1])
    if size is None:
        size = int(rng.poisson(total))
    return np.searchsorted(cumulative_rate, rng.random(size) * total, side="right").astype(np.int64)


def everyday_postings(rng: np.random.Generator, people: People, who: Ints, at: Instants) -> Transactions:
    """Draw card payments, cash, bills and the like."""
    size = len(who)
    segment = people.segment[who]
    choice = (rng.random(size)[:, None] > _EVERYDAY_CODE_CDF[segment, :-1]).sum(axis=1)
    code = _EVERYDAY_CODES[choice]
    is_card_payment = (code == POS) | (code == REFUND)
    on_credit = is_card_payment & people.owns[who, CREDIT_CARD] & (rng.random(size) < 0.55)
    to_savings = (code == WIRE_IN) & people.owns[who, SAVINGS] & (rng.random(size) < 0.30)
    by_hand = np.where(rng.random(size) < 0.6, MOBILE, WEB)
    return Transactions(
        at=at,
        who=who,
        product=np.where(on_credit, CREDIT_CARD, np.where(to_savings, SAVINGS, CHECKING)),
        code=code,
        amount=_amounts(rng, _MEDIAN_AMOUNT[segment, code], _AMOUNT_SIGMA[code]),
        # The bank itself books fees and reversals.
        channel=np.select(
            [is_card_payment, code == ATM, (code == FEE) | (code == REVERSAL)], [CARD, AT_ATM, ABSENT], by_hand
        ),
        merchant=np.where(is_card_payment, _merchants(rng, size), ABSENT),
    )


def small_payments(rng: np.random.Generator, people: People, who: Ints, at: Instants) -> Transactions:
    """Draw card payments as small as a coffee."""
    size = len(who)
    on_credit = people.owns[who, CREDIT_CARD] & (rng.random(size) < 0.55)
    return Transactions(
        at=at,
        who=who,
        product=np.where(on_credit, CREDIT_CARD, CHECKING),
        code=np.full(size, POS),
        amount=_amounts(rng, np.full(size, _SMALL_PAYMENT_MEDIAN), np.full(size, 0.5)),
        channel=np.full(size, CARD),
        merchant=_merchants(rng, size),
    )


def salaries(rng: np.random.Generator, people: People, who: Ints, at: Instants) -> Transactions:
    """Draw one salary for each of `who`."""
    size = len(who)
    per_month = np.where(people.salary_is_biweekly[who], 14 / 30, 1.0)
    return Transactions(
        at=at,
        who=who,
        product=np.full(size, CHECKING),
        code=np.full(size, DEPOSIT),
        amount=_amounts(
            rng, _MEDIAN_AMOUNT[people.segment[who], DEPOSIT] * per_month, np.full(size, _AMOUNT_SIGMA[DEPOSIT])
        ),
        channel=np.full(size, WEB),
        merchant=np.full(size, ABSENT),
    )


def wires_out(rng: np.random.Generator, people: People, trouble: Floats, who: Ints, at: Instants) -> Transactions:
    """Draw outgoing wires; customers in trouble send larger amounts."""
    size = len(who)
    median = _MEDIAN_AMOUNT[people.segment[who], WIRE_OUT] * (1.0 + DRIFT_WIRE_AMOUNT_FACTOR * trouble[who])
    from_savings = people.owns[who, SAVINGS] & (rng.random(size) < 0.25)
    return Transactions(
        at=at,
        who=who,
        product=np.where(from_savings, SAVINGS, CHECKING),
        code=np.full(size, WIRE_OUT),
        amount=_amounts(rng, median, np.full(size, _AMOUNT_SIGMA[WIRE_OUT])),
        channel=rng.choice([MOBILE, WEB, BRANCH], size=size, p=(0.45, 0.40, 0.15)),
        merchant=np.full(size, ABSENT),
    )


def everyday_actions(rng: np.random.Generator, people: People, who: Ints, at: Instants) -> AppActions:
    """Draw successful actions in the app."""
    action = np.searchsorted([0.42, 0.74, 0.86, 0.96], rng.random(len(who)), side="right")
    return AppActions(at, who, action, np.full(len(who), ABSENT), people.device[who])


def idle_actions(rng: np.random.Generator, people: People, who: Ints, at: Instants) -> AppActions:
    """Draw actions in the app that change nothing: a login, a look at the balance."""
    action = np.where(rng.random(len(who)) < 0.5, LOGIN, VIEW_BALANCE)
    return AppActions(at, who, action, np.full(len(who), ABSENT), people.device[who])


def failed_actions(rng: np.random.Generator, people: People, who: Ints, at: Instants) -> AppActions:
    """Draw actions in the app that failed with an error."""
    size = len(who)
    error = rng.choice(len(ERRORS), size=size, p=(0.26, 0.18, 0.20, 0.18, 0.10, 0.08))
    anywhere = rng.integers(len(ACTIONS), size=size)
    paying = rng.integers(2, 4, size=size)
    # Authentication fails at login; payments are declined and limits reached in actions that move money.
    action = np.select([error <= 1, (error == 2) | (error == 5)], [np.full(size, LOGIN), paying], anywhere)
    return AppActions(at, who, action, error, people.device[who])


def support_cases(rng: np.random.Generator, trouble: Floats, who: Ints, at: Instants) -> Cases:
    """Draw support cases; customers in trouble are unhappy."""
    mean = HEALTHY_SENTIMENT - DRIFT_SENTIMENT_DROP * trouble[who]
    sentiment = rng.beta(mean * SENTIMENT_CONCENTRATION, (1.0 - mean) * SENTIMENT_CONCENTRATION)
    category = rng.choice(len(CATEGORIES), size=len(who), p=(0.28, 0.27, 0.20, 0.07, 0.18))
    return Cases(at, who, category, np.round(sentiment, 3))


def concatenated(parts: list[_Facts]) -> _Facts:
    """Return one dataclass of columns with the rows of all `parts`, in order."""
    names = list(vars(parts[0]))
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return type(parts[0])(**columns)


def reordered(facts: _Facts, rows: Ints | Bools) -> _Facts:
    """Return a dataclass of columns with only those rows, in that order."""
    columns: dict[str, Any] = {name: column[rows] for name, column in vars(facts).items()}
    return type(facts)(**columns)


def _ordinal(day: np.datetime64) -> int:
    return int(day.astype("M8[D]").astype(np.int64))


def _is_weekend(day: np.datetime64) -> bool:
    # Day 0, 1970-01-01, was a Thursday, the fourth day of a week.
    return (_ordinal(day) + 3) % 7 >= SATURDAY


def _is_pay_day(people: People, day: np.datetime64) -> Bools:
    month_begins = day.astype("M8[M]").astype("M8[D]")
    monthly = people.salary_day == _ordinal(day) - _ordinal(month_begins)
    biweekly = (people.salary_day + _ordinal(day)) % 14 == 0
    return (people.salary_is_biweekly & biweekly) | (~people.salary_is_biweekly & monthly)


def _times_of_day(rng: np.random.Generator, day: np.datetime64, size: int) -> Instants:
    hours = np.array(_WEEKEND_HOURS if _is_weekend(day) else _WEEKDAY_HOURS)
    cdf = np.concatenate([[0.0], np.cumsum(hours) / hours.sum()])
    return day.astype("M8[us]") + (np.interp(rng.random(size), cdf, np.arange(25)) * 3_600_000_000).astype("m8[us]")


def _amounts(rng: np.random.Generator, median: Floats, sigma: Floats) -> Floats:
    amount = median * np.exp(sigma * rng.standard_normal(len(median)))
    return np.maximum(np.round(amount, 2), _SMALLEST_AMOUNT)


def _merchants(rng: np.random.Generator, size: int) -> Ints:
    return np.minimum(np.searchsorted(_MERCHANT_CDF, rng.random(size), side="right"), len(MERCHANTS) - 1)


def _days(count: Floats) -> npt.NDArray[np.timedelta64]:
    return (np.minimum(count, _FAR_FUTURE_DAYS) * 86_400_000_000).astype("m8[us]")
