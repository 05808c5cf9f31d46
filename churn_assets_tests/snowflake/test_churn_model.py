"""The model within Snowflake: the procedure and the functions, without an account.

What runs is the handlers' own code: on Snowpark's local testing for the table of rows and the stage, on DataFrames for the
vectorized functions, and in a process that has nothing but the pinned packages. Local testing runs no SQL, so the registry's
statements run in a lake, which binds parameters to `?` as Snowpark does; that Snowflake takes them, and the statements that
create the objects, is not shown. These are parsed by sqlfluff.
"""

import json
import pickle
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import duckdb
import numpy as np
import pandas as pd
import pytest
from packaging.markers import Marker
from snowflake.snowpark import Row, Session  # type: ignore[import]  # pyright takes this folder for the package
from sqlfluff.core import Linter

from churn_assets.model import artefact, metrics, registry, serving, snowflake_scoring, snowflake_training, training
from churn_assets.model.artefact import ArtefactError
from churn_assets.model.reasons import reasons
from churn_assets.model.scoring import Model, score
from churn_assets.model.snowflake_functions import SCORING_PACKAGES, TRAINING_PACKAGES, package_zip, statements, upload
from churn_assets.model.snowflake_scoring import explainer, predictor
from churn_assets.model.snowflake_training import STAGE, SnowparkTables, train_and_keep, training_rows
from churn_assets.model.training import TrainingError
from churn_assets.rules import FEATURES
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.repository import REPOSITORY
from churn_assets_tests.snowflake.packages import ONLY_PACKAGES, OWNERS, importable, with_dependencies

pytestmark = pytest.mark.emulator

NOW = datetime.fromisoformat("2026-06-30T12:00:00")
UNKNOWN = "f" * 64
FIRST, WEEKS = date(2026, 1, 4), 16
COUNTS = ("txn_count_30d", "error_count_30d", "support_cases_30d", "active_days_30d")


def history(customers: int) -> pd.DataFrame:
    """Rows as `training.train` takes them; hardly anybody leaves who was active."""
    rng = np.random.default_rng(0)
    rows = customers * WEEKS
    frame = pd.DataFrame({"customer_id": np.tile([f"C{number}" for number in range(customers)], WEEKS)})
    frame["cut_off"] = np.repeat([FIRST + timedelta(weeks=week) for week in range(WEEKS)], customers)
    for name in FEATURES:
        frame[name] = rng.poisson(3, rows) if name in COUNTS else rng.random(rows)
    frame["has_left"] = rng.random(rows) < np.where(frame["active_days_30d"] == 0, 0.9, 0.005)
    return frame


@dataclass(frozen=True)
class Account:
    """A schema after its first training."""

    session: Session
    tables: LakeWarehouse
    rows: pd.DataFrame
    found: dict[str, Any]

    @property
    def model(self) -> Model:
        """The model that was trained first."""
        return artefact.loads(self.staged)

    @property
    def staged(self) -> bytes:
        with self.session.file.get_stream(f"{STAGE}/{self.found['artefact']}.model") as file:
            return file.read()


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """Snowpark's emulator with the table of rows and the stage, a lake with the registry's tables, and one training."""
    tables = open_lake(tmp_path_factory.mktemp("tables"))
    tables.deploy()
    rows = history(800)
    with Session.builder.config("local_testing", True).create() as session:
        session.create_dataframe(rows.rename(columns=str.upper)).write.save_as_table("churn_training_set")
        yield Account(session, tables, rows, json.loads(json.dumps(train_and_keep(session, tables, NOW))))


@pytest.fixture
def session() -> Iterator[Session]:
    """Snowpark's emulator, empty."""
    with Session.builder.config("local_testing", True).create() as session:
        yield session


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals in a tenth of the time, where they do not matter."""
    monkeypatch.setattr(metrics, "RESAMPLES", 20)


@pytest.fixture
def frame(account: Account) -> pd.DataFrame:
    """Rows as Snowflake gives them to PREDICT_CHURN: columns have numbers, the first one is the digest."""
    rows = account.rows.sample(500, random_state=1)
    return pd.DataFrame(
        {
            0: pd.array([account.found["artefact"]] * len(rows), dtype="string"),
            **{place: rows[name].to_numpy(np.float64) for place, name in enumerate(FEATURES, 1)},
        }
    )


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the features' names."""
    return frame.drop(columns=0).set_axis(list(FEATURES), axis=1)


def test_the_procedure_stages_a_model_and_registers_it_as_the_challenger_with_the_gates_verdicts(account: Account):
    found = account.found

    assert artefact.digest(account.staged) == found["artefact"]
    assert found["version"] == 1
    (version,) = account.tables.query("FROM churn_models WHERE version = 1").to_pylist()
    assert (version["artefact"], version["passed_gate"]) == (found["artefact"], True)
    assert json.loads(version["gate"]) == found["gate"]
    assert found["gate"]["incumbent"] == "the heuristic"
    assert found["gate"]["not_worse"]["passed"]
    assert found["gate"]["calibrated"]["passed"]
    assert json.loads(version["card"])["evaluations"] == found["evaluations"]
    assert found["evaluations"]["model"]["roc_auc"]["value"] > 0.8


def test_once_a_model_serves_the_next_training_compares_with_it_read_from_the_stage(
    account: Account, few_resamples: None
):
    registry.promote(account.tables, 1, NOW, "me", "it is good")

    found = train_and_keep(account.session, account.tables, NOW)

    assert found["gate"]["incumbent"] == "version 1"
    assert found["gate"]["gain"]["value"] == 0, "the same rows give the same forest"
    assert len(found["said"]) == 1
    newest = registry.versions(account.tables)[0]
    assert (newest.version, newest.status) == (found["version"], "challenger")


def test_a_champion_whose_file_is_lost_does_not_stop_the_training_of_the_next(account: Account, few_resamples: None):
    account.tables.transact(lambda tx: tx.execute("DELETE FROM churn_champion"))
    account.tables.transact(
        lambda tx: tx.execute("INSERT INTO churn_champion VALUES (?, 1, ?)", [registry.SERVES, UNKNOWN])
    )

    found = train_and_keep(account.session, account.tables, NOW)

    assert found["gate"]["incumbent"] == "the heuristic"
    assert f"{STAGE}/{UNKNOWN}.model cannot be read" in found["said"][1]


def test_only_the_latest_cut_offs_are_learned_from(session: Session, monkeypatch: pytest.MonkeyPatch):
    # Measured as floats, because local testing loses integers where a filter drops rows.
    rows = history(20).astype(dict.fromkeys(COUNTS, "float64"))
    session.create_dataframe(rows.rename(columns=str.upper)).write.save_as_table("churn_training_set")
    monkeypatch.setattr(snowflake_training, "TRAINING_WEEKS", 3)

    found = training_rows(session)

    expected = rows[rows["cut_off"] >= FIRST + timedelta(weeks=WEEKS - 3)]
    assert found["cut_off"].nunique() == 3
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))


def test_a_training_set_without_rows_is_said_to_be_empty(session: Session):
    rows = history(1).rename(columns=str.upper)
    session.create_dataframe(rows).limit(0).write.save_as_table("churn_training_set")

    with pytest.raises(TrainingError, match="empty"):
        train_and_keep(session, Mock(transact=Mock(return_value=[])), NOW)


def test_the_registrys_statements_are_one_transaction_of_the_session():
    session = Mock()
    session.sql.return_value.collect.return_value = [Row(3, 0)]

    assert SnowparkTables(session).transact(lambda tx: tx.execute("UPDATE churn_models SET status = ?", ["x"])) == 3
    assert session.method_calls == [
        call.begin_transaction(),
        call.sql("UPDATE churn_models SET status = ?", ["x"]),
        call.commit(),
    ]


def test_a_transaction_that_fails_is_rolled_back():
    session = Mock()
    session.sql.return_value.collect.side_effect = ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        SnowparkTables(session).transact(lambda tx: tx.rows("SELECT 1 / 0"))

    assert session.method_calls[-1] == call.rollback()


def test_predict_churn_gives_what_scoring_gives(account: Account, frame: pd.DataFrame):
    found = predictor(STAGE)(frame)

    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, score(account.model, named(frame)))


def test_churn_reasons_gives_the_reasons(account: Account, frame: pd.DataFrame):
    found = explainer(STAGE)(frame)

    assert found.dtype == "string"
    assert found.to_list() == reasons(account.model, named(frame).to_numpy(np.float32))
    assert found.str.len().gt(0).any()


def test_the_lake_and_snowflake_say_the_same_whichever_family_serves(account: Account, frame: pd.DataFrame):
    train_rows, validation, _ = training.parts_of(account.rows).values()
    columns = ", ".join(["digest", *FEATURES])
    for family, (model, _) in training.fit(train_rows, validation, FEATURES, 0).items():
        content = artefact.dumps(model)
        frame[0] = artefact.digest(content)
        account.session.file.put_stream(BytesIO(content), f"{STAGE}/{frame.loc[0, 0]}.model", auto_compress=False)
        with duckdb.connect() as connection:
            serving.register(connection, lambda name, of=content: of)
            connection.register("rows", named(frame).assign(digest=frame[0].astype(object), place=range(len(frame))))
            lake = connection.execute(
                f"SELECT predict_churn({columns}), churn_reasons({columns}) FROM rows ORDER BY place"
            ).fetchall()

        assert lake == list(zip(predictor(STAGE)(frame), explainer(STAGE)(frame), strict=True)), family
        assert any(why for _, why in lake), family


@pytest.mark.parametrize("maker", [predictor, explainer])
def test_without_a_champion_or_a_finite_feature_the_answer_is_null(
    frame: pd.DataFrame, maker: Callable[[str], Callable[[pd.DataFrame], pd.Series]]
):
    frame.loc[0, 0] = pd.NA
    frame.loc[1, 3] = np.nan
    frame.loc[2, 7] = -np.inf

    found = maker(STAGE)(frame)

    assert found.isna().to_list() == [True] * 3 + [False] * (len(frame) - 3)


def test_where_no_row_has_a_champion_no_model_is_read(frame: pd.DataFrame):
    frame[0] = pd.array([pd.NA] * len(frame), dtype="string")

    assert predictor("@no_such_stage")(frame).isna().all()
    assert predictor("@no_such_stage")(frame.iloc[:0]).empty


def test_a_digest_without_a_model_is_refused_by_its_name(frame: pd.DataFrame):
    frame.loc[4, 0] = UNKNOWN

    with pytest.raises(ArtefactError, match=UNKNOWN):
        predictor(STAGE)(frame)


def test_a_file_whose_content_is_not_that_of_its_digest_is_refused(account: Account, frame: pd.DataFrame):
    frame[0] = "e" * 64
    account.session.file.put_stream(BytesIO(account.staged), f"{STAGE}/{'e' * 64}.model", auto_compress=False)

    with pytest.raises(ArtefactError, match="damaged"):
        predictor(STAGE)(frame)


def test_a_model_of_other_features_is_refused(account: Account, frame: pd.DataFrame):
    content = artefact.dumps(replace(account.model, features=("a", *FEATURES[1:])))
    frame[0] = artefact.digest(content)
    account.session.file.put_stream(BytesIO(content), f"{STAGE}/{frame.loc[0, 0]}.model", auto_compress=False)

    with pytest.raises(ArtefactError, match="the live features are"):
        predictor(STAGE)(frame)


def test_the_functions_take_batches():
    assert vars(predictor(STAGE)) == vars(explainer(STAGE)) == {"_sf_vectorized_input": pd.DataFrame}


PROCESS = """
import io, pickle

sys.path.insert(0, str(Path("code.zip").absolute()))
frame, staged, rows = pickle.loads(Path("given.pickle").read_bytes())
"""
SCORE = """
from snowflake.snowpark import Session
from churn_assets.model.snowflake_scoring import explainer, predictor

session = Session.builder.config("local_testing", True).create()
session.file.put_stream(io.BytesIO(staged), f"@churn_models/{frame.loc[0, 0]}.model", auto_compress=False)
found = predictor("@churn_models")(frame).to_list(), explainer("@churn_models")(frame).to_list()
"""
TRAIN = """
from churn_assets.model import metrics, snowflake_training
from snowflake.snowpark import Session

class Tables:  # of a registry without a champion: its statements are tried elsewhere
    def __init__(self, session): ...
    def transact(self, work): return []

metrics.RESAMPLES = 2
snowflake_training.SnowparkTables = Tables
session = Session.builder.config("local_testing", True).create()
session.create_dataframe(rows.rename(columns=str.upper)).write.save_as_table("churn_training_set")
session.sproc.register(snowflake_training.train_churn_model, name="train_churn_model")
found = json.loads(session.call("train_churn_model"))["gate"]["gain"]["value"]
"""
REPORT = """
import churn_assets
Path("found.pickle").write_bytes(pickle.dumps((churn_assets.__file__, imported, found)))
"""


@pytest.mark.parametrize(("code", "packages"), [(SCORE, SCORING_PACKAGES), (TRAIN, TRAINING_PACKAGES)])
def test_the_handlers_run_from_the_zip_with_the_listed_packages_alone_and_need_each_of_them(
    account: Account, frame: pd.DataFrame, tmp_path: Path, code: str, packages: tuple[str, ...]
):
    (tmp_path / "code.zip").write_bytes(package_zip())
    (tmp_path / "given.pickle").write_bytes(pickle.dumps((frame, account.staged, account.rows)))

    script = ONLY_PACKAGES + PROCESS + code + REPORT
    command = [sys.executable, "-I", "-c", script, json.dumps(importable(packages))]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    origin, imported, found = pickle.loads((tmp_path / "found.pickle").read_bytes())
    assert origin.startswith(str(tmp_path / "code.zip"))
    assert set(packages) <= {owner for name in imported for owner in OWNERS.get(name, ())}
    if code == SCORE:
        assert found == (predictor(STAGE)(frame).to_list(), explainer(STAGE)(frame).to_list())
    else:
        assert found == account.found["gate"]["gain"]["value"]


def test_the_same_code_gives_the_same_zip_without_what_snowflake_does_not_need():
    with zipfile.ZipFile(BytesIO(package_zip())) as archive:
        names = archive.namelist()

    assert package_zip() == package_zip()
    assert "churn_assets/model/snowflake_scoring.py" in names
    assert not {"churn_assets/model/serving.py", "churn_assets/warehouse/lake.py", "churn_assets/cli/app.py"} & set(
        names
    )


def test_every_statement_is_one_that_snowflake_can_parse_with_the_properties_it_requires():
    stage, train, predict, explain = statements("CHURN.MAIN", b"code")

    for statement in (stage, train, predict, explain):
        parsed = Linter(dialect="snowflake").parse_string(statement)
        assert not parsed.violations
        assert statement.startswith("CREATE ")
    place = f"IMPORTS = ('@CHURN.MAIN.churn_models/churn_assets-{artefact.digest(b'code')[:12]}.zip')"
    for statement in (train, predict, explain):
        assert "LANGUAGE PYTHON" in statement
        assert f"RUNTIME_VERSION = '{sys.version_info.major}.{sys.version_info.minor}'" in statement
        assert "ARTIFACT_REPOSITORY = snowflake.snowpark.pypi_shared_repository" in statement
        assert place in statement
    assert "HANDLER = 'churn_assets.model.snowflake_training.train_churn_model'" in train
    for statement in (predict, explain):
        # A dynamic table takes an immutable function only as long as it is the same one.
        assert statement.startswith("CREATE FUNCTION IF NOT EXISTS")
        assert " IMMUTABLE " in statement
        assert f"(digest VARCHAR, {', '.join(f'{name} FLOAT' for name in FEATURES)})" in statement
        assert "HANDLER = 'handler'" in statement
    assert "RETURNS FLOAT" in predict
    assert "RETURNS VARCHAR" in explain


@pytest.mark.parametrize(("function", "maker"), [("predict_churn", "predictor"), ("churn_reasons", "explainer")])
def test_the_body_of_a_function_makes_its_handler_over_the_stage(function: str, maker: str):
    (statement,) = [one for one in statements("CHURN.MAIN", b"code") if f".{function}(" in one]
    defined: dict[str, Any] = {}

    exec(statement.split("$$")[1], defined)

    assert defined[maker].__module__ == snowflake_scoring.__name__
    assert "_sf_vectorized_input" in vars(defined["handler"])
    assert f"handler = {maker}('@CHURN.MAIN.churn_models')" in statement


def test_packages_are_pinned_to_the_versions_of_the_lock_which_have_wheels_for_snowflakes_machines():
    locked = {
        package["name"]: package
        for package in tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]
        if any(Marker(marker).evaluate() for marker in package.get("resolution-markers", ["python_version > '3'"]))
    }
    _, train, predict, explain = statements("CHURN.MAIN", b"code")

    for statement, names in ((train, TRAINING_PACKAGES), (predict, SCORING_PACKAGES), (explain, SCORING_PACKAGES)):
        pins = ", ".join(f"'{name}=={locked[name]['version']}'" for name in names)
        assert f"PACKAGES = ({pins})" in statement
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for name in with_dependencies(TRAINING_PACKAGES):
        wheels = " ".join(wheel["url"] for wheel in locked[name]["wheels"])
        for machine in ("x86_64", "aarch64"):
            assert re.search(rf"-none-any\.whl|-({python}|abi3|none)-manylinux\S*{machine}\S*\.whl", wheels), name


def test_the_code_is_put_where_the_procedure_and_the_functions_look_for_it():
    code = package_zip()
    name, stage = re.findall(r"PUT 'file:///tmp/([^']+)' (\S+) ", upload("CHURN.MAIN", code, "/tmp/"))[0]

    created, *others = statements("CHURN.MAIN", code)
    assert stage.removeprefix("@") in created
    assert all(f"IMPORTS = ('{stage}/{name}')" in statement for statement in others)
