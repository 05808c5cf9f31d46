"""The contract of the events on `bank_transactions`: one definition per event type.

Here belong the fields, their types, limits and meaning, and the ledger that an event becomes a row of.
How bytes are checked against the contract is `decoding`; how rows are stored is `commit`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from churn_assets.rules import EARLIEST_EVENT, EARLIEST_LIFE, EVENTS_TOPIC, SCORES_TOPIC

SqlType: TypeAlias = Literal["VARCHAR", "DOUBLE", "BOOLEAN", "TIMESTAMP", "DATE"]


# The columns that every ledger has beside its event's fields.
EXTRA_FIELDS = "extra_fields"
STORED_COLUMNS = {
    EXTRA_FIELDS: "Members that the contract does not know, as a JSON object; those outside the payload under envelope.",
    "ingested_at": "When the row was stored (UTC).",
    "kafka_topic": "Topic of the message; empty for history that was loaded in bulk.",
    "kafka_partition": "Partition of the message.",
    "kafka_offset": "Offset of the message.",
}


@dataclass(frozen=True)
class Field:
    """One member of an event's payload, which is also one column of its ledger.

    Numbers must be finite and within `low` and `high`, text non-empty and at most `max_length` characters. The usual limit
    of 255 is what most banks' own columns have. Times are ISO 8601, not before `earliest`; one without an offset is UTC.
    An upper-case field is a code that the bank's rules compare. `is_end` marks a time that may be written as "no end".
    """

    name: str
    type: SqlType
    description: str
    required: bool = True
    max_length: int = 255
    low: float = -1e12
    high: float = 1e12
    earliest: str = EARLIEST_EVENT
    is_upper_case: bool = False
    is_end: bool = False

    @cached_property
    def is_id(self) -> bool:
        """Whether the text identifies something, so that a number which lost its digits would name something else."""
        return self.name.endswith(("_id", "_ref"))


@dataclass(frozen=True)
class EventType:
    """One value of `event_type` and the ledger it belongs to.

    `key` is the ledger's primary key. `event_time` is the field that says when it happened (UTC). A dimension holds
    the latest state of each key, by event time and then offset; every other ledger keeps the first row of each key.
    """

    name: str
    ledger: str
    key: str
    event_time: str
    fields: tuple[Field, ...]
    description: str
    is_dimension: bool = False
    topic: str = EVENTS_TOPIC  # where it is expected; it is accepted on any

    @property
    def event_time_is_optional(self) -> bool:
        """Whether the time of the Kafka message stands in for an absent event time."""
        return not next(field.required for field in self.fields if field.name == self.event_time)

    @cached_property
    def field_names(self) -> frozenset[str]:
        """The names of its fields."""
        return frozenset(field.name for field in self.fields)


_UPDATED_AT = Field(
    "updated_at",
    "TIMESTAMP",
    "When this state became true (UTC); the time of the Kafka message, or of the load of a file, if absent or more than five"
    " minutes ahead.",
    required=False,
    earliest=EARLIEST_LIFE,
)

EVENT_TYPES: tuple[EventType, ...] = (
    EventType(
        name="TXN",
        ledger="fact_transaction_ledger",
        key="transaction_ref",
        event_time="posting_date",
        description="One posting on an account.",
        fields=(
            Field("transaction_ref", "VARCHAR", "Reference of the posting, unique for ever."),
            Field("account_id", "VARCHAR", "The account that was posted to."),
            Field("posting_date", "TIMESTAMP", "When it was posted (UTC)."),
            Field(
                "transaction_code",
                "VARCHAR",
                "What kind of posting: POS, ATM, WIRE_OUT, DEPOSIT ...",
                is_upper_case=True,
            ),
            Field(
                "amount",
                "DOUBLE",
                "Amount in the bank's currency; the code gives the direction, a negative amount corrects.",
            ),
            Field(
                "channel_id",
                "VARCHAR",
                "Where it was made: CARD, MOBILE, WEB, BRANCH ...",
                required=False,
            ),
            Field("merchant", "VARCHAR", "The merchant of a card payment.", required=False),
        ),
    ),
    EventType(
        name="LOG",
        ledger="app_activity_logs",
        key="log_id",
        event_time="event_timestamp",
        description="One action of a customer in the app or on the web.",
        fields=(
            Field("log_id", "VARCHAR", "Id of the action, unique for ever."),
            Field("customer_id", "VARCHAR", "The customer who did it."),
            Field("event_type", "VARCHAR", "What was done: LOGIN, VIEW_BALANCE, TRANSFER ..."),
            Field("event_timestamp", "TIMESTAMP", "When it was done (UTC)."),
            Field(
                "error_code",
                "VARCHAR",
                "The error that the customer saw; absent if there was none.",
                required=False,
            ),
            Field("device", "VARCHAR", "IOS, ANDROID or WEB.", required=False),
        ),
    ),
    EventType(
        name="USER",
        ledger="dim_customers",
        key="customer_id",
        event_time="updated_at",
        description="The state of a customer.",
        is_dimension=True,
        fields=(
            Field("customer_id", "VARCHAR", "Id of the customer."),
            Field("full_name", "VARCHAR", "First and last name.", max_length=1_000),
            Field("email", "VARCHAR", "Address for emails.", required=False, max_length=254),
            Field("segment", "VARCHAR", "MASS, AFFLUENT, SMB or STUDENT."),
            Field("join_date", "DATE", "First day as a customer.", earliest=EARLIEST_LIFE),
            Field(
                "risk_profile_score",
                "DOUBLE",
                "The bank's credit risk profile, 0 (safe) to 1.",
                required=False,
                low=0,
                high=1,
            ),
            Field(
                "email_consent",
                "BOOLEAN",
                "Whether the customer agrees to emails about offers. False: none is written. Absent: not asked, no refusal.",
                required=False,
            ),
            _UPDATED_AT,
        ),
    ),
    EventType(
        name="ACCOUNT",
        ledger="dim_accounts",
        key="account_id",
        event_time="updated_at",
        description="The state of an account.",
        is_dimension=True,
        fields=(
            Field("account_id", "VARCHAR", "Id of the account."),
            Field("customer_id", "VARCHAR", "Who owns it."),
            Field("product_code", "VARCHAR", "CHECKING, SAVINGS or CREDIT_CARD."),
            Field("available_balance", "DOUBLE", "Balance in the bank's currency.", required=False),
            Field("account_status", "VARCHAR", "OPEN or CLOSED.", is_upper_case=True),
            Field("opened_at", "TIMESTAMP", "When it was opened (UTC).", required=False, earliest=EARLIEST_LIFE),
            Field(
                "closed_at",
                "TIMESTAMP",
                "When it was closed (UTC); absent while open.",
                required=False,
                earliest=EARLIEST_LIFE,
                is_end=True,
            ),
            _UPDATED_AT,
        ),
    ),
    EventType(
        name="CASE",
        ledger="support_cases",
        key="case_id",
        event_time="open_timestamp",
        description="One case that a customer opened with support.",
        fields=(
            Field("case_id", "VARCHAR", "Id of the case, unique for ever."),
            Field("customer_id", "VARCHAR", "Who opened it."),
            Field("open_timestamp", "TIMESTAMP", "When it was opened (UTC)."),
            Field("category", "VARCHAR", "FEES, APP_ISSUE, CARD, FRAUD or SERVICE."),
            Field(
                "sentiment_score",
                "DOUBLE",
                "Tone of the customer, 0 (angry) to 1 (happy).",
                required=False,
                low=0,
                high=1,
            ),
            Field(
                "case_text",
                "VARCHAR",
                "What the customer wrote or said, in words. The analyst's role does not see it.",
                required=False,
                max_length=20_000,
            ),
        ),
    ),
    EventType(
        name="SCORE",
        ledger="churn_scores_raw",
        key="score_id",
        event_time="scored_at",
        description="A churn score that another system gave a customer for recent actions.",
        topic=SCORES_TOPIC,
        fields=(
            Field("score_id", "VARCHAR", "Id of the scoring, unique for ever."),
            Field("customer_id", "VARCHAR", "Who was scored."),
            Field("scored_at", "TIMESTAMP", "End of the period that was scored (UTC)."),
            Field("churn_score", "DOUBLE", "How likely the customer is to leave, 0 to 1.", low=0, high=1),
            Field(
                "declines",
                "DOUBLE",
                "Number of payments and actions that were declined.",
                required=False,
                low=0,
                high=1e6,
            ),
            Field("spend", "DOUBLE", "Money that left the accounts, in the bank's currency.", required=False),
        ),
    ),
)

LEDGERS: dict[str, EventType] = {event_type.ledger: event_type for event_type in EVENT_TYPES}
