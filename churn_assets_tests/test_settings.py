import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from churn_assets.rules import Rules
from churn_assets.settings import Settings, SettingsError, load_settings
from churn_assets_tests.repository import REPOSITORY


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `.env` of the folder that the user stands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "localhost", ["host:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092,b", ["host:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092,", ["host:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "localhost:99999", ["host:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "PLAINTEXT://a:9092", ["host:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "::1:9092", ["[IPv6 address]:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "[::1]", ["[IPv6 address]:port"]),
        pytest.param("KAFKA_BOOTSTRAP_SERVERS", "[::g]:9092", ["[IPv6 address]:port"]),
        pytest.param("CHURN_HOME", "~nobody-here/x", ["~nobody-here is no user of this machine"]),
        pytest.param("CHURN_HOME", "$HOME/x", ["${HOME}"]),
        pytest.param("CHURN_TARGET", "oracle", ["'local'"]),
        pytest.param("CHURN_REFRESH", "sometimes", ["'lag'", "'eager'"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_says_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: str, allowed: list[str]
):
    monkeypatch.setenv(name, wrong)

    with pytest.raises(SettingsError) as error:
        load_settings()

    message = str(error.value)
    assert "\n" not in message
    assert name in message
    assert repr(wrong) in message
    assert all(value in message for value in allowed)


@pytest.mark.parametrize(
    "servers",
    [
        "localhost:9092",
        "kafka-1.bank.example:9092,10.0.0.2:9093",
        "[::1]:9092",
        "[2001:db8::7]:9092,[fe80::1%eth0]:9093,[::ffff:10.0.0.2]:9094,kafka-1:9095",
        "kafka-1:9092, kafka-2:9092",
    ],
)
def test_brokers_are_hosts_with_ports(monkeypatch: pytest.MonkeyPatch, servers: str):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)

    assert load_settings().kafka_bootstrap_servers == servers.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("CHURN_HOME", "~/churn", "/home/ada/churn"),
        ("CHURN_HOME", "'~'", "/home/ada"),
        ("CHURN_HOME", "${HOME}/churn", "/home/ada/churn"),
        ("CHURN_HOME", "~root/churn", "/root/churn"),
        ("CHURN_HOME", "a~b/~", "a~b/~"),
        ("SNOWFLAKE_PRIVATE_KEY_PATH", "~/key.p8", "/home/ada/key.p8"),
        ("KAFKA_SSL_CA_LOCATION", "~/ca.pem", "/home/ada/ca.pem"),
        ("KAFKA_SASL_PASSWORD", "~s3cret", "~s3cret"),
    ],
)
def test_a_tilde_in_a_path_is_the_home_of_a_user(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str, expected: str
):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("CHURN_HOME")
    env_file.write_text(f"{name}={given}\n")

    settings = load_settings()

    kafka = {key: secret.get_secret_value() for key, secret in settings.kafka_security.items()}
    assert expected in {str(settings.home), str(settings.snowflake_private_key_path), *kafka.values()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("CHURN_REFRESH=lag\n# für Köln\nCHURN_EMAIL_FROM=é\n".encode("latin-1"), "is not UTF-8 in line 2"),
        ("CHURN_REFRESH=eager\n".encode("utf-16"), "is UTF-16"),
        ("CHURN_REFRESH=eager\n".encode("utf-16-be"), "has a NUL character"),
        (b"CHURN_REFRESH=eager\nCHURN_HOME=a\0b\n", "has a NUL character"),
    ],
)
def test_an_env_file_that_is_no_utf_8_is_refused_in_one_line(env_file: Path, content: bytes, said: str):
    env_file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"^{re.escape(str(env_file))} {said}[^\n]*; save it as UTF-8$"):
        load_settings()


def test_an_env_file_with_a_byte_order_mark_means_the_same(env_file: Path):
    env_file.write_text("CHURN_REFRESH=eager\nCHURN_EMAIL_FROM=Köln@example.com\n", encoding="utf-8-sig")

    assert load_settings().refresh == "eager"
    assert load_settings().email_from == "Köln@example.com"


@pytest.mark.parametrize("name", ["CHURN_HOME", "CHURN_EMAIL_FROM", "KAFKA_SASL_PASSWORD"])
def test_a_variable_that_is_no_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "caf\udce9")

    with pytest.raises(SettingsError, match=f"^wrong setting: {name} is not UTF-8"):
        load_settings()


def test_settings_are_read_from_the_env_file(env_file: Path):
    env_file.write_text("CHURN_REFRESH=eager\nKAFKA_BOOTSTRAP_SERVERS=localhost:9092\nSOMETHING_ELSE=1\n")

    assert load_settings().refresh == "eager"
    assert load_settings().kafka_bootstrap_servers == "localhost:9092"


def test_the_example_names_every_setting_and_what_it_sets_are_the_defaults(monkeypatch: pytest.MonkeyPatch):
    example = REPOSITORY / ".env.example"
    named = re.findall(r"^#?([A-Z_]+)=", example.read_text(), re.MULTILINE)
    defaults = load_settings(CHURN_HOME=".churn")

    for name, value in dotenv_values(example).items():
        monkeypatch.setenv(name, value or "")

    assert {field.alias for field in Settings.model_fields.values() if field.alias} <= set(named)
    assert load_settings() == defaults


def test_a_copy_of_the_example_leaves_it_to_the_demo_when_tables_are_refreshed(env_file: Path):
    env_file.write_text((REPOSITORY / ".env.example").read_text())

    assert "refresh" not in load_settings().model_fields_set


def test_the_environment_wins_over_the_env_file(env_file: Path, monkeypatch: pytest.MonkeyPatch):
    env_file.write_text("CHURN_REFRESH=sometimes\n")
    monkeypatch.setenv("CHURN_REFRESH", "eager")

    assert load_settings().refresh == "eager"


def test_a_relative_home_is_one_folder_wherever_its_parts_are_asked_for(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CHURN_HOME", "mine")

    settings = load_settings()

    home = env_file.parent / "mine"
    assert {settings.lake_path.parent, settings.dagster_home.parent, settings.broker_file.parent} == {home}


def test_the_weights_of_the_risk_rules_sum_to_one():
    assert sum(rule.weight for rule in Rules().risk.rules) == pytest.approx(1)


def test_kafka_security_is_passed_through_by_name_and_never_shown(env_file: Path, monkeypatch: pytest.MonkeyPatch):
    env_file.write_text("KAFKA_SECURITY_PROTOCOL=SASL_SSL\nKAFKA_SASL_PASSWORD=in the file\nKAFKA_OPTS=-Xmx1g\n")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "s3cret")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", "/etc/ca.pem")
    monkeypatch.setenv("KAFKA_ENABLE_SSL_CERTIFICATE_VERIFICATION", "false")

    settings = load_settings()

    assert {name: secret.get_secret_value() for name, secret in settings.kafka_security.items()} == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "s3cret",
        "ssl.ca.location": "/etc/ca.pem",
        "enable.ssl.certificate.verification": "false",
    }
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize(("topics", "names"), [("a", ("a",)), ("a.b,c_d-1", ("a.b", "c_d-1"))])
def test_topics_are_names(monkeypatch: pytest.MonkeyPatch, topics: str, names: tuple[str, ...]):
    monkeypatch.setenv("CHURN_TOPICS", topics)

    assert load_settings().topics == names


@pytest.mark.parametrize("topics", ["a b", ",", "a,,b", "a;b"])
def test_topics_that_are_not_names_are_refused(monkeypatch: pytest.MonkeyPatch, topics: str):
    monkeypatch.setenv("CHURN_TOPICS", topics)

    with pytest.raises(SettingsError, match="CHURN_TOPICS"):
        load_settings()
