"""Who the customers are: names, segments, products, habits and when they joined.

What they do each day, and whether they drift away, is in `behaviour`; their rows in the ledgers are in `ledgers`.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from churn_assets.simulator.streams import Purpose, stream

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Instants: TypeAlias = npt.NDArray[np.datetime64]
"""Microseconds, UTC."""

SEGMENTS = ("MASS", "AFFLUENT", "SMB", "STUDENT")
SEGMENT_SHARES = (0.62, 0.14, 0.09, 0.15)
PRODUCTS = ("CHECKING", "SAVINGS", "CREDIT_CARD")
CHECKING, SAVINGS, CREDIT_CARD = range(3)

# By segment, in the order of SEGMENTS.
OWNS_SAVINGS = (0.45, 0.80, 0.35, 0.30)
OWNS_CREDIT_CARD = (0.40, 0.75, 0.55, 0.10)
MEDIAN_BALANCE = (1_900.0, 14_000.0, 22_000.0, 450.0)
# By product, as a multiple of the segment's median.
BALANCE_OF_PRODUCT = (1.0, 3.5, 1.4)
BIWEEKLY_SALARY_SHARE = 0.35

# Everyday events (postings and app actions) per customer and day: the median, and the spread between people.
EVERYDAY_EVENTS_MEDIAN = (0.75, 0.85, 1.10, 0.70)
EVERYDAY_EVENTS_SIGMA = 0.50

# Customers who joined before the history began joined at most this long before it.
OLDEST_RELATIONSHIP_DAYS = 12 * 365
JOINS_PER_CUSTOMER_AND_DAY = 3.6e-4
"""About as many as leave, so that the population stays stable."""

_FIRST_NAMES = """
    Alice Amara Amelia Anders Anna Antonio Aisha Beatriz Ben Bruno Camille Carlos Chen Chloe Clara Daniel David
    Diego Elena Elif Emma Erik Eva Fatima Felix Finn Freya Gabriel Giulia Grace Hana Hannah Hugo Ibrahim Ines
    Isabel Ivan Jack Jana Jonas Julia Kaito Karim Kofi Lara Laura Leila Leo Liam Lina Lucas Maja Marco Maria
    Marta Mateo Mei Mia Milan Mohamed Nadia Nina Noah Nora Olga Oliver Omar Oscar Paul Pedro Petra Priya Rafael
    Ravi Rosa Ruth Samir Sara Sofia Stefan Tara Theo Thomas Tomas Vera Victor Wei Yara Yusuf Zoe
"""
FIRST_NAMES = tuple(_FIRST_NAMES.split())
_LAST_NAMES = """
    Adams Ahmed Almeida Andersson Baker Bauer Becker Bernard Berg Brown Carter Castro Chen Clark Costa Cruz Dahl
    Dubois Diaz Evans Fernandez Ferrari Fischer Flores Fournier Garcia Gomez Green Gruber Haas Hansen Harris
    Hoffmann Hughes Ito Ivanova Jansen Jensen Johnson Jones Kaya Keller Khan Kim Klein Kovacs Kumar Lambert
    Larsen Lee Lopez Lund Maier Marino Martin Mendes Meyer Moore Moreau Morris Mueller Murphy Nagy Nakamura
    Nguyen Nielsen Novak Okafor Olsen Owen Patel Pereira Popescu Price Ramos Reyes Ricci Rossi Roux Sato Schmidt
    Schneider Silva Singh Smith Sousa Suzuki Svensson Taylor Torres Vogel Wagner Walker Wang Weber White Wilson
    Wolf Wright Yilmaz Young Zhang
"""
LAST_NAMES = tuple(_LAST_NAMES.split())


@dataclass(frozen=True)
class People:
    """Customers as columns; one customer has the same position in all of them."""

    number: Ints
    segment: Ints
    first_name: Ints
    last_name: Ints
    joined_at: Instants
    risk_profile: Floats
    owns: Bools
    """One row per customer, one column per product."""
    balance: Floats
    """Same shape as `owns`."""
    everyday_events: Floats
    """Expected per day."""
    app_share: Floats
    """The share of the everyday events that are app actions."""
    sends_wires: Floats
    """How often the customer sends wires, relative to the segment."""
    device: Ints
    salary_day: Ints
    salary_is_biweekly: Bools

    def __len__(self) -> int:
        return len(self.number)


def draw_people(seed: int, first_number: int, joined_at: Instants) -> People:
    """Draw customers with consecutive numbers from `first_number`, one for each instant in `joined_at`."""
    count = len(joined_at)
    rng = stream(seed, Purpose.PEOPLE, first_number)
    segment = rng.choice(len(SEGMENTS), size=count, p=SEGMENT_SHARES)
    owns = np.ones((count, len(PRODUCTS)), dtype=np.bool_)
    owns[:, SAVINGS] = rng.random(count) < np.array(OWNS_SAVINGS)[segment]
    owns[:, CREDIT_CARD] = rng.random(count) < np.array(OWNS_CREDIT_CARD)[segment]
    median_balance = np.array(MEDIAN_BALANCE)[segment, None] * np.array(BALANCE_OF_PRODUCT)
    spread = rng.lognormal(0.0, EVERYDAY_EVENTS_SIGMA, count)
    return People(
        number=np.arange(first_number, first_number + count, dtype=np.int64),
        segment=segment,
        first_name=rng.integers(len(FIRST_NAMES), size=count),
        last_name=rng.integers(len(LAST_NAMES), size=count),
        joined_at=joined_at,
        risk_profile=np.round(rng.beta(2.0, 5.0, count), 3),
        owns=owns,
        balance=np.round(median_balance * rng.lognormal(0.0, 0.7, owns.shape), 2),
        everyday_events=np.array(EVERYDAY_EVENTS_MEDIAN)[segment] * spread,
        app_share=rng.beta(5.0, 5.0, count),
        sends_wires=rng.lognormal(0.0, 0.8, count),
        device=rng.choice(3, size=count, p=(0.42, 0.43, 0.15)),
        salary_day=rng.integers(28, size=count),
        salary_is_biweekly=rng.random(count) < BIWEEKLY_SALARY_SHARE,
    )


def joining_instants(seed: int, customers: int, first_day: np.datetime64, days: int) -> Instants:
    """Return when each customer of a bank joined: most before `first_day`, some during the `days` after it."""
    rng = stream(seed, Purpose.PEOPLE, 0)
    joins_during = rng.random(customers) < -np.expm1(-JOINS_PER_CUSTOMER_AND_DAY * days)
    # Banks grow, so young relationships are more frequent than old ones.
    days_before = 1 + np.floor(OLDEST_RELATIONSHIP_DAYS * rng.random(customers) ** 1.5).astype(np.int64)
    days_after = rng.integers(max(days, 1), size=customers)
    day = first_day.astype("M8[D]") + np.where(joins_during, days_after, -days_before).astype("m8[D]")
    return day.astype("M8[us]") + office_hours(rng, customers)


def office_hours(rng: np.random.Generator, size: int) -> npt.NDArray[np.timedelta64]:
    """Draw times of day between 08:00 and 18:00, when people open and close accounts."""
    return (rng.uniform(8.0, 18.0, size) * 3_600_000_000).astype("m8[us]")
