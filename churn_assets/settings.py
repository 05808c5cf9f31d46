"""The settings of a user, from the environment, `.env` or `churn.toml`, and the paths of the state. Rules are in `rules`.

Nothing is read from the environment at import: call `load_settings`.
"""

import getpass
import os
import re
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import available_timezones

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from churn_assets.configuration import (
    CONFIG_VARIABLE,
    ENV_ENCODING,
    ENV_FILE,
    SETTINGS,
    SettingsError,
    expanded,
    settings_table,
    variables,
)
from churn_assets.rules import EVENTS_TOPIC, SCORES_TOPIC, nearest

OnGap: TypeAlias = Literal["fail", "skip"]

MAPPING_FILE = "mapping.yaml"  # in the folder that a command runs in, unless CHURN_MAPPING names another
DEFAULT_MODELS = {"openai": "llama3", "cortex": "llama3.1-8b"}  # of the writer, unless CHURN_WRITER_MODEL names one


# The wrong values that a message may show. Longer ones, or those with an @, may be a key or an address with a password.
_SHOWN_IN_MESSAGES = re.compile(r"[ -?A-~]{0,40}")
_BROKER = re.compile(r"(\[(?P<ipv6>[^\[\]]+)\]|[^\s:,@/\[\]]+):(?P<port>\d{1,5})")
_KAFKA_SECURITY = ("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_", "KAFKA_ENABLE_SSL_", "KAFKA_ENABLE_SASL_")


class Settings(BaseSettings):
    """The settings of a user, by environment variable or in `.env`. Immutable. Fields that may hold secrets are `SecretStr`."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding=ENV_ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    config: Path | None = Field(
        None,
        alias=CONFIG_VARIABLE,
        description="The file of the bank's rules and settings; churn.toml in the folder of the command when unset.",
    )
    home: Path = Field(Path(".churn"), alias="CHURN_HOME", description="Folder of all state.")
    lake_catalog: SecretStr | None = Field(
        None,
        alias="CHURN_LAKE_CATALOG",
        description="postgresql://user:password@host/database: the catalog of a lake that many hosts share; a file in CHURN_HOME"
        " when unset.",
    )
    lake_data: str | None = Field(
        None,
        alias="CHURN_LAKE_DATA",
        description="s3://bucket/folder: the data and models of a lake that many hosts share; in CHURN_HOME when unset.",
    )
    target: Literal["local", "snowflake"] = Field("local", alias="CHURN_TARGET", description="Where the tables are.")
    driver: Literal["dagster", "native"] = Field(
        "dagster",
        alias="CHURN_DRIVER",
        description="Whether Dagster or Snowflake's own tasks move the streams and write emails; from the next deploy on.",
    )
    snowflake_account: str = Field("", alias="SNOWFLAKE_ACCOUNT", description="Account identifier, as ORG-ACCOUNT.")
    snowflake_user: str = Field("", alias="SNOWFLAKE_USER", description="The user, of TYPE = SERVICE.")
    snowflake_role: str = Field("DATA_ENGINEER", alias="SNOWFLAKE_ROLE", description="The role that owns the tables.")
    snowflake_warehouse: str = Field("CHURN", alias="SNOWFLAKE_WAREHOUSE", description="The virtual warehouse.")
    snowflake_database: str = Field("CHURN", alias="SNOWFLAKE_DATABASE", description="The database.")
    snowflake_schema: str = Field("MAIN", alias="SNOWFLAKE_SCHEMA", description="The schema of the ledgers.")
    snowflake_private_key_path: Path | None = Field(
        None, alias="SNOWFLAKE_PRIVATE_KEY_PATH", description="The user's private key, a PEM file."
    )
    snowflake_private_key_passphrase: SecretStr | None = Field(
        None, alias="SNOWFLAKE_PRIVATE_KEY_PASSPHRASE", description="The passphrase of the key, if it is encrypted."
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
        None, alias="SNOWFLAKE_HOST", description="The account's host, if it is not reached under its own name."
    )
    snowflake_port: int = Field(443, alias="SNOWFLAKE_PORT", description="Port of SNOWFLAKE_HOST.")
    snowflake_protocol: Literal["https", "http"] = Field(
        "https", alias="SNOWFLAKE_PROTOCOL", description="http for an emulator on this machine only."
    )
    kafka_bootstrap_servers: str | None = Field(
        None,
        alias="KAFKA_BOOTSTRAP_SERVERS",
        description="Brokers as host:port or [IPv6]:port, comma-separated; the embedded broker of `churn broker` when unset.",
    )
    topics_setting: str = Field(
        f"{EVENTS_TOPIC},{SCORES_TOPIC}",
        alias="CHURN_TOPICS",
        description="Topics that events are read from, comma-separated; the simulator writes events to the first.",
    )
    mapping: Path | None = Field(
        None,
        alias="CHURN_MAPPING",
        description="How your own topics and files become rows; mapping.yaml in the folder of the command if it is there.",
    )
    on_gap: OnGap = Field(
        "fail",
        alias="CHURN_ON_GAP",
        description="What to do if Kafka no longer holds messages that were never stored: fail, or skip them.",
    )
    kafka_group: str = Field(
        "churn_assets",
        alias="CHURN_KAFKA_GROUP",
        description="Consumer group whose offsets follow the stored ones, for lag exporters; one for each home.",
    )
    # Without NoDecode, a variable KAFKA_SECURITY of another program would be parsed as JSON.
    kafka_security: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default_factory=dict[str, SecretStr],
        description="librdkafka properties from KAFKA_SECURITY_*, KAFKA_SASL_*, KAFKA_SSL_* and KAFKA_ENABLE_*.",
    )

    schema_registry_url: SecretStr | None = Field(
        None,
        alias="SCHEMA_REGISTRY_URL",
        description="The Schema Registry of topics in Avro or Protobuf, optionally with user:password@.",
    )
    schema_registry_user_info: SecretStr | None = Field(
        None, alias="SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO", description="The registry's user:password."
    )
    schema_registry_ca: Path | None = Field(
        None,
        alias="SCHEMA_REGISTRY_SSL_CA_LOCATION",
        description="A PEM file with the authority that the registry has.",
    )

    refresh: Literal["lag", "eager"] = Field(
        "lag",
        alias="CHURN_REFRESH",
        description="Refresh as late as the target lag allows, or as soon as something changed.",
    )

    score_source: Literal["heuristic", "model"] = Field(
        "heuristic",
        alias="CHURN_SCORE_SOURCE",
        description="Which score determines the risk class; from the next `churn deploy` on.",
    )

    writer: Literal["template", "openai", "cortex"] = Field(
        "template", alias="CHURN_WRITER", description="The writer of the emails: fixed sentences or a language model."
    )
    writer_model: str | None = Field(
        None,
        alias="CHURN_WRITER_MODEL",
        description="The language model; llama3 for openai, llama3.1-8b for cortex when unset.",
    )
    analyst: Literal["verified", "openai", "cortex"] = Field(
        "verified",
        alias="CHURN_ANALYST",
        description="What answers a question that is not a verified one: nothing (verified), or a language model.",
    )
    analyst_model: str = Field(
        "llama3", alias="CHURN_ANALYST_MODEL", description="The language model of CHURN_ANALYST=openai."
    )
    openai_base_url: SecretStr = Field(
        SecretStr("http://localhost:11434/v1"),
        alias="OPENAI_BASE_URL",
        description="Any server with OpenAI's protocol, optionally with user:password@; Ollama on this machine when unset.",
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
        "hand", alias="CHURN_APPROVAL", description="Whether a person approves each email before it is sent."
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
        description="Hours in which no email is sent, in CHURN_TIME_ZONE, or 'none'.",
    )
    time_zone: str = Field(
        "UTC", alias="CHURN_TIME_ZONE", description="The customers' time zone, such as Europe/Paris."
    )
    dashboard_url: str | None = Field(
        None,
        alias="CHURN_DASHBOARD_URL",
        description="The dashboard's address, for links in Dagster; no links when unset.",
    )

    alerts: SecretStr | None = Field(
        None,
        alias="CHURN_ALERTS",
        description="Whom to tell of what fails, as addresses of Apprise, comma-separated; only the log and a file when unset.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", alias="CHURN_LOG_FORMAT", description="Logs for people, or one JSON object a line."
    )
    runs_days: int = Field(
        30, alias="CHURN_RUNS_DAYS", ge=1, description="Days for which Dagster's runs that succeeded are kept."
    )
    failed_runs_days: int = Field(
        90,
        alias="CHURN_FAILED_RUNS_DAYS",
        ge=1,
        description="Days for which runs that failed or were canceled are kept.",
    )
    runs_of_a_job: int = Field(
        200,
        alias="CHURN_RUNS_OF_A_JOB",
        ge=10,
        description="Runs of a job that are kept at most, of those that succeeded and of those that failed.",
    )

    memory_limit: str | None = Field(
        None,
        alias="CHURN_MEMORY_LIMIT",
        pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$",
        description="Memory of each process's queries, such as 4GB; half of the machine's or the container's when unset.",
    )

    @model_validator(mode="after")
    def _has_tasks_to_drive(self) -> "Settings":
        if self.driver == "native" and self.target != "snowflake":
            raise ValueError("CHURN_DRIVER=native needs CHURN_TARGET=snowflake, as it runs Snowflake's tasks")
        return self

    @model_validator(mode="after")
    def _has_both_parts_of_a_shared_lake(self) -> "Settings":
        if (self.lake_catalog is None) != (self.lake_data is None):
            raise ValueError(
                "CHURN_LAKE_CATALOG and CHURN_LAKE_DATA need each other: set both, or none for a lake in CHURN_HOME"
            )
        return self

    @field_validator("lake_catalog")
    @classmethod
    def _is_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.fullmatch(r"postgres(ql)?://[^\s/]+/[^\s/?]+(\?\S*)?", url.get_secret_value()):
            raise ValueError("must be postgresql://user:password@host:port/database")
        return url

    @field_validator("lake_data")
    @classmethod
    def _is_a_folder_in_s3(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[\w.=-]+)+/?", url):
            raise ValueError(
                "must be s3://bucket/folder; keys, region and server are those of AWS_* in the environment"
            )
        return url and url.rstrip("/")

    @field_validator("snowflake_private_key_path")
    @classmethod
    def _is_no_key_itself(cls, path: Path | None) -> Path | None:
        if path is not None and ("\n" in str(path) or "PRIVATE KEY" in str(path)):
            raise ValueError("must be the path of a PEM file, not the key itself")
        return path

    @field_validator("home", "mapping", "schema_registry_ca", "snowflake_private_key_path")
    @classmethod
    def _is_at_home(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(expanded(str(path)))

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
        if servers is None:
            return None
        brokers = [broker.strip() for broker in servers.split(",")]
        if not all(map(_is_broker, brokers)):
            raise ValueError("must be host:port or [IPv6 address]:port, several of them comma-separated")
        return ",".join(brokers)

    @field_validator("dashboard_url")
    @classmethod
    def _is_an_address_without_password(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s@]+", url):
            raise ValueError("must be an address such as http://127.0.0.1:8501, without user or password")
        return url

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that events are read from."""
        return tuple(self.topics_setting.split(","))

    @property
    def mapping_file(self) -> Path | None:
        """The file that maps the bank's own topics and files, if there is one."""
        return self.mapping or (Path(MAPPING_FILE) if Path(MAPPING_FILE).is_file() else None)

    @property
    def schema_registry(self) -> dict[str, SecretStr]:
        """The properties of the Schema Registry's client that are set, under its names."""
        ca = self.schema_registry_ca
        properties = {
            "url": self.schema_registry_url,
            "basic.auth.user.info": self.schema_registry_user_info,
            "ssl.ca.location": None if ca is None else SecretStr(str(ca)),
        }
        return {name: value for name, value in properties.items() if value is not None}

    @property
    def lake_path(self) -> Path:
        """Folder of the lake: its catalog and its Parquet files."""
        return self.home.absolute() / "lake"

    @property
    def lake_is_shared(self) -> bool:
        """Whether the tables are in a lake on PostgreSQL and S3, instead of in CHURN_HOME or on Snowflake."""
        return self.target == "local" and self.lake_catalog is not None

    @property
    def emails_path(self) -> Path:
        """Folder of the files that email runs keep beside the warehouse."""
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
        """Folder of dbt's artefacts, including the manifest."""
        return self.home.absolute() / "dbt"

    @property
    def alerts_file(self) -> Path:
        """File of failed runs and checks, one JSON object a line."""
        return self.home.absolute() / "alerts.jsonl"

    @property
    def broker_file(self) -> Path:
        """File with the address and epoch of the running embedded broker."""
        return self.home.absolute() / "broker.json"


# The variables that may hold a secret.
SECRETS = {field.alias or name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


def acting_user() -> str:
    """The name of the person who runs this process, for the records of who did what; a container may know only the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return f"user {os.getuid()}"


def load_settings(**overrides: Any) -> Settings:
    """The settings from `overrides` (by variable name), the environment, `.env` and `churn.toml`, the first that has one.

    `SettingsError` if one is wrong.
    """
    given = _variables()
    path, table = _table()
    from_file = {name: value for name, value in table.items() if name not in given}
    try:
        return Settings(kafka_security=_kafka_security(given), **from_file | overrides)
    except ValidationError as error:
        problems = "; ".join(
            f"in [{SETTINGS}] of {path}: {said}" if (from_file.keys() - overrides) & {*problem["loc"]} else said
            for problem in error.errors()
            for said in [_problem(problem)]
        )
    # Raised outside of the handler, so that pydantic's error, which holds every raw value, is not chained and printed.
    raise SettingsError(f"wrong setting: {problems}; see .env.example")


def _problem(problem: ErrorDetails) -> str:
    """One problem in words, with the wrong value only if it cannot be a secret.

    The input of a model validator is a dict of all values, including secrets.
    """
    where, value = problem["loc"], problem["input"]
    is_shown = isinstance(value, str) and SECRETS.isdisjoint(where) and _SHOWN_IN_MESSAGES.fullmatch(value)
    said = f"{problem['msg']} (got {value!r})" if is_shown else problem["msg"]
    return ": ".join([*map(str, where), said])


def _variables() -> dict[str, str]:
    """What `.env` and the environment say to this project; `SettingsError` if that is no UTF-8."""
    names = {field.alias for field in Settings.model_fields.values()}
    found = {name: value for name, value in variables().items() if name in names or name.startswith(_KAFKA_SECURITY)}
    for name, value in found.items():
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise SettingsError(f"wrong setting: {name} is not UTF-8; write it in UTF-8")
    return found


def _table() -> tuple[Path, dict[str, Any]]:
    """The section `[settings]` of `churn.toml`, and its file; `SettingsError` for what may not stand there."""
    path, table = settings_table()
    aliases = {field.alias for field in Settings.model_fields.values() if field.alias}
    known = sorted(aliases - SECRETS - {CONFIG_VARIABLE})
    for name in table:
        if name in SECRETS or name.startswith(_KAFKA_SECURITY):
            raise SettingsError(
                f"{path}: {SETTINGS}.{name} may hold a secret; set it in .env or the environment instead"
            )
        if name not in known:
            raise SettingsError(
                f"{path}: {SETTINGS}.{name}: nothing reads it{nearest(name, known)}; the names are those of .env.example"
            )
    return path, table


def _kafka_security(variables: dict[str, str]) -> dict[str, SecretStr]:
    """Kafka's security settings under librdkafka's names: KAFKA_SASL_USERNAME becomes sasl.username.

    Other variables that begin with KAFKA_ belong to other programs.
    """
    found: dict[str, SecretStr] = {}
    for name, value in variables.items():
        if name.startswith(_KAFKA_SECURITY):
            try:
                found[name.removeprefix("KAFKA_").lower().replace("_", ".")] = SecretStr(
                    expanded(value) if name.endswith("_LOCATION") else value
                )
            except ValueError as error:
                raise SettingsError(f"wrong setting: {name}: {error}") from None
    return found


def _is_broker(text: str) -> bool:
    found = _BROKER.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        return False
    try:
        return not found["ipv6"] or bool(IPv6Address(found["ipv6"]))
    except AddressValueError:
        return False
