"""What `churn.toml` may say, what is said when it is wrong, and which of its settings count."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from churn_assets.configuration import SettingsError, differences, rules, variables
from churn_assets.dashboard.files import CODE_FILE, app_files
from churn_assets.model.snowflake_functions import package_zip
from churn_assets.operations import configuration_docs, procedures
from churn_assets.rules import Risk, RiskRule, Rules
from churn_assets.settings import load_settings

WithRules = Callable[[str], None]


def test_without_a_file_every_rule_has_its_default():
    assert rules() == Rules()


def test_a_file_changes_what_it_names_and_nothing_else(with_rules: WithRules):
    with_rules('[codes]\nmoney_out = [" card ", "Straße"]\n[emails]\npause_days = 14\n')

    assert rules().codes.money_out == ("card", "Straße")
    dumped = (Rules().model_dump(), rules().model_dump())
    assert differences(*dumped) == ["codes.money_out", "emails.pause_days"]


def test_the_rules_of_the_file_replace_all_rules_of_the_score(with_rules: WithRules):
    with_rules(
        '[[risk.rules]]\nfeature = "txn_count_30d"\noperator = "<"\nthreshold = 3\nweight = 1\nreason = "don\'t pay"\n'
    )

    only = RiskRule(feature="txn_count_30d", operator="<", threshold=3, weight=1, reason="don't pay")
    assert rules().risk == Risk(rules=(only,))
    assert rules().risk.unhappy_below == 0.4


RULE = '[[risk.rules]]\nfeature = "{}"\noperator = "{}"\nthreshold = {}\nweight = {}\nreason = "{}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[codes]\nmony_out = []", "codes.mony_out: nothing reads it, did you mean money_out?"),
        ("[riks]", "riks: nothing reads it, did you mean risk?"),
        ("high_from = 1", "churn.toml may have codes, "),
        ("codes = 3", "codes: must be a table, as in [codes]"),
        ('[codes]\nmoney_in = "POS"', "codes.money_in: must be a list in brackets (got 'POS')"),
        ("[codes]\nmoney_in = [1]", "codes.money_in.1: must be a text in quotation marks (got 1)"),
        ('[codes]\nmoney_in = [""]', "codes.money_in.1: must have at least 1 character"),
        ("[codes]\nmoney_in = ['a\\b']", "codes.money_in.1: must be printable text on one line, without a backslash"),
        ('[codes]\nmoney_in = ["pos"]', "codes: the code 'pos' stands in money_out and in money_in; keep one"),
        ('[codes]\naccount_closed = ["Z", "z"]', "codes: the code 'z' stands twice in account_closed; keep one"),
        ("[codes]\naccount_closed = []", "codes.account_closed: must have at least 1 item, not 0"),
        ("[features]\nwindow_days = 0", "features.window_days: must be greater than or equal to 1 (got 0)"),
        ("[features]\nwindow_days = true", "features.window_days: must be a whole number (got True)"),
        (
            "[features]\nneutral_sentiment = 1.1",
            "features.neutral_sentiment: must be less than or equal to 1 (got 1.1)",
        ),
        ('[features]\ntarget_lag = "5 min"', "features.target_lag: must be a whole number and a unit"),
        ('[live]\nwindow = "59 seconds"', "live.window: must be at least 60 seconds (got '59 seconds')"),
        ("[live]\nat_risk_from = nan", "live.at_risk_from: must be a finite number"),
        ("[live]\nat_risk_from = 0.9", "live: at_risk_from (0.9) must be below critical_from (0.8)"),
        ("[risk]\nhigh_from = 0.4", "risk: medium_from (0.4) must be below high_from (0.4)"),
        ("[model]\nmedium_from = 0.5", "model: medium_from (0.5) must be below high_from (0.3)"),
        ("[emails]\ncontrol_share = 1", "emails.control_share: must be less than 1 (got 1)"),
        ("[emails]\nper_run = 1.5", "emails.per_run: must be a whole number (got 1.5)"),
        ("[risk]\nrules = []", "risk: the weights of the rules must sum to 1, and they sum to 0"),
        (RULE.format("wire_out_30d", ">", 1, 0.5, "x"), "they sum to 0.5"),
        (RULE.format("wire_out", ">", 1, 1, "x"), "risk.rules.1.feature: is no feature, did you mean wire_out_30d?"),
        (RULE.format("wire_out_30d", ">=", 1, 1, "x"), "risk.rules.1.operator: must be '>' or '<' (got '>=')"),
        (RULE.format("wire_out_30d", ">", "inf", 1, "x"), "risk.rules.1.threshold: must be a finite number"),
        (RULE.format("wire_out_30d", ">", 1, 1, "a; b"), "risk.rules.1.reason: must have no semicolon"),
        (2 * RULE.format("wire_out_30d", ">", 1, 0.5, "x"), "risk: two rules have the reason 'x'; change one"),
        ('[[risk.rules]]\nfeature = "wire_out_30d"', "risk.rules.1.weight: it is missing; add it"),
        ("[codes\n", "is no valid TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
        ("[live]\n[live]\n", "is no valid TOML: "),
    ],
)
def test_a_wrong_rule_is_one_line_that_names_file_and_key_and_says_what_is_allowed(
    with_rules: WithRules, text: str, said: str
):
    with_rules(text)

    with pytest.raises(SettingsError) as error:
        rules()

    message = str(error.value)
    assert said in message
    assert re.fullmatch(r"churn\.toml(:| is) [^\n]+", message)


def test_a_file_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path):
    file = tmp_path / "churn.toml"
    file.write_text("[emails]\npause_days = 9\n", encoding="utf-16")
    with pytest.raises(SettingsError, match="is UTF-16; save it as UTF-8"):
        rules()

    file.write_text("[emails]\npause_days = 9\n", encoding="utf-8-sig")
    assert rules().emails.pause_days == 9


def test_churn_config_names_another_file_also_in_env_file(tmp_path: Path):
    (tmp_path / "bank.toml").write_text("[emails]\npause_days = 9\n")
    (tmp_path / ".env").write_text("CHURN_CONFIG=bank.toml\n")
    assert variables()["CHURN_CONFIG"] == "bank.toml"
    assert rules().emails.pause_days == 9


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("bank.toml", "CHURN_CONFIG names bank.toml, which is no file; correct it or leave it out"),
        ("~nobody-here/x", "wrong setting: CHURN_CONFIG: ~nobody-here is no user of this machine"),
        ("$HOME/x", "wrong setting: CHURN_CONFIG: must be a path"),
    ],
)
def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, named: str, said: str):
    monkeypatch.setenv("CHURN_CONFIG", named)

    for read in (rules, load_settings):
        with pytest.raises(SettingsError, match=re.escape(said)):
            read()


def test_the_environment_wins_over_env_file_and_env_file_over_churn_toml(
    with_rules: WithRules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with_rules('[settings]\nCHURN_REFRESH = "eager"\nCHURN_TOPICS = "a"\nCHURN_EMAILS_PER_DAY = 7\n')
    (tmp_path / ".env").write_text("CHURN_TOPICS=b\nCHURN_EMAILS_PER_DAY=8\n")
    monkeypatch.setenv("CHURN_EMAILS_PER_DAY", "9")

    found = load_settings()

    assert (found.refresh, found.topics, found.emails_per_day) == ("eager", ("b",), 9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'SNOWFLAKE_PASSWORD = "s3cret"',
            "settings.SNOWFLAKE_PASSWORD may hold a secret; set it in .env or the environment",
        ),
        ('KAFKA_SASL_PASSWORD = "s3cret"', "settings.KAFKA_SASL_PASSWORD may hold a secret"),
        ('OPENAI_BASE_URL = "http://u:s3cret@h"', "settings.OPENAI_BASE_URL may hold a secret"),
        ('CHURN_REFESH = "lag"', "settings.CHURN_REFESH: nothing reads it, did you mean CHURN_REFRESH?"),
        ('CHURN_CONFIG = "a"', "settings.CHURN_CONFIG: nothing reads it"),
        (
            'CHURN_TARGET = "s3cret"',
            "in [settings] of churn.toml: CHURN_TARGET: Input should be 'local' or 'snowflake'",
        ),
        ("CHURN_TOPICS = 3", "in [settings] of churn.toml: CHURN_TOPICS: Input should be a valid string"),
    ],
)
def test_a_setting_that_may_not_stand_in_the_file_or_is_wrong_is_one_line(with_rules: WithRules, text: str, said: str):
    with_rules(f"[settings]\n{text}\n")

    with pytest.raises(SettingsError) as error:
        load_settings()

    message = str(error.value)
    assert said in message
    assert "\n" not in message
    assert "s3cret" not in message or "CHURN_TARGET" in message


def test_the_example_of_the_page_is_valid_and_page_and_schema_are_those_of_the_models(with_rules: WithRules):
    with_rules(configuration_docs.EXAMPLE)

    assert rules().codes.account_closed == ("CLOSED", "Z")
    assert load_settings().score_source == "model"
    assert configuration_docs.MARKDOWN.read_text(encoding="utf-8") == configuration_docs.markdown()
    assert json.loads(configuration_docs.JSON_SCHEMA.read_text()) == configuration_docs.json_schema()


def test_what_runs_in_snowflake_carries_the_rules_of_the_deployment_and_reads_no_file(
    with_rules: WithRules, tmp_path: Path
):
    with_rules("[emails]\npause_days = 9\n")
    zips = {"functions": package_zip(), "procedures": procedures.code(), "dashboard": app_files()[CODE_FILE]}
    with_rules("[emails]\npause_days = 8\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from churn_assets.configuration import rules;"
        " print(rules.__wrapped__.__code__.co_filename, rules().emails.pause_days)"
    )

    for name, code in zips.items():
        (tmp_path / name).write_bytes(code)
        ran = [sys.executable, "-I", "-c", program, str(tmp_path / name)]
        found = subprocess.run(ran, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
        assert found == [f"{tmp_path / name}/churn_assets/configuration.py", "9"]
