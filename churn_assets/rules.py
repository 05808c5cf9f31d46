"""The bank's rules with their defaults, which `churn.toml` may change, and the product's constants. Imports nothing of ours.

Each section of `churn.toml` is a model here, and `Rules` holds them all: to add a section, write its model and name it in
`Rules`. Every field has its default, its unit in the name or the description, and its limits; what a field cannot say alone is
a validator of its model. `configuration.rules()` gives the rules that apply in this process.

The rules that dbt's models need are its variables: the deployment passes those of `churn.toml`, and the project's own defaults
are generated from here (`make dbt-vars`). Settings of an installation, such as addresses and folders, are in `settings`.
"""

import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

# The names of the features, in the order of a model's input.
FEATURES = (
    "total_spend_30d",
    "wire_out_30d",
    "txn_count_30d",
    "error_count_30d",
    "support_cases_30d",
    "avg_sentiment",
    "active_days_30d",
)

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_TIME = re.compile(r"(\d{1,6}) (second|minute|hour|day)s?")


def seconds_of(time: str) -> int:
    """The seconds in a time such as '5 minutes'; `ValueError` if it is none."""
    found = _TIME.fullmatch(time)
    if found is None:
        raise ValueError("must be a whole number and a unit: seconds, minutes, hours or days, as in '5 minutes'")
    return int(found[1]) * _UNITS[found[2]]


def nearest(word: str, known: Iterable[str]) -> str:
    """', did you mean …?' if one of the known words is close to this one, else nothing."""
    found = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), found, 1)
    return f", did you mean {found[close[0]]}?" if close else ""


def _at_least_a_minute(time: str) -> str:
    if seconds_of(time) < 60:
        raise ValueError("must be at least 60 seconds")
    return time


Time = Annotated[str, AfterValidator(_at_least_a_minute)]


# It becomes part of statements, where a backslash would mean something else on Snowflake than on the lake.
def _is_plain(text: str) -> str:
    if "\\" in text or not text.isprintable():
        raise ValueError("must be printable text on one line, without a backslash")
    return text


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_is_plain)]
Code = Annotated[_Text, Field(max_length=100)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Days = Annotated[int, Field(ge=1, le=3650)]


class Section(BaseModel):
    """A section of `churn.toml`: immutable, and a key that nothing reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _must_rise(section: Section, *names: str) -> None:
    for lower, upper in pairwise(names):
        if not getattr(section, lower) < getattr(section, upper):
            raise ValueError(
                f"{lower} ({getattr(section, lower):g}) must be below {upper} ({getattr(section, upper):g})"
            )


# By column of a ledger, the lists of `Codes` that say what its codes mean.
_KINDS = {
    "transaction_code": ("money_out", "wire_out", "reversal", "money_in"),
    "account_status": ("account_open", "account_closed"),
}


class Codes(Section):
    """What the codes of postings and the states of accounts mean. Upper and lower case and blanks at the ends do not matter."""

    money_out: tuple[Code, ...] = Field(
        default=("POS", "ATM", "BILL_PAY", "FEE"),
        description="Codes of postings that take money out: they add to the spend.",
    )
    wire_out: tuple[Code, ...] = Field(
        default=("WIRE_OUT",), description="Codes of wires out: they add to the spend and to the wires out."
    )
    reversal: tuple[Code, ...] = Field(
        default=("REVERSAL",),
        description="Codes of postings that take an earlier one back: their amount lowers the spend.",
    )
    money_in: tuple[Code, ...] = Field(
        default=("DEPOSIT", "WIRE_IN", "REFUND"),
        description="Codes of postings that bring money in: they do not change the spend.",
    )
    account_open: tuple[Code, ...] = Field(
        default=("OPEN",), min_length=1, description="States of an account that is open."
    )
    account_closed: tuple[Code, ...] = Field(
        default=("CLOSED",),
        min_length=1,
        description="States of an account that is closed: a customer with no other has left.",
    )

    @model_validator(mode="after")
    def _mean_one_thing(self) -> Self:
        for kinds in _KINDS.values():
            seen: dict[str, str] = {}
            for kind in kinds:
                for code in getattr(self, kind):
                    if other := seen.get(code.upper()):
                        said = f"twice in {kind}" if other == kind else f"in {other} and in {kind}"
                        raise ValueError(
                            f"the code {code!r} stands {said}; keep one (upper and lower case are the same)"
                        )
                    seen[code.upper()] = kind
        return self

    def of_column(self, column: str) -> dict[str, str]:
        """The codes of a ledger's column that a rule knows, and the name of the list here that each stands in.

        A column whose codes mean nothing to the rules has none.
        """
        return {code: kind for kind in _KINDS.get(column, ()) for code in getattr(self, kind)}


class Features(Section):
    """How a customer's behaviour is measured. After another window, a model has still learned with the old one: train again."""

    window_days: Days = Field(
        default=30,
        description="Days that the features look back, today included. Their names keep `_30d` with any window.",
    )
    neutral_sentiment: Share = Field(
        default=0.5, description="Sentiment of a customer without a rated case in the window."
    )
    target_lag: Time = Field(default="5 minutes", description="How old features and predictions may be.")


class RiskRule(Section):
    """One rule of the heuristic score: `weight` is added where `feature` `operator` `threshold` holds."""

    feature: str = Field(description=f"The feature that is compared: {', '.join(FEATURES)}.")
    operator: Literal[">", "<"] = Field(description="`>` or `<`.")
    threshold: float = Field(allow_inf_nan=False, description="The value that the feature must be above or below.")
    weight: float = Field(gt=0, le=1, description="What the rule adds to the score; the weights of all rules sum to 1.")
    reason: Annotated[_Text, Field(max_length=60)] = Field(description="The reason in words, without a semicolon.")

    @field_validator("feature")
    @classmethod
    def _is_a_feature(cls, name: str) -> str:
        if name not in FEATURES:
            raise ValueError(f"is no feature{nearest(name, FEATURES)}; the features are {', '.join(FEATURES)}")
        return name

    @field_validator("reason")
    @classmethod
    def _is_one_reason(cls, reason: str) -> str:
        if ";" in reason:
            raise ValueError("must have no semicolon, which separates reasons")
        return reason


class Risk(Section):
    """The heuristic score and its classes."""

    high_from: Share = Field(default=0.7, description="Score from which a customer is HIGH, inclusive.")
    medium_from: Share = Field(default=0.4, description="Score from which a customer is MEDIUM, inclusive.")
    rules: tuple[RiskRule, ...] = Field(
        default=(
            RiskRule(feature="wire_out_30d", operator=">", threshold=5000, weight=0.25, reason="large wires out"),
            RiskRule(feature="support_cases_30d", operator=">", threshold=2, weight=0.20, reason="many support cases"),
            RiskRule(feature="avg_sentiment", operator="<", threshold=0.4, weight=0.20, reason="unhappy with support"),
            RiskRule(feature="error_count_30d", operator=">", threshold=5, weight=0.15, reason="many app errors"),
            RiskRule(feature="active_days_30d", operator="<", threshold=5, weight=0.20, reason="rarely active"),
        ),
        description="The rules, each a table `[[risk.rules]]`. Those of the file replace all of these.",
    )

    @model_validator(mode="after")
    def _is_a_score(self) -> Self:
        _must_rise(self, "medium_from", "high_from")
        if not math.isclose(total := sum(rule.weight for rule in self.rules), 1, abs_tol=1e-9):
            raise ValueError(f"the weights of the rules must sum to 1, and they sum to {total:.6g}")
        reasons = [rule.reason for rule in self.rules]
        if twice := next((reason for reason in reasons if reasons.count(reason) > 1), None):
            raise ValueError(f"two rules have the reason {twice!r}; change one")
        return self

    @property
    def unhappy_below(self) -> float:
        """The sentiment below which a rule counts a customer as unhappy, or 0.4 if no rule asks for it."""
        found = [rule.threshold for rule in self.rules if (rule.feature, rule.operator) == ("avg_sentiment", "<")]
        return max(found, default=0.4)


class Model(Section):
    """The classes of the model's score. It is a probability, so its classes begin lower than those of the heuristic score.

    In the simulated bank about 0.5 % of the customers are HIGH, and half of them leave within 30 days; 1.5 % are MEDIUM, and one
    in six of them leaves.
    """

    high_from: Share = Field(default=0.3, description="Probability from which a customer is HIGH, inclusive.")
    medium_from: Share = Field(default=0.1, description="Probability from which a customer is MEDIUM, inclusive.")

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        _must_rise(self, "medium_from", "high_from")
        return self


class Labels(Section):
    """Who has left: whom the model learns to foresee, and who is no longer scored or written to."""

    churn: Literal["account_closed", "silent", "column", "event"] = Field(
        default="account_closed",
        description="`account_closed`: all accounts are closed. `silent`: no posting, no action in the app and no support case."
        " `column`: the day that a column of your own names. `event`: the day of an action of your own.",
    )
    days: Days = Field(
        default=30,
        description="Days after a cut-off that count: who is closed within them, silent throughout them, or left on a day of"
        " theirs has left.",
    )
    column: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = Field(
        default=None,
        description="With `column`: the column of your customers, kept in `extra_fields`, with the day on which one left, as"
        " `2026-05-31`, with or without a time; empty for those who stay.",
    )
    event: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/ -]{1,100}$")] | None = Field(
        default=None,
        description="With `event`: the `event_type` of the actions in `app_activity_logs` that say so, as `CONTRACT_ENDED`. A"
        " customer left on the day of the first.",
    )

    @model_validator(mode="after")
    def _names_what_it_reads(self) -> Self:
        for rule, what in (
            ("column", "the column with the day on which a customer left"),
            ("event", "the event_type of the actions that say that a customer left"),
        ):
            if self.churn == rule and getattr(self, rule) is None:
                raise ValueError(f'with churn = "{rule}", {rule} must name {what}')
            if self.churn != rule and getattr(self, rule) is not None:
                raise ValueError(f'only churn = "{rule}" reads {rule}; set that, or leave {rule} out')
        return self

    @property
    def in_words(self) -> str:
        """What it takes to leave, as `all accounts are closed within 30 days after the cut-off`."""
        match self.churn:
            case "account_closed":
                return f"all accounts are closed within {self.days} days after the cut-off"
            case "silent":
                return f"no posting, app action or support case in the {self.days} days after the cut-off"
            case "column":
                return f"{self.column} is a day of the {self.days} days after the cut-off"
            case "event":
                return f"the first {self.event} comes in the {self.days} days after the cut-off"


class Live(Section):
    """The live metrics over scores from other systems."""

    window: Time = Field(default="10 minutes", description="How far back scores are averaged.")
    target_lag: Time = Field(default="1 minute", description="How old the metrics may be.")
    critical_from: Share = Field(default=0.8, description="Average score from which a customer is CRITICAL, inclusive.")
    at_risk_from: Share = Field(default=0.5, description="Average score from which a customer is AT_RISK, inclusive.")

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        _must_rise(self, "at_risk_from", "critical_from")
        return self


class Emails(Section):
    """Who gets an email, and how long it may be."""

    per_run: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=50, description="Customers that one run takes from the queue, the control group included."
    )
    pause_days: Days = Field(default=7, description="No customer gets two emails within so many days.")
    control_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the customers who would get an email that get none, so that the effect can be measured.",
    )
    alert_hours: Annotated[int, Field(ge=1, le=8760)] = Field(
        default=24, description="Hours that an alert of the live metrics may wait for its email."
    )
    effect_days: Days = Field(
        default=30, description="Days after an email within which a customer who left counts against its group."
    )
    max_sentences: Annotated[int, Field(ge=1, le=20)] = Field(
        default=3, description="Sentences of an email between greeting and sign-off."
    )
    max_characters: Annotated[int, Field(ge=200, le=10_000)] = Field(default=900, description="Characters of an email.")


class Rules(Section):
    """The bank's rules. A section that `churn.toml` leaves out has its defaults."""

    codes: Codes = Codes()
    features: Features = Features()
    risk: Risk = Risk()
    model: Model = Model()
    labels: Labels = Labels()
    live: Live = Live()
    emails: Emails = Emails()

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """The model of each section, by its name in `churn.toml`."""
        return {name: type(field.default) for name, field in cls.model_fields.items()}


# The engineer sees everything, the analyst only what is granted.
ENGINEER_ROLE, ANALYST_ROLE = "DATA_ENGINEER", "MARKETING_ANALYST"
EVENTS_TOPIC, SCORES_TOPIC = "bank_transactions", "churn_scores"  # unless CHURN_TOPICS names others
INGEST_MESSAGES = 500  # a batch starts when so many messages wait ...
INGEST_SECONDS = 5.0  # ... or when the oldest one has waited so long, whichever comes first
INGEST_CHUNK_MESSAGES = 100_000  # a run stores a backlog in transactions of at most so many messages ...
INGEST_CHUNK_BYTES = 128 * 1024 * 1024  # ... or bytes, whichever comes first, so that its memory stays bounded
DECODE_SECONDS = (
    60  # for the messages of one transaction, which normally take a second; then the decoder is taken for stuck
)
FUTURE_TOLERANCE_HOURS = 24  # an event later than now plus this is rejected; clocks and time zones differ
CLOCK_SKEW_SECONDS = (
    300.0  # by which clocks of two hosts may differ; what is further ahead was said by a clock that was wrong
)
EARLIEST_EVENT = "2000-01-01"
EARLIEST_LIFE = "1900-01-01"  # of the dates of a customer's and an account's life: joined, opened, closed
NO_END_FROM = "2099-01-01"  # an end from here on (9999-12-31, 2999-12-31, 2099-12-31) is how systems write "no end"
# A message beyond these is a reject, whatever it says. Each is a hundred times what an event of a bank has.
MAX_MESSAGE_BYTES = 8_000_000  # Snowflake keeps a reject's original bytes up to 8 MB
MAX_MESSAGE_DEPTH = 100  # objects and lists within each other, the event itself counted
MAX_MESSAGE_MEMBERS = 100_000  # members of all objects and items of all lists

MAINTENANCE_SECONDS = 30 * 60.0  # between two maintenance runs while something is written
RANGES_DAYS = 2  # for which each batch has a line of its own in the log of offsets; then adjacent ones are joined
REFRESHES_DAYS = 7  # for which the lake keeps the history of refreshes, as Snowflake does
EVERY_SNAPSHOT_HOURS = 0.5  # how far back time travel reaches every state ...
SNAPSHOT_RETENTION_HOURS = 24  # ... and the last one of each hour
FILE_GRACE_HOURS = 0.5  # before a file that no snapshot needs is deleted, as a query may still be reading it
ORPHAN_HOURS = 24  # before a file that belongs to no snapshot counts as left behind by a killed writer
# The target size of written and compacted files. A scan reads the whole footer of every file that it opens, so one day from a
# large file costs as much as a year. Files above half this size are not compacted again.
FILE_BYTES = 64 * 1024 * 1024
MANY_FILES = 20  # of a table that is refreshed often: above, its small files are merged before the next refresh
SMALL_FILE_BYTES = 1024 * 1024
MANY_INLINED_ROWS = 4000  # of a table in the catalog: above, they are written to a file before the next refresh
REWRITTEN_DELETE_SHARE = 0.1  # a file with a larger share of deleted rows is rewritten without them

FILE_CHECK_SECONDS = 24 * 3600.0  # between two checks of the files' contents ...
FILE_RECHECK_SECONDS = 15 * 60.0  # ... and after one that found damage, as emails wait until it is mended
FILE_CHECK_SHARE = 1 / 7  # of the bytes, read by each check: each file once a week

MAX_ORPHAN_SHARE = 0.01  # of a ledger's rows with an unknown account or customer; above it, the check fails
MAX_REJECT_SHARE = 0.01  # of a day's messages; above it, the doctor and the alerts say so
MAX_UNKNOWN_POSTINGS = 0.01  # share of the postings with a code that no rule knows; above it, the check fails
LEDGER_CHECK_SECONDS = 15 * 60.0  # between two checks of whole ledgers while events arrive
# A refresh must be requested so long before the target lag is reached: an event takes up to 20 s from Kafka to the commit of its
# ledger, and a requested run up to 20 s to its own commit (queue, process start and refresh).
REFRESH_ALLOWANCE_SECONDS = 45.0
HISTORY_SECONDS = 240.0  # between two reads of Snowflake's refresh history, each of which wakes a virtual warehouse
# Before a sensor requests a job again whose run has just failed: so long, twice as long after each further failure, at most ...
RETRY_AFTER_FAILURE_SECONDS, LONGEST_RETRY_SECONDS = 2.0, 60.0

TRAINING_SET_SECONDS = 24 * 3600.0  # between two additions to the training set
TRAINING_WEEKS = 104  # a model is trained, validated and tested on so many latest cut-offs
MAX_CALIBRATION_ERROR = 0.02  # mean error of a model's probabilities, for it to serve ...
MAX_RELATIVE_CALIBRATION_ERROR = 0.5  # ... and relative to the share of leavers, which may be smaller than that
RETRAINING_SECONDS = 7 * 24 * 3600.0  # between two trainings, unless drift requires one earlier
DRIFT_SECONDS = 24 * 3600.0  # between two measurements of drift
# From this population stability index on, features or scores count as a different population than the training set:
# N Siddiqi, Credit Risk Scorecards (2006), ch. 7.
MAX_STABILITY_INDEX = 0.25
EFFECT_SECONDS = 24 * 3600.0  # between two measurements of the emails' effect
TREND_SECONDS = 15 * 60.0  # between two counts of the customers at risk
TREND_DAYS = 30  # how far back the trend is shown
LATENCY_HOURS = 24  # how far back latencies are shown
SEARCH_TARGET_LAG = "1 hour"  # of the search over errors and cases on Snowflake, where each refresh costs credits
SEARCH_SECONDS = 60.0  # between two additions to the search index while events arrive
SEARCH_POSITION_SECONDS = 12 * 3600.0  # until an index without news moves on, so that it keeps no old snapshot alive
PURGE_SECONDS = 15 * 60.0  # between two purges of Dagster's runs
SKIPPED_TICKS_HOURS = 1  # for which ticks that did nothing are kept
COST_SECONDS = 24 * 3600.0  # between two counts of the cost
COST_DAYS = 30  # how many days each count covers
WRITER_CONCURRENCY = 4  # emails written at the same time
WRITER_TIMEOUT_SECONDS = 30.0
ANALYST_TIMEOUT_SECONDS = 60.0  # of a call to a language model for a question, which takes two calls at most
WRITER_RETRIES = 2  # of a call to a language model, with growing pauses
WRITER_PATIENCE_MINUTES = (5.0, 30.0)  # waits after the first and second failed run; then the template writes
WRITER_IS_DOWN_AFTER = 8  # failures in a row, after which a run calls the language model no more


def dbt_vars(rules: Rules) -> dict[str, Any]:
    """The variables of the dbt project for these rules, as JSON and YAML can hold them."""
    return rules.model_dump(mode="json", include={"codes", "features", "risk", "model", "labels", "live"}) | {
        "model_features": list(FEATURES)
    }
