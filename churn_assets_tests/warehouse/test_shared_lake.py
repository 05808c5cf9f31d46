"""A lake on PostgreSQL and S3: many hosts, servers and lines that fail, what is wrong with the settings, the way there and back.

A host is a process with a home of its own; its line to PostgreSQL can be cut. What any lake does is tested elsewhere, and runs
on this one with `--shared-lake`.
"""

import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import duckdb
import pytest

from churn_assets.cli.app import run_command
from churn_assets.clock import utc_now
from churn_assets.errors import ChurnError
from churn_assets.operations import backup
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import LakePlace
from churn_assets.warehouse.protocol import Transaction
from churn_assets.wiring import lake_place, open_lake
from churn_assets_tests.line import Line
from churn_assets_tests.shared_lakes import SharedLake, SharedLakes
from churn_assets_tests.warehouse.processes import heard_from, killed, process

pytestmark = pytest.mark.shared_lake

TABLES = (
    "CREATE TABLE IF NOT EXISTS numbers (host INTEGER, number INTEGER)",
    "CREATE TABLE IF NOT EXISTS sums (total BIGINT)",
)


def quiet(_: str) -> None:
    pass


@pytest.fixture
def shared_lake(shared: SharedLakes) -> SharedLake:
    """A lake of this test that is deployed."""
    return shared.copy("deployed")


@pytest.fixture
def two_tables(shared_lake: SharedLake, tmp_path: Path) -> SharedLake:
    """A lake with two tables, of which one says how many rows the other one has."""
    lake = LakeWarehouse(shared_lake.place(tmp_path / "first"))
    lake.transact(lambda tx: [tx.execute(sql) for sql in (*TABLES, "INSERT INTO sums VALUES (0)")])
    return shared_lake


def settings_of(lake: SharedLake, home: Path) -> Settings:
    return load_settings(CHURN_HOME=home, **lake.environment)


def add(tx: Transaction, host: int, number: int) -> None:
    """Add a row and count it, in two tables."""
    tx.execute(
        "INSERT INTO numbers SELECT ?, ? WHERE NOT EXISTS (FROM numbers WHERE host = ? AND number = ?)",
        [host, number] * 2,
    )
    tx.execute("UPDATE sums SET total = (SELECT count(*) FROM numbers)")


def write_for_ever(connection: Connection, place: LakePlace, host: int) -> None:
    """Write numbers one after the other, as one who begins a failed transaction again, and say which are stored."""
    lake, number = LakeWarehouse(place), 0
    while True:
        with suppress(duckdb.Error, ChurnError):
            lake.transact(partial(add, host=host, number=number))
            connection.send(number)
            number += 1


def said_until(connection: Connection, count: int) -> int:
    """The last number that a host has stored, once it is at least `count`."""
    last = -1
    while last < count or connection.poll():
        last = heard_from(connection)
    return last


def is_whole(lake: LakeWarehouse) -> dict[int, int]:
    """By host, how many numbers are stored: each once, from 0 on, and counted."""
    rows = lake.query(
        "SELECT host, count(*) AS n, count(DISTINCT number) AS d, max(number) AS last FROM numbers GROUP BY host"
    )
    found = rows.to_pylist()
    assert all(row["n"] == row["d"] == row["last"] + 1 for row in found), found
    assert lake.query("SELECT total FROM sums")["total"].to_pylist() == [sum(row["n"] for row in found)]
    return {row["host"]: row["n"] for row in found}


def test_four_hosts_write_together_one_dies_and_nobody_sees_half_a_transaction(two_tables: SharedLake, tmp_path: Path):
    reader = LakeWarehouse(two_tables.place(tmp_path / "reader"), read_only=True)
    places = [two_tables.place(tmp_path / f"host_{host}") for host in range(4)]
    with (
        process(write_for_ever, places[0], 0) as (first, says_0),
        process(write_for_ever, places[1], 1) as (_, says_1),
        process(write_for_ever, places[2], 2) as (_, says_2),
        process(write_for_ever, places[3], 3) as (_, says_3),
    ):
        said_until(says_0, 3)
        killed(first)
        for _ in range(20):
            torn = reader.query("SELECT (SELECT count(*) FROM numbers) - (SELECT total FROM sums) AS torn")
            assert torn["torn"].to_pylist() == [0]
        stored = [said_until(says, 8) for says in (says_1, says_2, says_3)]
    found = is_whole(LakeWarehouse(two_tables.place(tmp_path / "after")))
    assert all(found[host] > last for host, last in enumerate(stored, 1))


def test_a_host_that_is_cut_off_loses_its_turn_and_goes_on_once_its_line_is_healed(
    shared: SharedLakes, two_tables: SharedLake, tmp_path: Path
):
    luck = random.Random(7)
    with Line(shared.postgres.port, 0.002).open() as line:
        over_line = replace(two_tables, catalog=shared.postgres.url(two_tables.name, line.port))
        with (
            process(write_for_ever, over_line.place(tmp_path / "far"), 0) as (_, far),
            process(write_for_ever, two_tables.place(tmp_path / "near"), 1) as (_, near),
        ):
            said_until(far, 2)
            for _ in range(3):
                line.cut()
                time.sleep(luck.uniform(0.2, 1.0))
                line.heal()
                said_until(far, said_until(far, 0) + 2)
            stored = said_until(far, 8), said_until(near, 8)
    found = is_whole(LakeWarehouse(two_tables.place(tmp_path / "after")))
    assert found[0] > stored[0]
    assert found[1] > stored[1]


@pytest.mark.parametrize("what", ["postgres", "s3"])
def test_a_server_that_is_away_for_a_while_loses_nothing(
    what: str, shared: SharedLakes, two_tables: SharedLake, tmp_path: Path
):
    stop: Callable[[], None] = shared.postgres.stop if what == "postgres" else shared.stop_s3
    start: Callable[[], None] = shared.postgres.start if what == "postgres" else shared.start_s3
    with process(write_for_ever, two_tables.place(tmp_path / "host"), 0) as (_, says):
        stored = said_until(says, 3)
        stop()
        time.sleep(2)
        start()
        stored = said_until(says, stored + 3)
    assert is_whole(LakeWarehouse(two_tables.place(tmp_path / "after")))[0] > stored


def test_two_hosts_deploy_a_new_lake_at_once(shared: SharedLakes, tmp_path: Path):
    lake = shared.empty(f"deployed_twice_{tmp_path.name}")
    with (
        process(_deploy, lake.place(tmp_path / "one")) as (_, one),
        process(_deploy, lake.place(tmp_path / "two")) as (_, two),
    ):
        assert heard_from(one) == heard_from(two) == "deployed"
    assert (
        LakeWarehouse(lake.place(tmp_path / "after")).query("SELECT count(*) AS n FROM schema_version")["n"][0].as_py()
        == 1
    )


def _deploy(connection: Connection, place: LakePlace) -> None:
    LakeWarehouse(place, any_version=True).deploy()
    connection.send("deployed")


def test_a_lake_is_moved_there_and_back_and_who_has_the_old_one_open_can_no_longer_write(
    shared: SharedLakes, deployed_home: Path, tmp_path: Path
):
    home = tmp_path / "bank"
    shutil.copytree(deployed_home, home)
    settings = settings_of(shared.empty(f"moved_{tmp_path.name}"), home)
    old = open_lake(settings.lake_path)
    old.transact(lambda tx: [tx.execute(sql) for sql in (*TABLES, "INSERT INTO numbers VALUES (0, 0), (0, 1)")])
    (settings.emails_path).mkdir(exist_ok=True)
    (settings.emails_path / "left.ndjson").write_text("{}\n")
    old.store_model("one.model", b"a model")

    backup.move(settings, back=False, report=quiet)

    with pytest.raises(duckdb.Error, match="the lake was moved to s3://"):
        old.transact(lambda tx: tx.execute("INSERT INTO numbers VALUES (0, 2)"))
    with pytest.raises(ChurnError, match="was moved to s3://"):
        open_lake(settings.lake_path).query("FROM numbers")
    moved = open_lake(lake_place(settings))
    moved.transact(lambda tx: tx.execute("INSERT INTO numbers VALUES (0, 2)"))
    assert moved.read_model("one.model") == b"a model"
    moved.maintain({}, utc_now() + timedelta(days=2))

    there = settings.model_copy(update={"home": tmp_path / "another"})
    backup.move(there, back=True, report=quiet)

    with pytest.raises(duckdb.Error, match="the lake was moved to /"):
        moved.transact(lambda tx: tx.execute("INSERT INTO numbers VALUES (0, 3)"))
    back = open_lake(there.lake_path)
    assert sorted(back.query("FROM numbers")["number"].to_pylist()) == [0, 1, 2]
    assert back.read_model("one.model") == b"a model"
    assert (there.emails_path / "left.ndjson").read_text() == "{}\n"
    assert back.identity() == old.identity()


def test_a_move_that_was_interrupted_is_repeated_and_nobody_writes_to_the_old_lake_meanwhile(
    shared: SharedLakes, deployed_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(deployed_home, tmp_path / "bank")
    settings = settings_of(shared.empty(f"interrupted_{tmp_path.name}"), tmp_path / "bank")
    old = open_lake(settings.lake_path)
    old.transact(lambda tx: [tx.execute(sql) for sql in (*TABLES, "INSERT INTO numbers VALUES (0, 0)")])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_put_catalog", stop)
        with pytest.raises(KeyboardInterrupt):
            backup.move(settings, back=False, report=quiet)
    with pytest.raises(duckdb.Error, match="the lake was moved to s3://"):
        old.transact(lambda tx: tx.execute("INSERT INTO numbers VALUES (0, 1)"))

    backup.move(settings, back=False, report=quiet)

    moved = open_lake(lake_place(settings))
    moved.transact(lambda tx: tx.execute("INSERT INTO numbers VALUES (0, 1)"))
    assert sorted(moved.query("FROM numbers")["number"].to_pylist()) == [0, 1]


def test_a_backup_of_a_shared_lake_is_restored_to_a_home_and_to_a_new_shared_place(
    shared: SharedLakes, two_tables: SharedLake, tmp_path: Path
):
    settings, to = settings_of(two_tables, tmp_path / "host"), str(tmp_path / "backup")
    lake = open_lake(lake_place(settings))
    lake.transact(lambda tx: add(tx, 0, 0))
    backup.back_up(settings, to, utc_now(), quiet)
    lake.transact(lambda tx: add(tx, 0, 1))
    second = backup.back_up(settings, to, utc_now(), quiet)
    assert second.known > 0
    home = load_settings(CHURN_HOME=tmp_path / "home")
    elsewhere = settings_of(shared.empty(f"restored_{tmp_path.name}"), tmp_path / "elsewhere")

    for place in (home, elsewhere):
        backup.restore(place, to, quiet)
        assert is_whole(open_lake(lake_place(place))) == {0: 2}
    with pytest.raises(ChurnError, match="there is a lake in s3://"):
        backup.restore(elsewhere, to, quiet)


def test_a_folder_that_is_not_the_catalogs_is_refused(two_tables: SharedLake, shared_lake: SharedLake, tmp_path: Path):
    other = replace(two_tables, data=shared_lake.data.replace("deployed", "another"))
    with pytest.raises(ChurnError, match=r"cannot be opened: .*does not match"):
        LakeWarehouse(other.place(tmp_path)).query("FROM numbers")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"CHURN_LAKE_CATALOG": "postgresql://churn:wrong-secret@127.0.0.1:{port}/deployed"}, "password authentication failed"),
        ({"CHURN_LAKE_CATALOG": "postgresql://churn:the-secret@127.0.0.1:1/deployed"}, "Connection refused"),
        ({"CHURN_LAKE_CATALOG": "postgresql://churn:only-for-tests@127.0.0.1:{port}/nowhere"}, "nowhere"),
        ({"CHURN_LAKE_CATALOG": "mysql://churn:the-secret@127.0.0.1/x"}, "must be postgresql://"),
        ({"CHURN_LAKE_CATALOG": ""}, "need each other"),
        ({"CHURN_LAKE_DATA": "s3://no-such-bucket/lake"}, "no-such-bucket"),
        ({"CHURN_LAKE_DATA": "gs://bucket/lake"}, "must be s3://bucket/folder"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "cannot be used"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_settings_is_said_without_a_secret(
    wrong: dict[str, str],
    said: str,
    shared: SharedLakes,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    lake = shared.copy("deployed")
    for name, value in (lake.environment | wrong).items():
        monkeypatch.setenv(name, value.format(port=shared.postgres.port))

    assert run_command(["seed", "--customers", "10", "--days", "10"]) == 1

    out, err = capfd.readouterr()
    assert said in err
    assert len(err.splitlines()) == 1
    assert "secret" not in out + err
    assert "only-for-tests" not in out + err


def test_no_query_shows_the_password_or_the_key(two_tables: SharedLake, tmp_path: Path):
    lake = LakeWarehouse(two_tables.place(tmp_path), read_only=True)
    for sql in ("FROM duckdb_databases()", "FROM duckdb_secrets()", "FROM duckdb_settings()", "FROM duckdb_logs"):
        assert "only-for-tests" not in str(lake.query(sql).to_pylist())
    with pytest.raises(ChurnError, match="not allowed"):
        lake.query("FROM postgres_query('__ducklake_metadata_lake', 'SELECT 1')")
