"""Every setting, threshold, window and limit of the project, with its unit.

`Settings` is what a user sets through the environment or `.env`. The constants above it are the business's rules; the
variables of the dbt project are generated from them (`dbt_vars`), so that SQL and Python read the same numbers.
Nothing is read from the environment at import: call `load_settings`.
"""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from zoneinfo import available_timezones

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from churn_assets.errors import ChurnError

ENV_FILE = ".env"  # in the folder that a command runs in

OnGap: TypeAlias = Literal["fail", "skip"]


@dataclass(frozen=True)
class RiskRule:
    """One rule of the heuristic score: `weight` is added where `feature` `operator` `threshold` holds."""

    feature: str
    operator: Literal[">", "<"]
    threshold: float
    weight: float
    reason: str


# The heuristic score: weights sum to 1, so a score lies within 0 and 1.
RISK_RULES: tuple[RiskRule, ...] = (
    RiskRule("wire_out_30d", ">", 5000, 0.25, "large wires out"),
    RiskRule("support_cases_30d", ">", 2, 0.20, "many support cases"),
    RiskRule("avg_sentiment", "<", 0.4, 0.20, "unhappy with support"),
    RiskRule("error_count_30d", ">", 5, 0.15, "many app errors"),
    RiskRule("active_days_30d", "<", 5, 0.20, "rarely active"),
)
HIGH_FROM = 0.7  # score, inclusive
MEDIUM_FROM = 0.4  # score, inclusive
# What the features are called, in the order in which a model takes them.
FEATURES = (
    "total_spend_30d",
    "wire_out_30d",
    "txn_count_30d",
    "error_count_30d",
    "support_cases_30d",
    "avg_sentiment",
    "active_days_30d",
)
# The model's score is a probability, so its classes begin lower. In the simulated bank about 0.5 % are HIGH, of whom every
# second one leaves within 30 days, and 1.5 % MEDIUM, of whom one in six does.
MODEL_HIGH_FROM = 0.3  # probability, inclusive
MODEL_MEDIUM_FROM = 0.1  # probability, inclusive
NEUTRAL_SENTIMENT = 0.5  # of a customer without a case in the window
FEATURE_WINDOW_DAYS = 30
FEATURES_TARGET_LAG = "5 minutes"  # of features and predictions
METRICS_WINDOW = "10 minutes"  # of the live metrics over scores that come in from elsewhere
METRICS_TARGET_LAG = "1 minute"
CRITICAL_FROM = 0.8  # average score in the window, inclusive
AT_RISK_FROM = 0.5  # average score in the window, inclusive

# Spend is money that leaves the account: these codes count, REVERSAL takes back, everything else is money in.
# A negative amount under such a code corrects an earlier one and lowers the sum.
MONEY_OUT_CODES = ("POS", "ATM", "BILL_PAY", "WIRE_OUT", "FEE")
REVERSAL_CODE = "REVERSAL"
WIRE_OUT_CODE = "WIRE_OUT"

ENGINEER_ROLE, ANALYST_ROLE = "DATA_ENGINEER", "MARKETING_ANALYST"  # who sees everything, and who only what is granted
EVENTS_TOPIC, SCORES_TOPIC = "bank_transactions", "churn_scores"  # unless CHURN_TOPICS names others
INGEST_MESSAGES = 500  # messages that make a batch ...
INGEST_SECONDS = 5.0  # ... or the age of the oldest waiting one, whichever comes first
INGEST_CHUNK_MESSAGES = 100_000  # a run stores a backlog in transactions of at most so many messages ...
INGEST_CHUNK_BYTES = 128 * 1024 * 1024  # ... or bytes, whichever comes first, so that its memory stays bounded
FUTURE_TOLERANCE_HOURS = 24  # an event that claims to be later than this is impossible (clocks and time zones differ)
EARLIEST_EVENT = "2000-01-01"

MAINTENANCE_SECONDS = 60 * 60.0  # between two maintenances of the tables while something is written
SNAPSHOT_RETENTION_HOURS = 24  # how far back time travel reaches
FILE_GRACE_HOURS = 1  # before a file that no snapshot needs is deleted: a query may still be reading it
ORPHAN_HOURS = 24  # before a file that belongs to no snapshot counts as left behind by a writer that was killed
# Of the files that are written and compacted. A scan reads the whole footer of a file that it opens, so that one day of
# a large file costs as much as a year. Files of half the size are left alone, not written again and again.
FILE_BYTES = 64 * 1024 * 1024
REWRITTEN_DELETE_SHARE = 0.1  # a file of whose rows more are deleted is written again without them

MAX_ORPHAN_SHARE = 0.01  # of a ledger's rows whose account or customer is unknown; above, the check fails
LEDGER_CHECK_SECONDS = 15 * 60.0  # between two checks of whole ledgers while events arrive
# What a target lag has to leave: an event's way from Kafka to the commit of its ledger (up to 20 s), and a requested run's way
# to its own commit (queue, process start and refresh: up to 20 s).
REFRESH_ALLOWANCE_SECONDS = 45.0
HISTORY_SECONDS = (
    240.0  # between two looks at the history of tables that refresh themselves, which wakes a virtual warehouse
)
RETRY_AFTER_FAILURE_SECONDS = 60.0  # before a sensor requests again what has just failed

EMAILS_PER_RUN = 50  # customers taken from the queue by one run, the control group included
EMAIL_PAUSE_DAYS = 7  # no customer gets two emails within this many days
CONTROL_SHARE = 0.1  # of the customers who would get an email: they get none, so that its effect can be measured
ALERT_HOURS = 24.0  # for which an alert may wait for its email
TRAINING_SET_SECONDS = 24 * 3600.0  # between two additions to the training set
LABEL_DAYS = 30  # after a cut-off, within which a customer who left counts as churned
TRAINING_WEEKS = 104  # the latest cut-offs that a model is trained, validated and tested on
MAX_CALIBRATION_ERROR = 0.02  # of a model's probabilities, on average, for it to serve ...
MAX_RELATIVE_CALIBRATION_ERROR = 0.5  # ... and as a part of the share of leavers, which may be smaller than that
RETRAINING_SECONDS = 7 * 24 * 3600.0  # between two trainings, unless drift asks for one earlier
DRIFT_SECONDS = 24 * 3600.0  # between two looks at drift
# Population stability index from which features or scores count as another population than the training set's:
# N Siddiqi, Credit Risk Scorecards (2006), ch. 7.
MAX_STABILITY_INDEX = 0.25
EFFECT_SECONDS = 24 * 3600.0  # between two measurements of the emails' effect
EFFECT_DAYS = 30  # within which a customer who left counts against an email, or against its absence
TREND_SECONDS = 15 * 60.0  # between two counts of the customers at risk, from which the trend is read
TREND_DAYS = 30  # of the trend that is shown
LATENCY_HOURS = 24  # of the events whose way is shown
SEARCH_TARGET_LAG = "1 hour"  # of the search over errors and cases on Snowflake, where each refresh costs
SEARCH_SECONDS = 60.0  # between two additions to the search index while events arrive
SEARCH_POSITION_SECONDS = (
    12 * 3600.0
)  # after which an index with nothing to add moves on, so as to hold no old snapshot
COST_SECONDS = 24 * 3600.0  # between two looks at what the days cost
COST_DAYS = 30  # that such a look shows
WRITER_CONCURRENCY = 4  # emails written at once
WRITER_TIMEOUT_SECONDS = 30.0
ANALYST_TIMEOUT_SECONDS = 60.0  # of a call to a language model that answers a question; a question takes two at most
WRITER_RETRIES = 2  # of a call to a language model, with growing pauses
WRITER_PATIENCE_MINUTES = (5.0, 30.0)  # after a failed run, before the next; then the template writes
WRITER_IS_DOWN_AFTER = 8  # failures in a row: the run asks no more
MAX_EMAIL_SENTENCES = 3
MAX_EMAIL_CHARACTERS = 900


_KAFKA_SECURITY = ("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_", "KAFKA_ENABLE_SSL_", "KAFKA_ENABLE_SASL_")


class Settings(BaseSettings):
    """What a user may set, by environment variable or in `.env`. Immutable."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Field(Path(".churn"), alias="CHURN_HOME", description="Folder of all state.")
    target: Literal["local", "snowflake"] = Field("local", alias="CHURN_TARGET", description="Which warehouse.")
    driver: Literal["dagster", "native"] = Field(
        "dagster",
        alias="CHURN_DRIVER",
        description="Who moves the streams and writes emails: Dagster, or Snowflake's own tasks; from the next deploy on.",
    )
    snowflake_account: str = Field("", alias="SNOWFLAKE_ACCOUNT", description="Account identifier, as ORG-ACCOUNT.")
    snowflake_user: str = Field("", alias="SNOWFLAKE_USER", description="Who signs in: a user of TYPE = SERVICE.")
    snowflake_role: str = Field("DATA_ENGINEER", alias="SNOWFLAKE_ROLE", description="The role that owns the tables.")
    snowflake_warehouse: str = Field("CHURN", alias="SNOWFLAKE_WAREHOUSE", description="The virtual warehouse.")
    snowflake_database: str = Field("CHURN", alias="SNOWFLAKE_DATABASE", description="The database.")
    snowflake_schema: str = Field("MAIN", alias="SNOWFLAKE_SCHEMA", description="The schema of the ledgers.")
    snowflake_private_key_path: Path | None = Field(
        None, alias="SNOWFLAKE_PRIVATE_KEY_PATH", description="The user's private key, a PEM file."
    )
    snowflake_private_key_passphrase: SecretStr | None = Field(
        None, alias="SNOWFLAKE_PRIVATE_KEY_PASSPHRASE", description="What the key is encrypted with, if it is."
    )
    snowflake_token: SecretStr | None = Field(
        None, alias="SNOWFLAKE_TOKEN", description="An OAuth access token, instead of a key."
    )
    snowflake_password: SecretStr | None = Field(
        None,
        alias="SNOWFLAKE_PASSWORD",
        description="A password, instead of a key; Snowflake refuses it for service users.",
    )
    snowflake_host: str | None = Field(
        None, alias="SNOWFLAKE_HOST", description="Where the account is reached, if not under its own name."
    )
    snowflake_port: int = Field(443, alias="SNOWFLAKE_PORT", description="Port of SNOWFLAKE_HOST.")
    snowflake_protocol: Literal["https", "http"] = Field(
        "https", alias="SNOWFLAKE_PROTOCOL", description="http for an emulator on this machine only."
    )
    kafka_bootstrap_servers: str | None = Field(
        None,
        alias="KAFKA_BOOTSTRAP_SERVERS",
        description="Brokers as host:port, comma-separated; the embedded broker of `churn broker` when unset.",
    )
    topics_setting: str = Field(
        f"{EVENTS_TOPIC},{SCORES_TOPIC}",
        alias="CHURN_TOPICS",
        description="Topics that events are read from, comma-separated; the simulator writes events to the first.",
    )
    on_gap: OnGap = Field(
        "fail",
        alias="CHURN_ON_GAP",
        description="What to do where Kafka no longer holds messages that were never stored: fail, or skip them.",
    )
    kafka_group: str = Field(
        "churn_assets",
        alias="CHURN_KAFKA_GROUP",
        description="Consumer group that is told what has been stored, for lag exporters. It decides nothing.",
    )
    kafka_security: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr],
        description="librdkafka properties from KAFKA_SECURITY_*, KAFKA_SASL_*, KAFKA_SSL_* and KAFKA_ENABLE_*.",
    )

    refresh: Literal["lag", "eager"] = Field(
        "lag",
        alias="CHURN_REFRESH",
        description="Refresh as late as the target lag allows, or as soon as something changed.",
    )

    score_source: Literal["heuristic", "model"] = Field(
        "heuristic",
        alias="CHURN_SCORE_SOURCE",
        description="Which score makes the risk class; it holds from the next `churn deploy` on.",
    )

    writer: Literal["template", "openai", "cortex"] = Field(
        "template", alias="CHURN_WRITER", description="Who writes the emails: fixed sentences or a language model."
    )
    writer_model: str | None = Field(
        None,
        alias="CHURN_WRITER_MODEL",
        description="The language model; llama3 for openai, llama3.1-8b for cortex when unset.",
    )
    analyst: Literal["verified", "openai", "cortex"] = Field(
        "verified",
        alias="CHURN_ANALYST",
        description="Who answers a question that is no verified one: nobody, or a language model.",
    )
    analyst_model: str = Field(
        "llama3", alias="CHURN_ANALYST_MODEL", description="The language model of CHURN_ANALYST=openai."
    )
    openai_base_url: str = Field(
        "http://localhost:11434/v1",
        alias="OPENAI_BASE_URL",
        description="Any server that speaks OpenAI's protocol; Ollama on this machine when unset.",
    )
    openai_api_key: SecretStr = Field(SecretStr("none"), alias="OPENAI_API_KEY", description="The server's key.")
    emails_per_day: int = Field(
        500, alias="CHURN_EMAILS_PER_DAY", ge=0, description="Emails that may be written a day (UTC)."
    )
    tokens_per_day: int = Field(
        500_000,
        alias="CHURN_TOKENS_PER_DAY",
        ge=0,
        description="Tokens of a language model that may be used a day (UTC).",
    )
    approval: Literal["hand", "auto"] = Field(
        "hand", alias="CHURN_APPROVAL", description="Whether a person approves each email before it leaves."
    )
    smtp_url: SecretStr | None = Field(
        None,
        alias="CHURN_SMTP_URL",
        description="smtp://, smtp+starttls:// or smtps://user:password@host:port; no email is sent when unset.",
    )
    email_from: str = Field("", alias="CHURN_EMAIL_FROM", description="The sender's address.")
    quiet_hours: str = Field(
        "21:00-08:00",
        alias="CHURN_QUIET_HOURS",
        description="When no email is sent, in CHURN_TIME_ZONE; 'none' for never.",
    )
    time_zone: str = Field(
        "UTC", alias="CHURN_TIME_ZONE", description="The customers' time zone, such as Europe/Paris."
    )

    @model_validator(mode="after")
    def _has_tasks_to_drive(self) -> "Settings":
        if self.driver == "native" and self.target != "snowflake":
            raise ValueError("CHURN_DRIVER=native needs CHURN_TARGET=snowflake, whose tasks it means")
        return self

    @field_validator("quiet_hours")
    @classmethod
    def _is_a_span_of_hours(cls, hours: str) -> str:
        if hours != "none" and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", hours):
            raise ValueError("must be two times such as 21:00-08:00, or none")
        return hours

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError("must be a time zone of the IANA database, such as Europe/Paris")
        return zone

    @field_validator("topics_setting")
    @classmethod
    def _names_topics(cls, topics: str) -> str:
        if not re.fullmatch(r"[\w.-]+(,[\w.-]+)*", topics):
            raise ValueError("must be names of topics, comma-separated")
        return topics

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _names_host_and_port(cls, servers: str | None) -> str | None:
        if servers is not None and not re.fullmatch(r"[^\s:,]+:\d+(,[^\s:,]+:\d+)*", servers):
            raise ValueError("must be host:port, several of them comma-separated")
        return servers

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that events are read from."""
        return tuple(self.topics_setting.split(","))

    @property
    def lake_path(self) -> Path:
        """Folder of the lake: its catalog and its Parquet files."""
        return self.home.absolute() / "lake"

    @property
    def emails_path(self) -> Path:
        """Folder of what a run that writes emails keeps beside the warehouse."""
        return self.home.absolute() / "emails"

    @property
    def search_path(self) -> Path:
        """Folder of the search index."""
        return self.home.absolute() / "search"

    @property
    def dagster_home(self) -> Path:
        """Folder of Dagster's own storage."""
        return self.home.absolute() / "dagster"

    @property
    def dbt_target_path(self) -> Path:
        """Folder of dbt's artefacts, the manifest among them."""
        return self.home.absolute() / "dbt"

    @property
    def broker_file(self) -> Path:
        """Where the running embedded broker says its address and epoch."""
        return self.home.absolute() / "broker.json"


class SettingsError(ChurnError):
    """A setting is wrong; the message is one line that names it and says what is allowed."""


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, `.env` and `overrides` (by variable name), or `SettingsError`."""
    try:
        return Settings(kafka_security=_kafka_security(), **overrides)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem['input']!r})"
            for problem in error.errors()
        )
        raise SettingsError(f"wrong setting: {problems}; see .env.example") from error


def _kafka_security() -> dict[str, SecretStr]:
    """What the environment or `.env` says of Kafka's security, as librdkafka's properties: KAFKA_SASL_USERNAME is
    sasl.username. Other variables that begin with KAFKA_ belong to other programs.
    """
    variables = dotenv_values(ENV_FILE) | dict(os.environ)
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): SecretStr(value)
        for name, value in variables.items()
        if value and name.startswith(_KAFKA_SECURITY)
    }


def dbt_vars() -> dict[str, Any]:
    """The variables of the dbt project, as they must stand in `dbt/dbt_project.yml`."""
    return {
        "risk_rules": [asdict(rule) for rule in RISK_RULES],
        "high_from": HIGH_FROM,
        "medium_from": MEDIUM_FROM,
        "features": list(FEATURES),
        "model_high_from": MODEL_HIGH_FROM,
        "model_medium_from": MODEL_MEDIUM_FROM,
        "neutral_sentiment": NEUTRAL_SENTIMENT,
        "feature_window_days": FEATURE_WINDOW_DAYS,
        "features_target_lag": FEATURES_TARGET_LAG,
        "metrics_window": METRICS_WINDOW,
        "metrics_target_lag": METRICS_TARGET_LAG,
        "critical_from": CRITICAL_FROM,
        "at_risk_from": AT_RISK_FROM,
        "money_out_codes": list(MONEY_OUT_CODES),
        "reversal_code": REVERSAL_CODE,
        "wire_out_code": WIRE_OUT_CODE,
    }
