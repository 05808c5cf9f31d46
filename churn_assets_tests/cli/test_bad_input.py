"""Text that people pass to commands is a value, whatever it says: it is stored, looked for or refused, never run."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from churn_assets.cli import app as cli
from churn_assets.settings import load_settings
from churn_assets.wiring import open_lake

TEXTS = [
    "C1'; DROP TABLE dim_customers; --",
    "' OR '1'='1",
    "C1' UNION SELECT full_name FROM dim_customers --",
    "$1; DELETE FROM dim_customers",
    "?",
    "[bold]x[/x]",
    "C1\x00",
]
# The text stands at {}; "--" lets it begin with a dash.
COMMANDS = [
    ["ask", "--", "{}"],
    ["ask", "--role", "{}", "--", "Do emails keep customers?"],
    ["query", "--role", "{}", "SELECT customer_id FROM customer_risk"],
    ["query", "--role", "MARKETING_ANALYST", "--", "{}"],
    ["query", "--role", "MARKETING_ANALYST", "SELECT full_name FROM customer_risk WHERE segment = '{}' --"],
    ["suppress", "--", "{}"],
    ["suppress", "--note", "{}", "C1"],
    ["unsuppress", "--", "{}"],
    ["outbox", "show", "--", "{}"],
    ["outbox", "approve", "--", "{}"],
    ["outbox", "reject", "--note", "{}", "--", "{}"],
    ["outbox", "resolve", "--sent", "--", "{}"],
    ["load", "{}", "nothing.csv"],
    ["replay-rejects", "--reason", "{}"],
]


@pytest.fixture(scope="module")
def home(deployed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bad_input") / "home"
    shutil.copytree(deployed_home, home)
    open_lake(load_settings(CHURN_HOME=home).lake_path).transact(
        lambda tx: tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
            " VALUES ('C1', 'Ann Secret', 'MASS', DATE '2020-01-01', now(), now())"
        )
    )
    return home


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_no_text_is_run(
    command: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CHURN_HOME", str(home))
    lake = open_lake(load_settings().lake_path)
    before = lake.query("SELECT * FROM dim_customers"), lake.query("SELECT * FROM segment_grants")
    for text in TEXTS:
        monkeypatch.setattr(sys, "argv", ["churn", *(part.replace("{}", text) for part in command)])
        with suppress(SystemExit):
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "Ann Secret" not in said.out + said.err

    assert (lake.query("SELECT * FROM dim_customers"), lake.query("SELECT * FROM segment_grants")) == before
