"""Whether the estimate of the emails' effect is right: it has to find the effect that the simulator gives them.

    make benchmark-effect                             # 200 years, under three minutes
    make benchmark-effect ARGS="--repetitions 1000 --effect 0.1"

A repetition is a year of a simulated bank with 50,000 customers and a seed of its own: its people,
its departures, its months of bad luck. Customers come into HIGH at the rate that the score was seen to have at their trouble
(about 15 a day; a quarter of them leave within 30 days). Once a day at most 50 of them, none within 7 days of the last time,
are chosen for an email or are in the control group, by the customer's id as in production. The emails then cancel departures.
What is estimated is what is estimated in production: first interventions that are 30 days old when the year ends.

The same years are played with the effect and without any. The truth that an interval has to cover is the difference to be
expected in that year: the effect times the part of all who were chosen or in the control group that would leave within 30
days if nobody got an email. Which customers are drawn into the control group, and whom an email keeps, is chance, and so is
what the interval is about.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import chain, repeat
from math import sqrt
from time import perf_counter

import numpy as np

from churn_assets.configuration import rules
from churn_assets.retention.control import is_in_control_group
from churn_assets.retention.effect import Effect, estimate
from churn_assets.simulator import behaviour, ledgers
from churn_assets.simulator.bank import Bank
from churn_assets.simulator.behaviour import DAY, NEVER
from churn_assets.simulator.emails import cancelled_departures
from churn_assets.simulator.population import Bools, Instants, Ints

CUSTOMERS, FIRST_DAY, DAYS = 50_000, date(2025, 1, 1), 365
EMAIL_TIME = np.timedelta64(9, "h")
# How many customers come into HIGH a day, of those without trouble and of those in full trouble: what the score does in 100
# days of a bank's history. In between it goes with the power of the trouble.
FALSE_ALARMS, ALARMS, ALARM_POWER = 4e-5, 0.031, 1.5
DAYS_OF_TROUBLE = 5  # for which it is computed once: it takes weeks to come and go, and most of the benchmark's time


@dataclass(frozen=True)
class Year:
    """What was estimated in one year, and what is true of it."""

    effect: float
    estimated: Effect
    truth: float
    """Churn without emails less churn with them, to be expected among the customers who count."""


def main() -> None:
    """Play the years on two processes and print how good the estimates are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="simulated years")
    parser.add_argument("--effect", type=float, default=0.2, help="part of the departures that an email cancels")
    options = parser.parse_args()
    begin = perf_counter()
    with ProcessPoolExecutor(2) as processes:
        years = list(chain(*processes.map(_play, range(options.repetitions), repeat((0.0, options.effect)))))
    _say(f"{options.repetitions} years of {CUSTOMERS:,} customers each, {perf_counter() - begin:.0f} s\n")
    _say("effect   treated  control   churn without    true      mean    bias      mean   interval    interval   still")
    _say("                             emails, %  difference estimate ± s.e.   width  covers truth  not 0    needed")
    for effect in (0.0, options.effect):
        _report([year for year in years if year.effect == effect])


def _report(years: list[Year]) -> None:
    estimates = [year.estimated for year in years]
    differences = np.array([there.difference for there in estimates], float)
    intervals = np.array([there.interval for there in estimates], float)
    truths = np.array([year.truth for year in years])
    bias = differences - truths
    covers = (intervals[:, 0] <= truths) & (truths <= intervals[:, 1])
    told = np.array([there.is_told_from_zero for there in estimates])
    needed = np.array([there.still_needed or 0 for there in estimates])
    _say(
        f"{years[0].effect:>6.2f} {np.mean([there.treated.customers for there in estimates]):>9,.0f}"
        f" {np.mean([there.control.customers for there in estimates]):>8,.0f}"
        f" {100 * np.mean([there.control.churn or 0.0 for there in estimates]):>12.1f}"
        f" {100 * truths.mean():>11.2f} {100 * differences.mean():>9.2f}"
        f" {100 * bias.mean():>7.2f} ± {100 * bias.std(ddof=1) / sqrt(len(bias)):.2f}"
        f" {100 * (intervals[:, 1] - intervals[:, 0]).mean():>6.2f}"
        f" {100 * covers.mean():>9.1f} % {100 * told.mean():>9.1f} % {np.median(needed):>8,.0f}"
    )


def _play(seed: int, effects: tuple[float, ...]) -> list[Year]:
    """One year with each of the effects, alike in everything else."""
    bank = Bank(CUSTOMERS, seed, FIRST_DAY, DAYS)
    alarms = list(_alarms(bank))
    return [_year(bank, alarms, effect) for effect in effects]


def _alarms(bank: Bank) -> Iterator[Ints]:
    """Who comes into HIGH on each day; whether they are customers then is not regarded."""
    rng = np.random.default_rng([bank.seed, CUSTOMERS])
    chance = np.zeros(CUSTOMERS)
    for number, day in enumerate(_days()):
        if number % DAYS_OF_TROUBLE == 0:
            middle = day + DAYS_OF_TROUBLE // 2
            trouble = behaviour.rates_on(bank.people, bank.courses, middle).trouble
            chance = FALSE_ALARMS + ALARMS * trouble**ALARM_POWER
        alarmed = np.flatnonzero(rng.random(CUSTOMERS) < chance)
        yield rng.permutation(alarmed)  # scores put them in an order that has nothing to do with their numbers


def _year(bank: Bank, alarms: list[Ints], effect: float) -> Year:
    number, joined_at, leaves_at = bank.people.number, bank.people.joined_at, bank.courses.left_at
    is_control = _control_group()
    left_at = leaves_at.copy()
    first: Instants = np.full(CUSTOMERS, NEVER)
    last: Instants = np.full(CUSTOMERS, np.datetime64(FIRST_DAY, "us") - rules().emails.pause_days * DAY)
    waiting: Ints = np.zeros(0, np.int64)
    for day, alarmed in zip(_days(), alarms, strict=True):
        now = day.astype("M8[us]") + EMAIL_TIME
        new = alarmed[(joined_at[alarmed] < now) & (last[alarmed] + rules().emails.pause_days * DAY <= now)]
        waiting = np.concatenate([waiting, new[~np.isin(new, waiting)]])
        waiting = waiting[left_at[waiting] > now]
        chosen, waiting = waiting[: rules().emails.per_run], waiting[rules().emails.per_run :]
        first[chosen] = np.minimum(first[chosen], now)
        last[chosen] = now
        emailed = chosen[~is_control[chosen]]
        sent_at = np.full(len(emailed), now)
        kept = cancelled_departures(bank.seed, number[emailed], left_at[emailed], sent_at, effect)
        left_at[emailed[kept]] = NEVER
    counts = first + rules().emails.effect_days * DAY <= np.datetime64(bank.ends_at, "us")
    has_left = counts & (left_at <= first + rules().emails.effect_days * DAY)
    would_leave = counts & (leaves_at <= first + rules().emails.effect_days * DAY)
    treated, control = counts & ~is_control, counts & is_control
    return Year(
        effect=effect,
        estimated=estimate(
            int(treated.sum()), int((treated & has_left).sum()), int(control.sum()), int((control & has_left).sum())
        ),
        truth=effect * float(would_leave.sum() / counts.sum()),
    )


@cache
def _control_group() -> Bools:
    """Who of the bank's customers gets no email; customers of all banks have the same ids."""
    ids = ledgers.Ids(Bank(CUSTOMERS, 0, FIRST_DAY, DAYS).people).customers.to_pylist()
    return np.array([is_in_control_group(customer_id, rules().emails.control_share) for customer_id in ids])


def _days() -> Iterator[np.datetime64]:
    return iter(np.datetime64(FIRST_DAY, "D") + np.arange(DAYS))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
