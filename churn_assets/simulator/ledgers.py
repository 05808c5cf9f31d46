"""The simulated bank as rows of the ledgers: ids, text and Arrow tables with the columns of the contract.

The content of the rows comes from `population` and `behaviour`; the contract is `churn_assets.ingestion.events`.
"""

# pyarrow ships no types; only this module builds tables with it.

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion.events import LEDGERS
from churn_assets.simulator import behaviour, population
from churn_assets.simulator.behaviour import ABSENT, AppActions, Cases, Courses, Transactions
from churn_assets.simulator.population import Ints, People

ID_DIGITS = 8
EMAIL_DOMAIN = "example.com"
OPEN, CLOSED = "OPEN", "CLOSED"

REFUSAL_EVERY = 31  # customers whose number is a multiple of this refuse emails about offers
_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "DATE": pa.date32(),
}


def customer_id(number: int) -> str:
    """Return the id of the customer with that number."""
    return f"C{number:0{ID_DIGITS}d}"


def account_id(number: int, product: int) -> str:
    """Return the id of the account that the customer with that number has for that product."""
    return f"A{number:0{ID_DIGITS}d}{product + 1}"


def full_name(first: int, last: int) -> str:
    """Return the name with those positions in the lists of names."""
    return f"{population.FIRST_NAMES[first]} {population.LAST_NAMES[last]}"


def email(first: int, last: int, number: int) -> str:
    """Return the address of the customer; the number makes it unique."""
    names = f"{population.FIRST_NAMES[first]}.{population.LAST_NAMES[last]}".lower()
    return f"{names}.{number}@{EMAIL_DOMAIN}"


class Ids:
    """The ids of all customers and accounts as Arrow columns, built once and reused for every fact."""

    def __init__(self, people: People):
        self.customers = _prefixed("C", people.number, ID_DIGITS)
        products = len(population.PRODUCTS)
        by_product = people.number[:, None] * 10 + np.arange(1, products + 1)
        self.accounts = _prefixed("A", by_product.ravel(), ID_DIGITS + 1)

    def of_customers(self, who: Ints) -> pa.Array:
        """Return the customer id for each position."""
        return self.customers.take(pa.array(who))

    def of_accounts(self, who: Ints, product: Ints) -> pa.Array:
        """Return the account id for each pair of position and product."""
        return self.accounts.take(pa.array(who * len(population.PRODUCTS) + product))


def customers_table(ids: Ids, people: People) -> pa.Table:
    """Return `dim_customers`; customers' data do not change after joining."""
    first = pa.array(population.FIRST_NAMES).take(pa.array(people.first_name))
    last = pa.array(population.LAST_NAMES).take(pa.array(people.last_name))
    names = pc.utf8_lower(pc.binary_join_element_wise(first, last, "."))
    numbers = pc.cast(pa.array(people.number), pa.string())
    return _table(
        "dim_customers",
        {
            "customer_id": ids.customers,
            "full_name": pc.binary_join_element_wise(first, last, " "),
            "email": pc.binary_join_element_wise(pc.binary_join_element_wise(names, numbers, "."), EMAIL_DOMAIN, "@"),
            "segment": _words(population.SEGMENTS, people.segment),
            "join_date": people.joined_at.astype("M8[D]"),
            "risk_profile_score": people.risk_profile,
            "email_consent": people.number % REFUSAL_EVERY != 0,
            "updated_at": people.joined_at,
        },
    )


def accounts_table(ids: Ids, people: People, courses: Courses, as_of: np.datetime64) -> pa.Table:
    """Return `dim_accounts` as it stands at `as_of`."""
    who, product = (column.astype(np.int64) for column in np.nonzero(people.owns))
    closed_at = courses.left_at[who]
    is_closed = closed_at < as_of
    opened_at = people.joined_at[who]
    return _table(
        "dim_accounts",
        {
            "account_id": ids.of_accounts(who, product),
            "customer_id": ids.of_customers(who),
            "product_code": _words(population.PRODUCTS, product),
            "available_balance": np.where(is_closed, 0.0, people.balance[who, product]),
            "account_status": _words((OPEN, CLOSED), is_closed.astype(np.int64)),
            "opened_at": opened_at,
            "closed_at": np.where(is_closed, closed_at, np.datetime64("NaT", "us")),
            "updated_at": np.where(is_closed, closed_at, opened_at),
        },
    )


def transactions_table(ids: Ids, transactions: Transactions, refs: pa.Array) -> pa.Table:
    """Return rows of `fact_transaction_ledger`."""
    return _table(
        "fact_transaction_ledger",
        {
            "transaction_ref": refs,
            "account_id": ids.of_accounts(transactions.who, transactions.product),
            "posting_date": transactions.at,
            "transaction_code": _words(behaviour.CODES, transactions.code),
            "amount": transactions.amount,
            "channel_id": _words(behaviour.CHANNELS, transactions.channel),
            "merchant": _words(behaviour.MERCHANTS, transactions.merchant),
        },
    )


def app_actions_table(ids: Ids, actions: AppActions, refs: pa.Array) -> pa.Table:
    """Return rows of `app_activity_logs`."""
    return _table(
        "app_activity_logs",
        {
            "log_id": refs,
            "customer_id": ids.of_customers(actions.who),
            "event_type": _words(behaviour.ACTIONS, actions.action),
            "event_timestamp": actions.at,
            "error_code": _words(behaviour.ERRORS, actions.error),
            "device": _words(behaviour.DEVICES, actions.device),
        },
    )


def cases_table(ids: Ids, cases: Cases, refs: pa.Array) -> pa.Table:
    """Return rows of `support_cases`."""
    return _table(
        "support_cases",
        {
            "case_id": refs,
            "customer_id": ids.of_customers(cases.who),
            "open_timestamp": cases.at,
            "category": _words(behaviour.CATEGORIES, cases.category),
            "sentiment_score": cases.sentiment,
            "case_text": pa.array(behaviour.CASE_TEXTS).take(pa.array(cases.text)),
        },
    )


def history_refs(prefix: str, day: np.datetime64, size: int) -> pa.Array:
    """Return the ids of the `size` facts of one day: the day and a counter. Live ids never look like this."""
    return _prefixed(f"{prefix}{str(day.astype('M8[D]')).replace('-', '')}-", np.arange(size), ID_DIGITS)


def one_table(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of all `tables` of one ledger in contiguous columns."""
    return pa.concat_tables(tables).combine_chunks()


def _prefixed(prefix: str, numbers: Ints, digits: int) -> pa.Array:
    padded = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, padded, "")


def _words(vocabulary: tuple[str, ...], positions: Ints) -> pa.Array:
    return pa.array(vocabulary).take(pa.array(positions, mask=positions == ABSENT))


def _table(ledger: str, columns: dict[str, object]) -> pa.Table:
    schema = pa.schema([(field.name, _ARROW_TYPES[field.type]) for field in LEDGERS[ledger].fields])
    return pa.table(columns, schema=schema)
