"""The bank after its history: an endless stream of events for Kafka, derived from the clock.

Every time window always has the same events; the only state is a cache of what the clock implies. Pacing and sending are
in `producer`; the natural behaviour of customers is in `behaviour`.

A producer for a small bank asks for far more events than its customers would naturally cause. So signs of trouble (errors,
wires out, cases) keep their natural rate per customer and day, and events without meaning fill the surplus. If a producer
asks for fewer events than would naturally happen, all kinds are thinned equally.

To show customers at risk within minutes, departures are played in fast motion: a customer goes through a whole drift in two
minutes and, some time later, leaves or stays.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np

from churn_assets.simulator import behaviour, ledgers
from churn_assets.simulator.bank import Bank
from churn_assets.simulator.behaviour import ABSENT, DAY, AppActions, Cases, Rates, Transactions
from churn_assets.simulator.population import (
    CHECKING,
    JOINS_PER_CUSTOMER_AND_DAY,
    PRODUCTS,
    SEGMENTS,
    Floats,
    Instants,
    Ints,
    draw_people,
)
from churn_assets.simulator.streams import Purpose, stream

Payload: TypeAlias = dict[str, str | float | None]

DEPARTURE_LASTS = timedelta(minutes=2)
DEPARTURE_WIRES = 4
DEPARTURE_WIRE_AMOUNTS = (1_450.0, 4_200.0)
"""Even the smallest wires sum to more than the 5,000 that raise the score."""
DEPARTURE_ERRORS = 7
DEPARTURE_CASES = 4
DEPARTURE_SENTIMENTS = (0.03, 0.25)
LEAVING_SHARE = 0.65
"""Of the departing customers; the others change their minds."""

# Joiners and departures are drawn in blocks, because one random stream for each would cost more than the draw.
JOINERS_PER_BLOCK = 1024
DEPARTURES_PER_BLOCK = 1024
ATTEMPTS_TO_FIND_SOMEBODY = 8
"""Per departure, because a customer who is found may be about to leave naturally."""
BALANCE_SIGMA = 0.1
"""Log-normal spread of a balance around its initial value."""

_EPOCH = datetime.fromisoformat("1970-01-01")
_MICROSECOND = timedelta(microseconds=1)
_BETWEEN_ACCOUNTS = np.timedelta64(1, "ms")
"""The accounts of a customer are opened and closed one after the other, this far apart."""


class Event(NamedTuple):
    """One message for `bank_transactions`; `key` is the customer's id, times are UTC."""

    key: str
    event_type: str
    payload: Payload
    event_time: datetime


# json.dumps would create a new encoder for every event.
_JSON = json.JSONEncoder(separators=(",", ":"))


def encode(event: Event) -> bytes:
    """Return the value of the Kafka message."""
    return _JSON.encode({"event_type": event.event_type, "payload": event.payload}).encode()


class _Kind(IntEnum):
    POSTING = 0
    SALARY = 1
    WIRE = 2
    ACTION = 3
    ERROR = 4
    CASE = 5
    SURPLUS_PAYMENT = 6
    SURPLUS_ACTION = 7
    SURPLUS_PROFILE = 8
    SURPLUS_BALANCE = 9


SURPLUS_SHARES = {
    _Kind.SURPLUS_PAYMENT: 0.50,
    _Kind.SURPLUS_ACTION: 0.44,
    _Kind.SURPLUS_PROFILE: 0.02,
    _Kind.SURPLUS_BALANCE: 0.04,
}
_NATURAL = (_Kind.POSTING, _Kind.SALARY, _Kind.WIRE, _Kind.ACTION, _Kind.ERROR, _Kind.CASE)


@dataclass(frozen=True)
class _Activity:
    """How much each customer does on one day, for customers who are at the bank throughout a window."""

    day: np.datetime64
    rates: Rates
    cumulative: dict[_Kind, Floats]
    present_from: np.datetime64
    present_to: np.datetime64
    next_change: np.datetime64

    def holds_for(self, from_: np.datetime64, to: np.datetime64) -> bool:
        same_day = self.day == from_.astype("M8[D]")
        return bool(same_day and self.present_from <= from_ and self.present_to <= to <= self.next_change)


class _Departure(NamedTuple):
    number: int
    begins_at: int
    who: int


class LiveBank:
    """Continues a bank from `start` on (by default the end of its history). All instants are naive and mean UTC.

    Departures and joins follow the clock from `start`, so a restarted producer continues the same bank if it gives the same
    `start` and rates. A departure takes a customer who has not left, be it in the history, naturally or by an earlier
    departure since `start`; replaying a departure costs a few microseconds. The customer decides `leaves_after` the beginning
    of a departure. New customers join about as fast as others leave. Their numbers follow those of the history and are
    counted from its end, so that no number is used twice.
    """

    def __init__(
        self,
        bank: Bank,
        start: datetime | None = None,
        departures_per_hour: float = 60.0,
        leaves_after: timedelta = timedelta(minutes=30),
    ):
        self.bank = bank
        self.start = start or bank.ends_at
        if self.start.tzinfo is not None or self.start < bank.ends_at:
            raise ValueError(f"start must be naive, mean UTC and not be before {bank.ends_at}, not {start}")
        if departures_per_hour < 0 or leaves_after < DEPARTURE_LASTS:
            raise ValueError(f"departures_per_hour must be >= 0 and leaves_after at least {DEPARTURE_LASTS}")
        hour = timedelta(hours=1) // _MICROSECOND
        self._departs_every = round(hour / departures_per_hour) if departures_per_hour else None
        joins_per_hour = departures_per_hour * LEAVING_SHARE + bank.customers * JOINS_PER_CUSTOMER_AND_DAY / 24
        self._joins_every = round(hour / joins_per_hour)
        self._leaves_after = leaves_after // _MICROSECOND
        self._people = bank.people
        self._courses = bank.courses
        self._left_at: Instants = bank.courses.left_at.copy()
        self._first_join = -((_micros(bank.ends_at) - _micros(self.start)) // self._joins_every)
        self._next_block = self._first_join // JOINERS_PER_BLOCK
        started = np.datetime64(self.start, "us")
        self._available = np.flatnonzero(self._left_at > started).tolist()
        self._joined_until = bank.customers
        self._undecided: deque[tuple[int, int, bool]] = deque()
        self._departures: list[_Departure] = []
        self._next_departure = -(-_micros(self.start) // self._departs_every) if self._departs_every else 0
        self._luck: tuple[int, list[list[float]]] = (-1, [])
        first_day = started.astype("M8[D]")
        self._rates = first_day, behaviour.rates_on(self._people, self._courses, first_day)
        self._activity: _Activity | None = None

    def events(self, from_: datetime, to: datetime, count: int) -> list[Event]:
        """Return `count` events in [from_, to) in order of time, always the same for the same arguments.

        Joins, departures and closings in the window are never left out. If there are more of them than `count`, the result
        is longer, and a producer carries the difference over. With a count of 0 the result has only these, which a producer
        sends to catch up after a pause. Their ids do not depend on the window. The ids of all other events derive from
        `from_`, so no two windows may begin at the same instant. Windows should be short: in a window of hours, customers
        who join or leave in it do nothing else.
        """
        if from_.tzinfo is not None or not self.start <= from_ < to:
            raise ValueError(
                f"A window must begin at {self.start} (UTC, naive) or later and not be empty: {from_}, {to}"
            )
        begin, end = np.datetime64(from_, "us"), np.datetime64(to, "us")
        self._advance(_micros(to))
        events = [event for event in self._planned(begin, end) if from_ <= event.event_time < to]
        missing = count - len(events)
        if missing > 0:
            events += self._background(begin, end, missing)
        return sorted(events, key=lambda event: event.event_time)

    # ---- State that follows from the clock ----

    def _advance(self, to: int) -> None:
        """Play all joins and departures before `to`."""
        while self._join_instant(self._next_block * JOINERS_PER_BLOCK) < to:
            self._add_joiners()
        if self._departs_every is None:
            return
        while (begins_at := self._next_departure * self._departs_every) < to:
            self._depart(self._next_departure, begins_at)
            self._next_departure += 1

    def _join_instant(self, join: int) -> int:
        return _micros(self.bank.ends_at) + join * self._joins_every

    def _add_joiners(self) -> None:
        first = self._next_block * JOINERS_PER_BLOCK
        joins = np.arange(first, first + JOINERS_PER_BLOCK)
        joined_at = (_micros(self.bank.ends_at) + joins * self._joins_every).astype("M8[us]")
        people = draw_people(self.bank.seed, self.bank.customers + 1 + first, joined_at)
        courses = behaviour.draw_courses(self.bank.seed, people, np.datetime64(self.bank.first_day))
        exists = joins >= self._first_join
        people, courses = behaviour.reordered(people, exists), behaviour.reordered(courses, exists)
        self._people = behaviour.concatenated([self._people, people])
        self._courses = behaviour.concatenated([self._courses, courses])
        self._left_at = np.concatenate([self._left_at, courses.left_at])
        self._next_block += 1
        self._activity = None

    def _depart(self, number: int, begins_at: int) -> None:
        while self._undecided and self._undecided[0][0] <= begins_at:
            _, who, stays = self._undecided.popleft()
            if stays:
                self._available.append(who)
        begin = np.datetime64(begins_at, "us")
        joined = self._people.joined_at
        while self._joined_until < len(joined) and joined[self._joined_until] < begin:
            self._available.append(self._joined_until)
            self._joined_until += 1

        block, row = divmod(number, DEPARTURES_PER_BLOCK)
        if self._luck[0] != block:
            rng = stream(self.bank.seed, Purpose.DEPARTURES, block)
            self._luck = block, rng.random((DEPARTURES_PER_BLOCK, ATTEMPTS_TO_FIND_SOMEBODY + 1)).tolist()
        decision, *luck = self._luck[1][row]
        decided_at = begins_at + self._leaves_after
        for fortune in luck:
            if not self._available:
                return
            place = int(fortune * len(self._available))
            who, self._available[place] = self._available[place], self._available[-1]
            self._available.pop()
            # Skip customers who are about to leave naturally.
            if self._left_at[who] <= np.datetime64(decided_at, "us"):
                continue
            stays = decision >= LEAVING_SHARE
            if not stays:
                self._left_at[who] = np.datetime64(decided_at, "us")
                self._activity = None
            self._undecided.append((decided_at, who, stays))
            self._departures.append(_Departure(number, begins_at, who))
            return

    # ---- Planned events: joins, departures, closings ----

    def _planned(self, from_: np.datetime64, to: np.datetime64) -> Iterator[Event]:
        """Yield the planned events in the window, and some of those just before it."""
        margin = from_ - len(PRODUCTS) * _BETWEEN_ACCOUNTS
        joined_at = self._people.joined_at
        joining = np.flatnonzero((joined_at >= margin) & (joined_at < to))
        leaving = np.flatnonzero((self._left_at >= margin) & (self._left_at < to))
        departing: list[_Departure] = []
        for departure in reversed(self._departures):
            if departure.begins_at + DEPARTURE_LASTS // _MICROSECOND <= from_.astype(np.int64):
                break
            if departure.begins_at < to.astype(np.int64):
                departing.append(departure)
        return chain(
            self._profiles(joining, joined_at[joining]),
            chain.from_iterable(self._openings(who) for who in joining.tolist()),
            chain.from_iterable(self._closings(who) for who in leaving.tolist()),
            chain.from_iterable(self._signals(departure) for departure in departing),
        )

    def _openings(self, who: int) -> Iterator[Event]:
        products = np.flatnonzero(self._people.owns[who])
        at = self._people.joined_at[who] + _BETWEEN_ACCOUNTS * (1 + np.arange(len(products)))
        return self._accounts(np.full(len(products), who), products, at, self._people.balance[who, products])

    def _closings(self, who: int) -> Iterator[Event]:
        products = np.flatnonzero(self._people.owns[who])
        at = self._left_at[who] + _BETWEEN_ACCOUNTS * np.arange(len(products))
        return self._accounts(np.full(len(products), who), products, at, np.zeros(len(products)), is_closed=True)

    def _signals(self, departure: _Departure) -> Iterator[Event]:
        """Yield what a customer in fast motion does: wires out, errors and unhappy cases."""
        rng = stream(self.bank.seed, Purpose.DEPARTURE_SIGNALS, departure.number)

        def happening(size: int) -> tuple[Ints, Instants]:
            offsets = rng.integers(0, DEPARTURE_LASTS // _MICROSECOND, size)
            return np.full(size, departure.who), (departure.begins_at + np.sort(offsets)).astype("M8[us]")

        ref = f"D{departure.begins_at}"
        who, at = happening(DEPARTURE_WIRES)
        wires = Transactions(
            at=at,
            who=who,
            product=np.full(DEPARTURE_WIRES, CHECKING),
            code=np.full(DEPARTURE_WIRES, behaviour.WIRE_OUT),
            amount=np.round(rng.uniform(*DEPARTURE_WIRE_AMOUNTS, DEPARTURE_WIRES), 2),
            channel=np.full(DEPARTURE_WIRES, behaviour.MOBILE),
            merchant=np.full(DEPARTURE_WIRES, ABSENT),
        )
        errors = behaviour.failed_actions(rng, self._people, *happening(DEPARTURE_ERRORS))
        who, at = happening(DEPARTURE_CASES)
        cases = Cases(
            at=at,
            who=who,
            category=rng.integers(len(behaviour.CATEGORIES), size=DEPARTURE_CASES),
            sentiment=np.round(rng.uniform(*DEPARTURE_SENTIMENTS, DEPARTURE_CASES), 3),
        )
        return chain(
            self._postings(ref, wires),
            self._actions(ref, errors),
            self._cases(ref, cases),
        )

    # ---- Background events: natural ones, and the requested surplus ----

    def _background(self, from_: np.datetime64, to: np.datetime64, size: int) -> list[Event]:
        """Return `size` events of customers who are at the bank throughout the window."""
        begins_at = int(from_.astype(np.int64))
        span = int(to.astype(np.int64)) - begins_at
        rng = stream(self.bank.seed, Purpose.LIVE_WINDOW, begins_at, span, size)
        activity = self._activity_in(from_, to)
        kinds = _kinds(rng, activity, span / DAY.astype(np.int64), size)
        times = (begins_at + np.sort(rng.integers(0, span, size))).astype("M8[us]")
        people, trouble = self._people, activity.rates.trouble

        def happening(kind: _Kind) -> tuple[Ints, Instants]:
            at = times[kinds == kind]
            return behaviour.draw_customers(rng, activity.cumulative[kind], len(at)), at

        postings = behaviour.concatenated(
            [
                behaviour.everyday_postings(rng, people, *happening(_Kind.POSTING)),
                behaviour.salaries(rng, people, *happening(_Kind.SALARY)),
                behaviour.wires_out(rng, people, trouble, *happening(_Kind.WIRE)),
                behaviour.small_payments(rng, people, *happening(_Kind.SURPLUS_PAYMENT)),
            ]
        )
        actions = behaviour.concatenated(
            [
                behaviour.everyday_actions(rng, people, *happening(_Kind.ACTION)),
                behaviour.failed_actions(rng, people, *happening(_Kind.ERROR)),
                behaviour.idle_actions(rng, people, *happening(_Kind.SURPLUS_ACTION)),
            ]
        )
        who, at = happening(_Kind.SURPLUS_BALANCE)
        checking = np.full(len(who), CHECKING)
        balances = people.balance[who, checking] * rng.lognormal(0.0, BALANCE_SIGMA, len(who))
        ref = f"L{begins_at}"
        return [
            *self._postings(ref, postings),
            *self._actions(ref, actions),
            *self._cases(ref, behaviour.support_cases(rng, trouble, *happening(_Kind.CASE))),
            *self._profiles(*happening(_Kind.SURPLUS_PROFILE)),
            *self._accounts(who, checking, at, balances),
        ]

    def _activity_in(self, from_: np.datetime64, to: np.datetime64) -> _Activity:
        if self._activity is None or not self._activity.holds_for(from_, to):
            rates = self._rates_on(from_.astype("M8[D]"))
            settled_at = self._people.joined_at + (1 + len(PRODUCTS)) * _BETWEEN_ACCOUNTS
            present = (settled_at <= from_) & (self._left_at >= to)
            if not present.any():
                raise RuntimeError(f"No customer is at the bank from {from_} to {to}; use shorter windows")
            changes = np.concatenate([settled_at[settled_at > from_], self._left_at[self._left_at >= to]])
            self._activity = _Activity(
                day=from_.astype("M8[D]"),
                rates=rates,
                cumulative={kind: np.cumsum(rate * present) for kind, rate in _rate_of_kinds(rates).items()},
                present_from=from_,
                present_to=to,
                next_change=changes.min(),
            )
        return self._activity

    def _rates_on(self, day: np.datetime64) -> Rates:
        # In a bank of a million customers, somebody leaves every few seconds. That must not recompute the rates of all.
        cached_day, rates = self._rates
        if cached_day != day or len(rates.trouble) != len(self._people):
            rates = behaviour.rates_on(self._people, self._courses, day)
            self._rates = day, rates
        return rates

    # ---- Rows as events ----

    def _postings(self, ref: str, transactions: Transactions) -> Iterator[Event]:
        number = self._people.number[transactions.who].tolist()
        columns = zip(
            range(len(number)),
            number,
            transactions.product.tolist(),
            transactions.code.tolist(),
            transactions.amount.tolist(),
            transactions.channel.tolist(),
            transactions.merchant.tolist(),
            transactions.at.tolist(),
            _iso(transactions.at),
            strict=True,
        )
        for counter, customer, product, code, amount, channel, merchant, at, iso in columns:
            payload: Payload = {
                "transaction_ref": f"T{ref}-{counter}",
                "account_id": ledgers.account_id(customer, product),
                "posting_date": iso,
                "transaction_code": behaviour.CODES[code],
                "amount": amount,
                "channel_id": None if channel == ABSENT else behaviour.CHANNELS[channel],
                "merchant": None if merchant == ABSENT else behaviour.MERCHANTS[merchant],
            }
            yield Event(ledgers.customer_id(customer), "TXN", payload, at)

    def _actions(self, ref: str, actions: AppActions) -> Iterator[Event]:
        number = self._people.number[actions.who].tolist()
        columns = zip(
            range(len(number)),
            number,
            actions.action.tolist(),
            actions.error.tolist(),
            actions.device.tolist(),
            actions.at.tolist(),
            _iso(actions.at),
            strict=True,
        )
        for counter, customer, action, error, device, at, iso in columns:
            key = ledgers.customer_id(customer)
            payload: Payload = {
                "log_id": f"L{ref}-{counter}",
                "customer_id": key,
                "event_type": behaviour.ACTIONS[action],
                "event_timestamp": iso,
                "error_code": None if error == ABSENT else behaviour.ERRORS[error],
                "device": behaviour.DEVICES[device],
            }
            yield Event(key, "LOG", payload, at)

    def _cases(self, ref: str, cases: Cases) -> Iterator[Event]:
        number = self._people.number[cases.who].tolist()
        columns = zip(
            range(len(number)),
            number,
            cases.category.tolist(),
            cases.sentiment.tolist(),
            cases.text.tolist(),
            cases.at.tolist(),
            _iso(cases.at),
            strict=True,
        )
        for counter, customer, category, sentiment, text, at, iso in columns:
            key = ledgers.customer_id(customer)
            payload: Payload = {
                "case_id": f"S{ref}-{counter}",
                "customer_id": key,
                "open_timestamp": iso,
                "category": behaviour.CATEGORIES[category],
                "sentiment_score": sentiment,
                "case_text": behaviour.CASE_TEXTS[text],
            }
            yield Event(key, "CASE", payload, at)

    def _profiles(self, who: Ints, at: Instants) -> Iterator[Event]:
        people = self._people
        columns = zip(
            people.number[who].tolist(),
            people.first_name[who].tolist(),
            people.last_name[who].tolist(),
            people.segment[who].tolist(),
            people.risk_profile[who].tolist(),
            people.joined_at[who].astype("M8[D]").astype(str).tolist(),
            at.tolist(),
            _iso(at),
            strict=True,
        )
        for customer, first, last, segment, risk_profile, join_date, updated_at, iso in columns:
            key = ledgers.customer_id(customer)
            payload: Payload = {
                "customer_id": key,
                "full_name": ledgers.full_name(first, last),
                "email": ledgers.email(first, last, customer),
                "segment": SEGMENTS[segment],
                "join_date": join_date,
                "risk_profile_score": risk_profile,
                "email_consent": customer % ledgers.REFUSAL_EVERY != 0,
                "updated_at": iso,
            }
            yield Event(key, "USER", payload, updated_at)

    def _accounts(
        self, who: Ints, products: Ints, at: Instants, balances: Floats, is_closed: bool = False
    ) -> Iterator[Event]:
        columns = zip(
            self._people.number[who].tolist(),
            products.tolist(),
            np.round(balances, 2).tolist(),
            _iso(self._people.joined_at[who]),
            _iso(self._left_at[who]),
            at.tolist(),
            _iso(at),
            strict=True,
        )
        for customer, product, balance, opened_at, left_at, updated_at, iso in columns:
            key = ledgers.customer_id(customer)
            payload: Payload = {
                "account_id": ledgers.account_id(customer, product),
                "customer_id": key,
                "product_code": PRODUCTS[product],
                "available_balance": balance,
                "account_status": ledgers.CLOSED if is_closed else ledgers.OPEN,
                "opened_at": opened_at,
                "closed_at": left_at if is_closed else None,
                "updated_at": iso,
            }
            yield Event(key, "ACCOUNT", payload, updated_at)


def _rate_of_kinds(rates: Rates) -> dict[_Kind, Floats]:
    everyday = rates.postings + rates.app_actions
    return {
        _Kind.POSTING: rates.postings,
        _Kind.SALARY: rates.salaries,
        _Kind.WIRE: rates.wires,
        _Kind.ACTION: rates.app_actions,
        _Kind.ERROR: rates.errors,
        _Kind.CASE: rates.cases,
        # The surplus has no rate of its own; more active customers get more of it.
        **dict.fromkeys(SURPLUS_SHARES, everyday),
    }


def _kinds(rng: np.random.Generator, activity: _Activity, days: float, size: int) -> Ints:
    """Return the kind of each of `size` events in random order: as many natural ones as there are, the rest surplus."""
    by_nature = np.array([activity.cumulative[kind][-1] for kind in _NATURAL]) * days
    thinning = min(1.0, size / by_nature.sum())
    natural = rng.permutation(np.repeat(np.array(_NATURAL), rng.poisson(by_nature * thinning)))[:size]
    surplus = rng.choice(list(SURPLUS_SHARES), size - len(natural), p=list(SURPLUS_SHARES.values()))
    return rng.permutation(np.concatenate([natural, surplus]).astype(np.int64))


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def _iso(instants: Instants) -> list[str]:
    return np.datetime_as_string(instants, unit="us", timezone="UTC").tolist()
