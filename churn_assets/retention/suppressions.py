"""Who may not be written to: customers and addresses on the list of suppressions, those who refused emails, and who shares
their address.

Here belong the list and the query for who is on it. Consent is a field of the customer. `outbox` checks whether a customer
has left the bank, right before an email leaves. The list holds addresses as hashes (`addresses`), so that it outlives a change
of address and an erasure.
"""

from datetime import date, datetime
from typing import NamedTuple

from churn_assets.errors import ChurnError
from churn_assets.retention.addresses import address, address_hash, ensure_salt
from churn_assets.retention.queue import queue_again
from churn_assets.retention.statuses import move
from churn_assets.warehouse.protocol import Transaction, Warehouse

# The ids of all customers who may not be written to, never NULL, so that NOT IN (...) works. The parameter is the current time
# (UTC). Consent that was never asked for (NULL) is not a refusal. Who shares the address of a customer who is on the list or
# refused emails gets none either: the same person may read it.
SUPPRESSED = f"""
    WITH listed AS (
        SELECT both_lists.customer_id, both_lists.address_hash
        FROM (
            SELECT customer_id, CAST(NULL AS VARCHAR) AS address_hash, suppressed_until, lifted_at FROM suppressions
            UNION ALL
            SELECT CAST(NULL AS VARCHAR) AS customer_id, address_hash, suppressed_until, lifted_at
            FROM suppressed_addresses
        ) AS both_lists
        WHERE both_lists.lifted_at IS NULL
            AND (both_lists.suppressed_until IS NULL OR CAST(both_lists.suppressed_until AS TIMESTAMP) > ?)
    ),

    stopped AS (
        SELECT customer_id FROM listed WHERE customer_id IS NOT NULL
        UNION ALL
        SELECT customer_id FROM dim_customers WHERE email_consent = FALSE
    )

    SELECT customer_id FROM stopped
    UNION ALL
    SELECT sharing.customer_id
    FROM dim_customers AS sharing
    INNER JOIN (
        SELECT {address("reached.email")} AS address
        FROM dim_customers AS reached
        INNER JOIN stopped ON reached.customer_id = stopped.customer_id
    ) AS addresses ON {address("sharing.email")} = addresses.address
    UNION ALL
    SELECT sharing.customer_id
    FROM dim_customers AS sharing
    CROSS JOIN address_salt AS salt
    INNER JOIN listed ON {address_hash("sharing.email")} = listed.address_hash
"""


class SuppressionError(ChurnError):
    """A suppression that is not possible; the message says why."""


def suppress(
    warehouse: Warehouse, customer_or_address: str, until: date | None, now: datetime, note: str | None, by: str
) -> int:
    """Stop all emails to a customer or an address until a day (exclusive, UTC), or for ever; returns how many were cancelled.

    A customer's suppression covers the address that they have now and later ones, and so every other customer who has one of
    them. Emails that wait to be approved or to leave are cancelled in the same transaction, and their customers join the queue
    again: a customer who is still at risk when the suppression ends gets a new email. The longest suppression holds; a shorter
    one that follows does not shorten it. `SuppressionError` for an unknown customer or a day that is not in the future.
    """
    if until is not None and until <= now.date():
        raise SuppressionError(f"a suppression until {until} would be over already; choose a later day (UTC)")

    def work(tx: Transaction) -> int:
        if customer := _customer(tx, customer_or_address):
            tx.execute(
                "INSERT INTO suppressions (customer_id, suppressed_at, suppressed_until, note) VALUES (?, ?, ?, ?)",
                [customer, now, until, note],
            )
        list_address(tx, customer_or_address, until, now)
        # A claim has no text yet; the run that writes it checks the list.
        waiting = tx.rows(
            "SELECT intervention_id FROM agent_intervention_log WHERE status IN ('READY', 'APPROVED')"
            f" AND customer_id IN ({SUPPRESSED})",
            [now],
        )
        queue_again(tx, [id_ for (id_,) in waiting], now)
        move(tx, [id_ for (id_,) in waiting], "CANCELLED", now, by, f"suppressed: {note}" if note else "suppressed")
        return len(waiting)

    return warehouse.transact(work)


def list_address(tx: Transaction, customer_or_address: str, until: date | None, now: datetime) -> None:
    """Put the address of a customer, or an address, on the list. A customer without an address adds nothing."""
    ensure_salt(tx)
    tx.execute(
        "INSERT INTO suppressed_addresses (address_hash, customer_id, suppressed_at, suppressed_until)"
        f" SELECT {address_hash('given.email')}, given.customer_id, CAST(? AS TIMESTAMP), CAST(? AS DATE)"
        f" FROM ({_GIVEN}) AS given CROSS JOIN address_salt AS salt WHERE {address('given.email')} IS NOT NULL",
        [now, until, customer_or_address, customer_or_address],
    )


def keep_addresses_of(tx: Transaction, customer_id: str, now: datetime) -> None:
    """Put the address of a customer who is about to be erased on the list if emails to them are stopped, until when they are.

    It is what stays of them: whoever refused emails must not get one because they were forgotten.
    """
    stops: list[date | None] = [
        until
        for (until,) in tx.rows(
            "SELECT suppressed_until FROM suppressions WHERE customer_id = ? AND lifted_at IS NULL"
            " AND (suppressed_until IS NULL OR CAST(suppressed_until AS TIMESTAMP) > ?)"
            " UNION ALL SELECT CAST(NULL AS DATE) AS suppressed_until FROM dim_customers"
            " WHERE customer_id = ? AND email_consent = FALSE",
            [customer_id, now, customer_id],
        )
    ]
    for until in dict.fromkeys(stops):
        list_address(tx, customer_id, until, now)


class Lifted(NamedTuple):
    """Whether a customer or an address was on the list, and whether emails to them are still stopped: the customer refused
    emails, or another one with the same address is on the list or refused them."""

    was_listed: bool
    is_still_stopped: bool


def lift(warehouse: Warehouse, customer_or_address: str, now: datetime) -> Lifted:
    """Take a customer or an address off the list at `now` (UTC).

    Cancelled emails stay cancelled. `SuppressionError` for an unknown customer.
    """

    def work(tx: Transaction) -> Lifted:
        customer = _customer(tx, customer_or_address)
        ensure_salt(tx)
        hashes = f"SELECT {address_hash('given.email')} AS address_hash FROM ({_GIVEN}) AS given CROSS JOIN address_salt AS salt"
        of_address = ("address_hash IN (" + hashes + ")", [customer_or_address, customer_or_address])
        lists = (
            {"suppressions": ("customer_id = ?", [customer]), "suppressed_addresses": ("customer_id = ?", [customer])}
            if customer
            else {"suppressed_addresses": of_address}
        )
        on_it = 0
        for table, (condition, parameters) in lists.items():
            [(count,)] = tx.rows(
                f"SELECT COUNT(*) FROM {table} WHERE {condition} AND lifted_at IS NULL"
                " AND (suppressed_until IS NULL OR CAST(suppressed_until AS TIMESTAMP) > ?)",
                [*parameters, now],
            )
            on_it += count
            tx.execute(f"UPDATE {table} SET lifted_at = ? WHERE {condition} AND lifted_at IS NULL", [now, *parameters])
        concerned, given = ("customer_id = ?", customer) if customer else (f"{address('email')} = {address('?')}", None)
        still = tx.rows(
            f"SELECT customer_id FROM dim_customers WHERE {concerned} AND customer_id IN ({SUPPRESSED})",
            [given or customer_or_address, now],
        )
        return Lifted(on_it > 0, bool(still))

    return warehouse.transact(work)


# The customer of an id with the address, or an address without a customer. The parameter is given twice.
_GIVEN = """
    SELECT customers.customer_id, customers.email FROM dim_customers AS customers WHERE customers.customer_id = ?
    UNION ALL
    SELECT CAST(NULL AS VARCHAR) AS customer_id, wanted.email
    FROM (SELECT CAST(? AS VARCHAR) AS email) AS wanted
    WHERE wanted.email LIKE '%@%'
        AND wanted.email NOT IN (SELECT customers.customer_id FROM dim_customers AS customers)
"""


def _customer(tx: Transaction, customer_or_address: str) -> str | None:
    """The customer of this id; None for an address, `SuppressionError` for what is neither."""
    if tx.rows("SELECT customer_id FROM dim_customers WHERE customer_id = ?", [customer_or_address]):
        return customer_or_address
    if "@" in customer_or_address:
        return None
    raise SuppressionError(
        f"there is no customer {customer_or_address}; give an id of dim_customers, or an email address"
    )
