"""The dbt project: what its models compute from ledgers, and what becomes of a model that changes or is wrong."""

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
import sqlglot
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from churn_assets.dynamic_tables.tables import DynamicTableError, Refresh
from churn_assets.ingestion.events import LEDGERS
from churn_assets.operations import dbt
from churn_assets.operations.doctor import examine
from churn_assets.operations.lake import refresh_new
from churn_assets.rules import Rules, dbt_vars
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets.wiring import open_lake
from churn_assets_tests.rounds import rounds

NOW = datetime.fromisoformat("2026-06-30T15:00:00")
DAY = timedelta(days=1)
MODELS = ("customer_day", "dyn_customer_features", "dyn_churn_predictions")


@dataclass
class Bank:
    """A deployed lake whose ledgers are written by hand. Every test has customers of its own, all in one lake."""

    lake: LakeWarehouse
    _customers: "itertools.count[int]" = field(default_factory=itertools.count)
    _rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def customer(self, *accounts: str) -> str:
        """A new customer with accounts of these statuses, named `<customer>-0` and so on; their id."""
        customer = f"C{next(self._customers)}"
        self._add(
            "dim_customers", customer_id=customer, full_name="N", segment="S", join_date=NOW.date(), updated_at=NOW
        )
        for number, status in enumerate(accounts):
            self.account(customer, f"{customer}-{number}", status)
        return customer

    def account(self, customer: str, account: str, status: str = "ACTIVE") -> None:
        self._add(
            "dim_accounts",
            account_id=account,
            customer_id=customer,
            product_code="P",
            account_status=status,
            updated_at=NOW,
        )

    def posting(self, account: str, code: str, amount: float, at: datetime = NOW) -> None:
        self._add(
            "fact_transaction_ledger",
            transaction_ref="T",
            account_id=account,
            posting_date=at,
            transaction_code=code,
            amount=amount,
        )

    def log(self, customer: str, at: datetime = NOW, error: str | None = None) -> None:
        self._add(
            "app_activity_logs",
            log_id="L",
            customer_id=customer,
            event_type="LOGIN",
            event_timestamp=at,
            error_code=error,
        )

    def case(self, customer: str, sentiment: float | None = 0.5, at: datetime = NOW) -> None:
        self._add(
            "support_cases",
            case_id="K",
            customer_id=customer,
            open_timestamp=at,
            category="app",
            sentiment_score=sentiment,
        )

    def features(self, customer: str, now: datetime = NOW) -> dict[str, Any] | None:
        """The customer's features at `now`, without the id, from all that was written; None without a row."""
        return self.all_features(now).get(customer)

    def all_features(self, now: datetime = NOW) -> dict[str, dict[str, Any]]:
        """The same, of every customer who has any, by id."""
        self.store()
        for name in ("customer_day", "dyn_customer_features"):
            self.lake.refresh([name], now)
        return {row.pop("customer_id"): row for row in self.lake.query("FROM dyn_customer_features").to_pylist()}

    def store(self) -> None:
        written, self._rows = self._rows, {}

        def insert(tx: Transaction) -> None:
            for ledger in written:
                tx.execute(f"INSERT INTO {ledger} BY NAME SELECT * FROM new_{ledger}")

        if written:
            self.lake.transact(insert, {f"new_{ledger}": staged(rows) for ledger, rows in written.items()})

    def _add(self, ledger: str, **row: Any) -> None:
        self._rows.setdefault(ledger, []).append({**row, "ingested_at": NOW})


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, deployed_home: Path) -> Bank:
    home = tmp_path_factory.mktemp("bank") / "home"
    shutil.copytree(deployed_home, home)
    return Bank(open_lake(load_settings(CHURN_HOME=home).lake_path))


def staged(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({column: [row[column] for row in rows] for column in rows[0]})


# Features


def test_facts_of_one_customer_do_not_multiply_one_another(bank: Bank) -> None:
    customer = bank.customer("ACTIVE", "ACTIVE")
    for account, amount in (("0", 10.10), ("0", 20.20), ("1", 30.30)):
        bank.posting(f"{customer}-{account}", "POS", amount)
    for error in (None, None, "E1", "E2"):
        bank.log(customer, error=error)
    for sentiment in (0.1, 0.2, 0.3, None, 0.8):
        bank.case(customer, sentiment)
    assert bank.features(customer) == {
        "total_spend_30d": 60.60,
        "wire_out_30d": 0,
        "txn_count_30d": 3,
        "error_count_30d": 2,
        "support_cases_30d": 5,
        "avg_sentiment": 0.35,
        "active_days_30d": 1,
    }


def test_a_customer_who_does_nothing_has_neutral_features(bank: Bank) -> None:
    assert bank.features(bank.customer("ACTIVE")) == {
        "total_spend_30d": 0,
        "wire_out_30d": 0,
        "txn_count_30d": 0,
        "error_count_30d": 0,
        "support_cases_30d": 0,
        "avg_sentiment": 0.5,
        "active_days_30d": 0,
    }


# What was posted, by code and amount, and the spend and the money wired out that come of it.
POSTINGS: list[tuple[list[tuple[str, float]], float, float]] = [
    *(
        ([(code, 100.0)], 100, 100 if code == "WIRE_OUT" else 0)
        for code in (*Rules().codes.money_out, *Rules().codes.wire_out)
    ),
    ([("DEPOSIT", 500.0), ("POS", 20.0)], 20, 0),
    ([("POS", 50.0), ("REVERSAL", 30.0)], 20, 0),
    ([("POS", 50.0), ("POS", -30.0)], 20, 0),
    ([("WIRE_OUT", 80.0), ("POS", 20.0)], 100, 80),
    ([("WIRE_OUT", 80.0), ("REVERSAL", 80.0)], 0, 80),
    ([("POS", 0.1)] * 10, 1, 0),
]


def test_spend_is_money_out_less_what_was_taken_back(bank: Bank) -> None:
    customers = [bank.customer("ACTIVE") for _ in POSTINGS]
    for customer, (postings, _, _) in zip(customers, POSTINGS, strict=True):
        for code, amount in postings:
            bank.posting(f"{customer}-0", code, amount)

    features = bank.all_features()

    found = [
        (postings, features[customer]["total_spend_30d"], features[customer]["wire_out_30d"])
        for customer, (postings, _, _) in zip(customers, POSTINGS, strict=True)
    ]
    assert found == POSTINGS
    assert [features[customer]["txn_count_30d"] for customer in customers] == [len(one) for one, _, _ in POSTINGS]


def test_active_days_are_distinct_days_with_a_posting_or_an_action_but_not_a_case(bank: Bank) -> None:
    customer = bank.customer("ACTIVE")
    bank.posting(f"{customer}-0", "DEPOSIT", 1)
    bank.log(customer, NOW - timedelta(hours=2))
    bank.log(customer, NOW - 3 * DAY)
    bank.posting(f"{customer}-0", "POS", 1, NOW - 5 * DAY)
    bank.case(customer, at=NOW - 7 * DAY)
    features = bank.features(customer)
    assert features is not None
    assert (features["active_days_30d"], features["support_cases_30d"]) == (3, 1)


def test_the_window_is_thirty_days_that_end_with_the_day_of_the_refresh(bank: Bank) -> None:
    customer = bank.customer("ACTIVE")
    midnight = datetime.combine(NOW.date(), datetime.min.time())
    instant = timedelta(microseconds=1)
    first = midnight - (Rules().features.window_days - 1) * DAY
    for number, at in enumerate((first - instant, first, midnight + DAY - instant, midnight + DAY)):
        bank.posting(f"{customer}-0", "POS", 10**number, at)
        bank.log(customer, at, error="E")
        bank.case(customer, sentiment=number / 10, at=at)

    def window(now: datetime) -> list[float]:
        features = bank.features(customer, now)
        assert features is not None
        return [features[name] for name in ("total_spend_30d", "error_count_30d", "support_cases_30d", "avg_sentiment")]

    assert window(midnight) == window(midnight + DAY - instant) == [110, 2, 2, 0.15]
    assert window(midnight - DAY) == [11, 2, 2, 0.05]
    assert window(midnight + DAY) == [1100, 2, 2, 0.25]


def test_only_a_customer_with_an_open_account_has_features(bank: Bank) -> None:
    of_open = [bank.customer(*accounts) for accounts in (["ACTIVE"], ["CLOSED", "ACTIVE"], ["FROZEN"])]
    of_closed = [bank.customer(*accounts) for accounts in (["CLOSED"], [])]

    features = bank.all_features()

    assert {customer for customer in of_open + of_closed if customer in features} == set(of_open)


def test_a_customer_who_closes_the_last_account_leaves_the_features(bank: Bank) -> None:
    customer = bank.customer("ACTIVE")
    assert bank.features(customer) is not None
    bank.lake.transact(
        lambda tx: tx.execute("UPDATE dim_accounts SET account_status = 'CLOSED' WHERE customer_id = ?", [customer])
    )
    assert bank.features(customer) is None


def test_postings_on_a_closed_account_count_while_another_is_open(bank: Bank) -> None:
    customer = bank.customer("ACTIVE", "CLOSED")
    bank.posting(f"{customer}-1", "POS", 7)
    features = bank.features(customer)
    assert features is not None
    assert features["total_spend_30d"] == 7


def test_postings_of_an_account_that_arrives_later_count_once_it_is_there(bank: Bank) -> None:
    customer = bank.customer("ACTIVE")
    bank.posting(f"{customer}-late", "WIRE_OUT", 70)
    before = bank.features(customer)
    bank.account(customer, f"{customer}-late")
    after = bank.features(customer)
    assert before is not None
    assert after is not None
    assert (before["total_spend_30d"], before["txn_count_30d"]) == (0, 0)
    assert (after["total_spend_30d"], after["wire_out_30d"], after["txn_count_30d"]) == (70, 70, 1)


# Live metrics


def test_live_metrics_are_of_the_last_ten_minutes_and_their_average_gives_the_status(bank: Bank) -> None:
    scores = {
        "CALM": [(0.1, 1), (0.2, 2)],
        "RISKY": [(0.2, 1), (0.8, 9)],
        "LEAVING": [(0.9, 0), (0.7, 3)],
        "PAST": [(0.9, 10)],
    }
    for customer, scored in scores.items():
        for number, (score, minutes_ago) in enumerate(scored):
            bank._add(
                "churn_scores_raw",
                score_id=f"{customer}-{number}",
                customer_id=customer,
                scored_at=NOW - timedelta(minutes=minutes_ago),
                churn_score=score,
                declines=float(number),
                spend=2.5,
            )
    bank.store()
    bank.lake.refresh(["churn_metrics_live"], NOW)
    found = bank.lake.query(
        "SELECT customer_id, risk_status, score_count, avg_churn_score, max_churn_score, declines, spend FROM churn_metrics_live"
    ).to_pylist()
    assert sorted(tuple(row.values()) for row in found) == [
        ("CALM", "SAFE", 2, pytest.approx(0.15), 0.2, 1, 5.0),
        ("LEAVING", "CRITICAL", 2, pytest.approx(0.8), 0.9, 1, 5.0),
        ("RISKY", "AT_RISK", 2, pytest.approx(0.5), 0.8, 1, 5.0),
    ]


# Score


def score(features: dict[str, float]) -> tuple[float, str, str | None]:
    """Score, class and reasons by the rules in `settings`, computed exactly."""
    fired = [
        rule
        for rule in Rules().risk.rules
        if (
            features[rule.feature] > rule.threshold if rule.operator == ">" else features[rule.feature] < rule.threshold
        )
    ]
    total = sum((Decimal(str(rule.weight)) for rule in fired), Decimal(0))
    is_high, is_medium = (total >= Decimal(str(limit)) for limit in (Rules().risk.high_from, Rules().risk.medium_from))
    reasons = "; ".join(rule.reason for rule in fired) or None
    return float(total), "HIGH" if is_high else "MEDIUM" if is_medium else "LOW", reasons


def test_score_class_and_reasons_follow_the_rules_in_every_combination(settings: Settings, lake: LakeWarehouse) -> None:
    # Each feature just on the wrong side of its threshold, exactly at it, and on the other side: 3^5 customers.
    around = {"wire_out_30d": 0.01, "avg_sentiment": 0.001}
    choices = [
        [rule.threshold + step * around.get(rule.feature, 1) for step in (-1, 0, 1)] for rule in Rules().risk.rules
    ]
    customers = {
        f"C{number}": dict(zip((rule.feature for rule in Rules().risk.rules), values, strict=True))
        for number, values in enumerate(itertools.product(*choices))
    }
    rows = [
        {"customer_id": customer, "total_spend_30d": 0.0, "txn_count_30d": 0, **features}
        for customer, features in customers.items()
    ]
    lake.transact(
        lambda tx: tx.execute("INSERT INTO dyn_customer_features BY NAME SELECT * FROM made"),
        {"made": staged(rows)},
    )
    lake.refresh(["dyn_churn_predictions"], NOW)
    found = {row["customer_id"]: row for row in lake.query("FROM dyn_churn_predictions").to_pylist()}
    assert found == {
        customer: {
            "customer_id": customer,
            "churn_score": expected[0],
            "model_score": None,
            "model_version": None,
            "risk_score": expected[0],
            "risk_class": expected[1],
            "reason_codes": expected[2],
            "computed_at": NOW,
        }
        for customer, features in customers.items()
        for expected in [score(features)]
    }
    # The combinations are worth something only if they reach every class and both of MEDIUM's boundaries.
    assert {row["risk_class"] for row in found.values()} == {"LOW", "MEDIUM", "HIGH"}
    assert {Rules().risk.medium_from, 1.0, 0.0} <= {row["churn_score"] for row in found.values()}


# The project's files


def test_the_variables_of_the_dbt_project_are_the_defaults_of_the_rules() -> None:
    project = yaml.safe_load((dbt.DBT_PROJECT / "dbt_project.yml").read_text())
    assert project["vars"] == dbt_vars(Rules())


def test_every_column_is_described_and_every_described_column_exists(bank: Bank) -> None:
    models = dbt.DBT_PROJECT / "models"
    files = [yaml.safe_load(file.read_text()) for file in models.rglob("*.yml")]
    nodes = [node for file in files for node in file.get("models", [])]
    nodes += [table for file in files for source in file.get("sources", []) for table in source["tables"]]
    described = {
        node["name"]: {column["name"] for column in node["columns"] if column["description"]}
        for node in nodes
        if node["description"]
    }
    staging = {
        file.stem: set(sqlglot.parse_one(re.sub(r"{{.*?}}", "x", file.read_text())).named_selects)
        for file in models.glob("staging/*.sql")
    }
    tables = [*MODELS, "churn_metrics_live", "churn_champion", *LEDGERS]
    assert described == {**staging, **{name: {column.name for column in bank.lake.columns(name)} for name in tables}}


# Changing the project


@pytest.fixture
def dbt_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the dbt project, which deployments of this test use."""
    project = tmp_path / "dbt"
    shutil.copytree(dbt.DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    monkeypatch.setattr(dbt, "DBT_PROJECT", project)
    return project


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def positions(lake: LakeWarehouse) -> dict[str, Any]:
    table = lake.query("SELECT name, position FROM dynamic_tables")
    return dict(zip(table["name"].to_pylist(), table["position"].to_pylist(), strict=True))


@pytest.fixture
def refresh_all(lake: LakeWarehouse) -> Callable[[], dict[str, Refresh]]:
    return lambda: {name: lake.refresh([name], NOW)[0] for name in MODELS}


@pytest.mark.slow
def test_rules_of_the_bank_s_own_are_said_to_differ_and_apply_after_a_deployment(
    settings: Settings,
    lake: LakeWarehouse,
    with_rules: Callable[[str], None],
    refresh_all: Callable[[], dict[str, Refresh]],
) -> None:
    ledgers = Bank(lake)
    customer, gone = ledgers.customer("offen"), ledgers.customer("Z ")
    for code, amount in (("pos", 5), (" KARTE", 100), ("Karte", 10), ("wire_out", 30), ("TÜV", 7)):
        ledgers.posting(f"{customer}-0", code, amount)
    before = ledgers.features(customer)
    assert before
    assert (before["total_spend_30d"], before["wire_out_30d"], before["txn_count_30d"]) == (35, 30, 5)
    assert ledgers.features(gone) is not None
    assert "rules" not in problems(settings)
    assert problems(settings)["codes"] == (
        "no rule knows the code of 3 of 5 postings since 2026-06-01 (60.0%): 'KARTE' (2), 'TÜV' (1); they count"
        " neither as spend nor as wires; name them in money_out, wire_out, reversal or money_in under [codes] of churn.toml,"
        " then run `churn deploy`; no rule knows the state of 2 of 2 accounts (100.0%): 'Z' (1), 'offen' (1); they count as"
        " open; name them in account_open or account_closed under [codes] of churn.toml, then run `churn deploy`"
    )

    with_rules(
        '[codes]\nmoney_out = ["POS", "karte"]\nmoney_in = ["tüv"]\naccount_open = ["OFFEN"]\naccount_closed = ["z"]\n'
        '[[risk.rules]]\nfeature = "total_spend_30d"\noperator = ">"\nthreshold = 144\nweight = 1\nreason = "doesn\'t save"\n'
    )

    assert problems(settings)["rules"] == (
        "churn.toml differs from what is deployed in codes.money_out, codes.money_in, codes.account_open,"
        " codes.account_closed, risk.rules; run `churn deploy`"
    )
    dbt.declare(settings)
    refresh_all()
    found = problems(settings)
    assert {"rules", "codes"}.isdisjoint(found)
    assert found["labels"].startswith("1 of 1 closed accounts do not say when they were closed")
    assert ledgers.features(customer) == {**before, "total_spend_30d": 145}
    assert ledgers.features(gone) is None
    (found,) = lake.query("SELECT risk_class, reason_codes FROM dyn_churn_predictions").to_pylist()
    assert found == {"risk_class": "HIGH", "reason_codes": "doesn't save"}


def problems(settings: Settings) -> dict[str, str]:
    return {finding.what: finding.problem for finding in examine(settings) if finding.problem}


@pytest.mark.slow
def test_a_deployment_keeps_what_is_unchanged_and_declares_anew_what_changed(
    settings: Settings,
    lake: LakeWarehouse,
    dbt_project: Path,
    with_rules: Callable[[str], None],
    refresh_all: Callable[[], dict[str, Refresh]],
) -> None:
    ledgers = Bank(lake)
    customer = ledgers.customer("ACTIVE")
    ledgers.posting(f"{customer}-0", "POS", 5)
    ledgers.store()
    refresh_all()
    before = positions(lake)
    predictions = lake.query("FROM dyn_churn_predictions").to_pylist()
    # Other words for a reason: a new body, the same columns. One more feature: a new column set.
    with_rules(
        '[[risk.rules]]\nfeature = "active_days_30d"\noperator = "<"\nthreshold = 5\nweight = 1\nreason = "seldom here"'
    )
    edit(
        dbt_project / "models" / "features" / "dyn_customer_features.sql",
        "    customers.customer_id,\n",
        "    customers.customer_id,\n    customers.segment,\n",
    )

    dbt.declare(settings)

    assert positions(lake) == {**before, "dyn_customer_features": None, "dyn_churn_predictions": None}
    assert lake.query("FROM dyn_churn_predictions").to_pylist() == predictions
    assert lake.query("FROM dyn_customer_features").to_pylist() == []
    assert [(result.name, result.action) for result in refresh_new(lake)] == [
        ("dyn_customer_features", "INITIAL"),
        ("dyn_churn_predictions", "INITIAL"),
    ]
    refresh_all()  # `refresh_new` has moved the window to the real today
    features = lake.query("SELECT segment, total_spend_30d FROM dyn_customer_features").to_pylist()
    assert features == [{"segment": "S", "total_spend_30d": 5.0}]
    assert lake.query("SELECT reason_codes FROM dyn_churn_predictions").to_pylist() == [{"reason_codes": "seldom here"}]


@pytest.mark.slow
def test_models_that_are_declared_wrongly_are_errors_that_name_them(
    settings: Settings, lake: LakeWarehouse, dbt_project: Path
) -> None:
    models = dbt_project / "models" / "features"
    for name, config in {
        "keyless": "target_lag='5 minutes'",
        "vague": "target_lag='soon', refresh_key='one'",
        "hasty": "target_lag='30 seconds', refresh_key='one'",
        "lagless": "refresh_key='one'",
    }.items():
        (models / f"{name}.sql").write_text("{{ config(" + config + ") }}\nselect 1 as one\n")
    before = positions(lake)
    with pytest.raises(dbt.DeploymentError) as raised:
        dbt.declare(settings)
    message = str(raised.value)
    assert "model keyless: a dynamic_table needs a refresh_key" in message
    assert "model vague: target_lag 'soon' is not a number and a unit" in message
    assert "model hasty: target_lag '30 seconds' is below the minimum of 60 seconds" in message
    assert "model lagless: target_lag 'None' is not a number and a unit" in message
    assert positions(lake) == before


@pytest.mark.slow
def test_the_target_lag_of_a_table_that_is_downstream_is_its_readers(
    settings: Settings, lake: LakeWarehouse, dbt_project: Path
) -> None:
    targets = {table.name: table.target_lag_seconds for table in lake.dynamic_tables(NOW)}
    assert targets == dict.fromkeys(MODELS, 300) | {"churn_metrics_live": 60}
    (dbt_project / "models" / "features" / "unread.sql").write_text(
        "{{ config(target_lag='downstream', refresh_key='one', initialize='on_schedule') }}\nselect 1 as one\n"
    )
    dbt.declare(settings)
    with pytest.raises(DynamicTableError, match="unread has target_lag DOWNSTREAM, but no dynamic table reads it"):
        lake.dynamic_tables(NOW)


@pytest.mark.slow
@pytest.mark.parametrize("on_change", ["apply", "continue", "fail"])
def test_a_changed_configuration_is_applied_left_or_refused_as_the_model_says(
    settings: Settings, lake: LakeWarehouse, dbt_project: Path, on_change: str
) -> None:
    def configured() -> list[dict[str, Any]]:
        return lake.query(
            "SELECT target_lag, refresh_mode, position FROM dynamic_tables WHERE name = 'dyn_churn_predictions'"
        ).to_pylist()

    lake.refresh(MODELS, NOW)
    (before,) = configured()
    edit(
        dbt_project / "models" / "predictions" / "dyn_churn_predictions.sql",
        "target_lag=var('features').target_lag",
        f"target_lag='2 minutes', refresh_mode='full', on_configuration_change='{on_change}'",
    )
    if on_change == "fail":
        with pytest.raises(dbt.DeploymentError, match="model dyn_churn_predictions: its configuration differs"):
            dbt.declare(settings)
    else:
        dbt.declare(settings)
    changed = {**before, "target_lag": "2 minutes", "refresh_mode": "FULL"}
    assert configured() == [changed if on_change == "apply" else before]


# Incremental refreshes

_customer = st.integers(0, 3).map("C{}".format)
_account = st.tuples(st.integers(0, 3), st.integers(0, 1)).map("C{0[0]}-{0[1]}".format)
_code, _status = (
    st.sampled_from(["POS", "WIRE_OUT", "DEPOSIT", "REVERSAL", "FEE"]),
    st.sampled_from(["CLOSED", "ACTIVE"]),
)
_past = st.integers(0, 40 * 24).map(lambda hours: NOW - timedelta(hours=hours))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("posting"), _account, _code, st.sampled_from([-20.0, 5.5, 30.0, 6000.0]), _past),
        st.tuples(st.just("log"), _customer, _past, st.sampled_from([None, "E1"])),
        st.tuples(st.just("case"), _customer, st.sampled_from([None, 0.1, 0.9]), _past),
        st.tuples(st.just("account"), _customer, _account.map("{}-late".format)),
        st.builds("UPDATE dim_accounts SET account_status = '{}' WHERE account_id = '{}'".format, _status, _account),
        st.builds("UPDATE dim_accounts SET customer_id = '{}' WHERE account_id = '{}'".format, _customer, _account),
        st.builds("UPDATE dim_accounts SET available_balance = 1 WHERE account_id = '{}'".format, _account),
        st.builds("UPDATE fact_transaction_ledger SET amount = 7000 WHERE account_id = '{}'".format, _account),
        st.builds("DELETE FROM fact_transaction_ledger WHERE account_id = '{}'".format, _account),
        st.builds("DELETE FROM dim_accounts WHERE account_id = '{}'".format, _account),
        st.builds("DELETE FROM dim_customers WHERE customer_id = '{}'".format, _customer),
    ),
    max_size=6,
)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=rounds(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(st.tuples(EVENTS, st.sampled_from([0, 0, 1, 31])), min_size=2, max_size=4))
def test_after_any_history_the_tables_equal_a_full_recompute(
    bank: Bank, history: list[tuple[list[str | tuple[Any, ...]], int]]
) -> None:
    lake, now = bank.lake, NOW
    for ledger in (*LEDGERS, *MODELS):
        lake.transact(lambda tx, ledger=ledger: tx.execute(f"DELETE FROM {ledger}"))
    lake.transact(lambda tx: tx.execute("UPDATE dynamic_tables SET position = NULL, base_position = NULL"))
    bank._customers = itertools.count()
    for _ in range(4):
        bank.customer("ACTIVE", "ACTIVE")
    for events, days in history:
        now += timedelta(days=days, minutes=1)
        for event in events:
            if isinstance(event, str):
                bank.store()
                lake.transact(lambda tx, sql=event: tx.execute(sql))
            else:
                getattr(bank, event[0])(*event[1:])
        bank.store()
        results = lake.refresh(MODELS, now)
        assert all(r.action != "FULL" or r.reason == "the day changed" for r in results), results
        for name in MODELS:
            assert shown(lake, name) == recomputed(lake, name, now), (name, results)


def shown(lake: LakeWarehouse, name: str) -> list[str]:
    stamp = " EXCLUDE computed_at" if name == "dyn_churn_predictions" else ""
    return sorted(map(str, lake.query(f"SELECT *{stamp} FROM {name}").to_pylist()))


def recomputed(lake: LakeWarehouse, name: str, now: datetime) -> list[str]:
    (query,) = lake.query("SELECT query FROM dynamic_tables WHERE name = ?", [name])["query"].to_pylist()
    return sorted(map(str, lake.query(query.replace("getvariable('as_of_day')", f"'{now.date()}'")).to_pylist()))
