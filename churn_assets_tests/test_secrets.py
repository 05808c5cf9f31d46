"""A secret shows nowhere, whatever is wrong: messages, chains of errors, the doctor, Dagster's UI, dbt's environment."""

import json
import os
import re
import stat
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_origin

import dagster as dg
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._utils.error import serializable_error_info_from_exc_info
from dbt.cli import main as dbt
from dbt.config.renderer import ProfileRenderer
from pydantic import SecretStr, ValidationError

from churn_assets.cli import app as cli
from churn_assets.definitions import build_defs, defs
from churn_assets.errors import ChurnError
from churn_assets.ingestion import kafka
from churn_assets.language_model import LanguageModel
from churn_assets.operations import dbt as deployment
from churn_assets.retention.outbox.smtp import smtp_of
from churn_assets.settings import Settings, SettingsError, load_settings

NAMES = {name: field.alias or name for name, field in Settings.model_fields.items()}
# All but the one that moves the lake to where no test has one: see warehouse/test_shared_lake.py.
SECRET = [
    NAMES[name]
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation) and name != "lake_catalog"
]
KAFKA_SECRET = ["KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD", "KAFKA_SECURITY_SOMETHING"]
# What none of the validators takes; Literal and int fields are found by their type.
REFUSED = {
    "SNOWFLAKE_PRIVATE_KEY_PATH": ["-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----", "PRIVATE KEY"],
    "KAFKA_BOOTSTRAP_SERVERS": ["ann:s3cret@kafka:9092", "s3cret@kafka:9092"],
    "CHURN_HOME": ["~nobody-here/x", "$HOME/x"],
    "SCHEMA_REGISTRY_SSL_CA_LOCATION": ["$HOME/x"],
    "CHURN_MAPPING": ["~nobody-here/x", "$HOME/x"],
    "CHURN_LAKE_CATALOG": ["mysql://ann:s3cret@db/lake", "postgresql://ann:s3cret@db"],
    "CHURN_LAKE_DATA": ["gs://bank/lake", "s3://ann:s3cret@bank/lake", "s3://bank"],
    "CHURN_TOPICS": ["a b", "https://ann:s3cret@kafka/a"],
    "CHURN_DASHBOARD_URL": ["https://ann:s3cret@dashboard/"],
    "CHURN_QUIET_HOURS": ["always"],
    "CHURN_TIME_ZONE": ["Mars"],
}


def secret_of(name: str) -> str:
    return f"s3cret of {name}"


@pytest.fixture(autouse=True)
def _every_secret_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*SECRET, *KAFKA_SECRET]:
        monkeypatch.setenv(name, secret_of(name))


def wrong_settings() -> Iterator[tuple[str, str]]:
    """Every variable that can be wrong, with a value that is."""
    for name, field in Settings.model_fields.items():
        if get_origin(field.annotation) is Literal or field.annotation is int:
            yield NAMES[name], "wrong"
    for name, values in REFUSED.items():
        yield from ((name, value) for value in values)
    # Validators of all values at once: with a local target, and without the other half of a shared lake.
    yield "CHURN_DRIVER", "native"
    yield "CHURN_LAKE_DATA", "s3://bank/lake"


def shown_by(error: BaseException) -> str:
    """Every form in which an error reaches a person: its message, its chain, and what Dagster makes of it."""
    info = serializable_error_info_from_exc_info((type(error), error, error.__traceback__))
    return "\n".join([str(error), repr(error), *traceback.format_exception(error), info.to_string(), repr(info)])


def test_no_setting_that_is_wrong_shows_a_secret_in_its_error_or_the_errors_chain():
    failed: set[str] = set()
    for name, value in wrong_settings():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SettingsError) as caught:
                load_settings()
            with pytest.raises(SettingsError) as in_dagster:
                defs()
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "s3cret" not in shown_by(caught.value) + shown_by(in_dagster.value), name
        failed.add(name)

    validated = {
        NAMES[name]
        for decorated in Settings.__pydantic_decorators__.field_validators.values()
        for name in decorated.info.fields
    }
    assert validated <= failed, "a validator of no case above"
    assert len(Settings.__pydantic_decorators__.model_validators) == 2, "a validator of no case above"


@pytest.mark.parametrize("name", [name for name in SECRET if name != "kafka_security"])
def test_a_secret_of_a_wrong_type_is_named_and_not_shown(name: str):
    for value in (["s3cret"], {"a": "s3cret"}):
        with pytest.raises(SettingsError, match=name) as caught:
            load_settings(**{name: value})
        assert "s3cret" not in shown_by(caught.value)


def test_settings_that_are_made_directly_show_no_value_when_they_are_wrong():
    with pytest.raises(ValidationError) as caught:
        Settings(CHURN_DRIVER="native", kafka_security={"sasl.password": 5})  # type: ignore[call-arg]

    assert "s3cret" not in shown_by(caught.value)


def test_a_variable_of_another_program_is_not_read_as_kafkas_security(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KAFKA_SECURITY", '{"sasl.password": 5, "s3cret"')

    assert set(load_settings().kafka_security) == {
        "sasl.username",
        "sasl.password",
        "ssl.key.password",
        "security.something",
    }


def test_settings_show_no_secret_nor_an_address_that_may_hold_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://ann:s3cret@models.example/v1?key=s3cret")

    settings = load_settings()

    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    "address",
    [
        "https://ann:s3cret@models.example:port/v1",
        "https://ann:s3cret/s3cret@models.example/v1",
        "https://ann:1/s3cret@models.example/v1",
        "https://ann:s3cret@[models.example/v1",
        "https://ann:s3cret@models.example:99999/v1",
        "ann:s3cret@models.example",
        "https://ann:s3cret@127.0.0.1:9/v1?key=s3cret",
    ],
)
def test_an_address_of_a_language_model_shows_no_password_whether_it_is_wrong_or_nobody_answers(address: str):
    with pytest.raises(ChurnError) as caught:
        LanguageModel(address, "key", "m", setting="CHURN_WRITER_MODEL", timeout=1, max_retries=0).complete(
            "", "", temperature=0, max_tokens=1
        )

    assert "s3cret" not in shown_by(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "smtp://ann:s3cret@mail.example:port",
        "smtp://ann:s3cret/s3cret@mail.example",
        "smtp://ann:1/s3cret@mail.example",
        "smtp://ann:s3cret@[mail.example",
        "ann:s3cret@mail.example",
        "smtp://ann:s3crét@mail.example",
    ],
)
def test_a_mail_server_that_is_wrong_shows_no_password(monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setenv("CHURN_SMTP_URL", url)

    with pytest.raises(SettingsError) as caught:
        smtp_of(load_settings(CHURN_EMAIL_FROM="care@bank.example"))

    assert not re.search("s3cr[eé]t", shown_by(caught.value))


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Everything that a command prints, this process's libraries included."""

    def run(*arguments: str) -> str:
        cli.run_command(arguments)
        found = capfd.readouterr()
        return found.out + found.err

    return run


def test_no_command_prints_a_secret_of_wrong_settings(said: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHURN_DRIVER", "native")

    for command in (["doctor"], ["deploy"], ["demo"], ["outbox", "list"], ["model", "list"]):
        printed = said(*command)
        assert "CHURN_DRIVER=native needs CHURN_TARGET=snowflake" in printed
        assert "s3cret" not in printed


def test_the_doctor_shows_no_secret_of_a_lake(
    said: Callable[..., str], settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("CHURN_WRITER", "openai")
    monkeypatch.setenv("CHURN_EMAIL_FROM", "care@bank.example")

    for url in ("smtp://ann:s3cret@mail.example", "smtp://ann:s3cret@mail.example:port"):
        monkeypatch.setenv("CHURN_SMTP_URL", url)
        printed = said("doctor")
        assert "sasl.password=set" in printed
        assert "s3cret" not in printed


def test_the_doctor_shows_no_secret_of_an_account(
    said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encrypted = serialization.BestAvailableEncryption(b"another")
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encrypted))
    monkeypatch.setenv("CHURN_TARGET", "snowflake")
    without_account = said("doctor")
    for name, value in {"ACCOUNT": "ORG-BANK", "USER": "ann", "PRIVATE_KEY_PATH": str(path)}.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)
    with_a_wrong_passphrase = said("doctor")

    assert "needs SNOWFLAKE_ACCOUNT" in without_account
    assert "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE its passphrase" in with_a_wrong_passphrase
    assert "s3cret" not in without_account + with_a_wrong_passphrase


@pytest.mark.parametrize("target", ["local", "snowflake"])
def test_dagster_is_told_no_secret_to_show_in_its_ui(settings: Settings, target: str):
    account = {"CHURN_TARGET": target, "SNOWFLAKE_ACCOUNT": "ORG-BANK", "SNOWFLAKE_USER": "ann"}
    graph = build_defs(load_settings(CHURN_HOME=settings.home, **account))

    shown = dg.serialize_value(RepositorySnap.from_def(graph.get_repository_def()))

    assert "retention_emails" in shown
    assert "s3cret" not in shown


class Looked:
    """Stands in for dbt and keeps what a run of it could see."""

    environment: dict[str, str]
    arguments: list[str]
    profiles: Path
    profile: dict[str, Any]
    modes: list[int]

    def invoke(self, arguments: list[str]) -> Any:
        self.environment, self.arguments = dict(os.environ), arguments
        self.profiles = Path(arguments[arguments.index("--profiles-dir") + 1])
        profile = self.profiles / "profiles.yml"
        self.modes = [stat.S_IMODE(path.stat().st_mode) for path in (self.profiles, profile)]
        raw = yaml.safe_load(profile.read_text())["churn_assets"]["outputs"]["snowflake"]
        self.profile = ProfileRenderer({}).render_data(
            {
                name: raw[name]
                for name in ("authenticator", "token", "password", "private_key_path", "private_key_passphrase")
            }
        )
        return type("Result", (), {"success": False, "exception": "stopped"})()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    looked = Looked()
    monkeypatch.setattr(dbt, "dbtRunner", lambda: looked)
    return looked


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """The settings of an account, whose secrets are in `.env` and not in the environment."""
    for name in [*SECRET, *KAFKA_SECRET]:
        monkeypatch.delenv(name)

    def of(**signs_in: str) -> Settings:
        variables = {"ACCOUNT": "ORG-BANK", "USER": "ann", **signs_in}
        lines = [f"SNOWFLAKE_{name}={json.dumps(value, ensure_ascii=False)}" for name, value in variables.items()]
        (tmp_path / ".env").write_text("\n".join(["CHURN_TARGET=snowflake", *lines]))
        return load_settings()

    return of


def test_dbt_signs_in_by_a_file_that_is_ours_alone_and_gone_afterwards(
    looked: Looked, account: Callable[..., Settings]
):
    with pytest.raises(deployment.DeploymentError, match="stopped"):
        deployment.declare(account(PASSWORD="s3cret"))

    assert looked.profile["password"] == "s3cret"
    assert looked.modes == [0o700, 0o600]
    assert not looked.profiles.exists()
    assert "s3cret" not in f"{looked.environment} {looked.arguments}"
    assert looked.environment["SNOWFLAKE_ACCOUNT"] == "ORG-BANK"


def test_dbt_signs_in_as_all_else_does_with_a_key_a_token_or_a_password_in_this_order(
    looked: Looked, account: Callable[..., Settings], tmp_path: Path
):
    (tmp_path / "key.pem").touch()
    every = {"TOKEN": "42", "PASSWORD": "007", "PRIVATE_KEY_PATH": "key.pem", "PRIVATE_KEY_PASSPHRASE": "123"}
    found = []
    for left_out in ((), ("PRIVATE_KEY_PATH",), ("PRIVATE_KEY_PATH", "TOKEN")):
        with pytest.raises(deployment.DeploymentError):
            deployment.declare(account(**{name: value for name, value in every.items() if name not in left_out}))
        found.append({name: value for name, value in looked.profile.items() if value})

    assert found == [
        {"private_key_path": str(tmp_path / "key.pem"), "private_key_passphrase": "123"},
        {"authenticator": "oauth", "token": "42"},
        {"password": "007"},
    ]


@pytest.mark.parametrize("password", ["{{ 1 }}", "{% x", "}}", "a'b\"c\\n", "{# #}", "#: &", "ü🦆", "true", "1e3"])
def test_dbt_gets_a_password_as_it_is(looked: Looked, account: Callable[..., Settings], password: str):
    settings = account(PASSWORD="x").model_copy(update={"snowflake_password": SecretStr(password)})
    with pytest.raises(deployment.DeploymentError):
        deployment.declare(settings)

    assert looked.profile["password"] == password
