"""When two email addresses are one, and which address was written to.

Several customers may share a mailbox: a couple, a family, a firm. Whoever reads it must not get two emails within the pause,
and none once one of them is suppressed. Here belong the rule of comparison and the record of written addresses; `claims`
and `outbox.leaving` keep the pause, `suppressions` keeps the list.

Two addresses are one if they are equal without the spaces around them and without regard to case, in the domain and in the
part before the @. RFC 5321 lets a server tell upper from lower case there, but none in use does. Dots and +tags count: what
they mean is each provider's own matter.

An address is recorded as a hash with a salt of this warehouse, so that the record can stay after a customer is erased. Whoever
reads the warehouse can check whether an address that they know is in it, and cannot list the addresses.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from churn_assets.configuration import rules
from churn_assets.retention.statuses import Status
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.values import one_row

# An email in one of these has left, or may have.
LEFT: tuple[Status, ...] = ("SENDING", "SENT", "EXPORTED", "UNCERTAIN")
# An email in one of these has left, or will if nobody stops it.
UNDER_WAY: tuple[Status, ...] = ("CLAIMED", "READY", "APPROVED", *LEFT)


def address(column: str) -> str:
    """SQL: an address in the form in which addresses are compared; NULL for none."""
    return f"NULLIF(LOWER(TRIM({column})), '')"


def address_hash(column: str) -> str:
    """SQL: the hash of an address, or NULL for none; the table address_salt must be joined as `salt`."""
    return f"SHA1(salt.salt || {address(column)})"


def addressed(statuses: Sequence[Status]) -> str:
    """A query of the emails in these statuses that were addressed after a time, its one parameter (UTC).

    Its columns are customer_id and address_hash, which is NULL for a customer without an address.
    """
    listed = ", ".join(f"'{status}'" for status in statuses)
    return (
        "SELECT log.customer_id, emails.address_hash FROM addressed_emails AS emails"
        " INNER JOIN agent_intervention_log AS log ON emails.intervention_id = log.intervention_id"
        f" WHERE emails.addressed_at > ? AND log.status IN ({listed})"
    )


def pause_began(now: datetime) -> datetime:
    """The time after which an email keeps the next one away; times are UTC."""
    return now - timedelta(days=rules().emails.pause_days)


def note_addresses(tx: Transaction, interventions: Sequence[str], now: datetime) -> None:
    """Record to which address each of these emails goes at `now` (UTC). Records older than the pause are given up."""
    if not interventions:
        return
    ensure_salt(tx)
    known: list[Any] = list(interventions)
    tx.execute(
        f"DELETE FROM addressed_emails WHERE addressed_at <= ? OR intervention_id IN ({one_row(known)})",
        [pause_began(now), *known],
    )
    tx.execute(
        "INSERT INTO addressed_emails (intervention_id, address_hash, addressed_at)"
        f" SELECT log.intervention_id, {address_hash('customers.email')}, CAST(? AS TIMESTAMP)"
        " FROM agent_intervention_log AS log CROSS JOIN address_salt AS salt"
        " LEFT JOIN dim_customers AS customers ON log.customer_id = customers.customer_id"
        f" WHERE log.intervention_id IN ({one_row(known)})",
        [now, *known],
    )


def ensure_salt(tx: Transaction) -> None:
    """Make the salt of this warehouse once. It never changes: with another one, no recorded hash would be found."""
    if not tx.rows("SELECT salt FROM address_salt"):
        tx.execute("INSERT INTO address_salt (salt) VALUES (?)", [secrets.token_hex(16)])
