import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.errors import ModelFileError
from churn_assets.warehouse.lake import LakeNotFoundError, LakeWarehouse, ReadOnlyError
from churn_assets.warehouse.protocol import QueryTimeoutError, Transaction
from churn_assets_tests.warehouse.processes import heard_from, killed, process

INCREMENTS = 8
FLUSHES = 60
IN_PARQUET = 2_000  # rows, more than the catalog keeps inline


def create_counter(tx: Transaction) -> None:
    """One counter and a line for each time it was raised: always as many lines as the counter says."""
    tx.execute("CREATE TABLE counter (n INTEGER)")
    tx.execute("INSERT INTO counter VALUES (0)")
    tx.execute("CREATE TABLE lines (writer VARCHAR, n INTEGER)")


def raise_counter(tx: Transaction, writer: str) -> int:
    tx.execute("UPDATE counter SET n = n + 1")
    n = tx.rows("SELECT n FROM counter")[0][0]
    tx.execute("INSERT INTO lines VALUES (?, ?)", [writer, n])
    return n


def counter_and_lines(lake: LakeWarehouse) -> tuple[int, int]:
    row = lake.query("SELECT (SELECT n FROM counter) AS n, (SELECT count(*) FROM lines) AS lines").to_pylist()[0]
    return row["n"], row["lines"]


@pytest.fixture(scope="module")
def lake_with_counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that holds a counter at 0. Copy it, do not use it."""
    path = tmp_path_factory.mktemp("template") / "lake"
    LakeWarehouse(path).transact(create_counter)
    return path


@pytest.fixture
def lake_path(tmp_path: Path, lake_with_counter: Path) -> Path:
    """The folder of a lake that holds a counter at 0."""
    shutil.copytree(lake_with_counter, tmp_path / "lake")
    return tmp_path / "lake"


@pytest.fixture
def small_lake(lake_path: Path) -> LakeWarehouse:
    return LakeWarehouse(lake_path)


def _raise_often(connection: Connection, path: Path, writer: str) -> None:
    lake = LakeWarehouse(path)
    lake.query("SELECT 1")
    connection.send("ready")
    connection.recv()
    for _ in range(INCREMENTS):
        lake.transact(lambda tx: raise_counter(tx, writer))
    connection.send("done")


@pytest.mark.slow
def test_two_writing_processes_lose_nothing_and_a_reader_sees_whole_transactions(
    lake_path: Path, small_lake: LakeWarehouse
) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(process(_raise_often, lake_path, name))[1] for name in ("one", "two")]
        for connection in connections:
            assert heard_from(connection) == "ready"
        for connection in connections:
            connection.send("go")
        seen = [(0, 0)]
        while not all(connection.poll() for connection in connections):
            seen.append(counter_and_lines(small_lake))
        assert [heard_from(connection) for connection in connections] == ["done", "done"]
    assert counter_and_lines(small_lake) == (2 * INCREMENTS, 2 * INCREMENTS)
    assert all(n == lines for n, lines in seen)
    assert seen == sorted(seen)
    raised_by_each = small_lake.query("SELECT count(*) AS lines FROM lines GROUP BY writer")["lines"].to_pylist()
    assert raised_by_each == [INCREMENTS, INCREMENTS]
    assert small_lake.query("SELECT count(DISTINCT n) AS n FROM lines")["n"].to_pylist() == [2 * INCREMENTS]


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        (1, "ducklake_flush_inlined_data('lake', table_name => 'lines')"),
        (IN_PARQUET, "ducklake_merge_adjacent_files('lake', 'lines')"),
    ],
    ids=["flushed", "merged"],
)
def test_a_transaction_goes_on_to_see_rows_that_are_put_elsewhere_meanwhile(
    rows: int, step: str, lake_path: Path, small_lake: LakeWarehouse
) -> None:
    for _ in range(3):
        small_lake.transact(lambda tx: tx.execute(f"INSERT INTO lines SELECT 'seed', * FROM range({rows})"))
    for _ in range(2):  # in a lake without other files, all of them are found again
        small_lake.transact(lambda tx: tx.execute(f"INSERT INTO counter SELECT * FROM range({IN_PARQUET})"))
    elsewhere = LakeWarehouse(lake_path)

    def read_twice(tx: Transaction) -> list[int]:
        before = len(tx.rows("SELECT n FROM lines"))
        moved = elsewhere.query(f"CALL {step}")  # does not wait for its turn
        assert moved.num_rows > 0
        return [before, len(tx.rows("SELECT n FROM lines"))]

    assert small_lake.transact(read_twice) == [3 * rows, 3 * rows]
    assert small_lake.query("SELECT count(*) AS n FROM lines")["n"].to_pylist() == [3 * rows]


def _raise_and_flush_often(connection: Connection, path: Path) -> None:
    lake = LakeWarehouse(path)
    for _ in range(FLUSHES):
        lake.transact(lambda tx: tx.execute("UPDATE counter SET n = n + 1"))
        lake.transact(lambda tx: tx.rows("CALL ducklake_flush_inlined_data('lake', table_name => 'counter')"))
    connection.send("done")


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [True, False])
def test_a_reader_never_misses_a_row_that_is_being_flushed(read_only: bool, lake_path: Path) -> None:
    reader = LakeWarehouse(lake_path, read_only=read_only)
    seen = [0]
    with process(_raise_and_flush_often, lake_path) as (_, connection):
        while not connection.poll():
            found = reader.query("SELECT n FROM counter")["n"].to_pylist()
            assert len(found) == 1, f"{found} after {seen[-1]}"
            seen += found
        assert heard_from(connection) == "done"
    assert seen == sorted(seen)
    assert reader.query("SELECT n FROM counter")["n"].to_pylist() == [FLUSHES]


def _raise_until_killed(connection: Connection, path: Path, hold: bool) -> None:
    lake = LakeWarehouse(path)

    def raise_slowly(tx: Transaction) -> None:
        tx.execute("UPDATE counter SET n = n + 1")
        connection.send("half")
        if hold:
            connection.recv()
        tx.execute("INSERT INTO lines VALUES ('killed', 0)")

    while True:
        lake.transact(raise_slowly)


@pytest.mark.slow
def test_writers_killed_within_a_transaction_leave_neither_half_and_no_lock(
    lake_path: Path, small_lake: LakeWarehouse
) -> None:
    committed = 0
    for milliseconds in (None, None, 0, 3, 7, 12, 18, 25, 35, 50):
        hold = milliseconds is None
        with process(_raise_until_killed, lake_path, hold) as (child, connection):
            assert heard_from(connection) == "half"
            time.sleep((milliseconds or 0) / 1000)
            killed(child)
        n, lines = counter_and_lines(small_lake)
        assert n == lines, f"half a transaction after {milliseconds} ms"
        assert n == committed if hold else n >= committed
        committed = small_lake.transact(lambda tx: raise_counter(tx, "next"))
        assert counter_and_lines(small_lake) == (n + 1, n + 1)


def test_a_conflict_runs_the_whole_work_again_on_the_newer_rows(lake_path: Path, small_lake: LakeWarehouse) -> None:
    elsewhere = LakeWarehouse(lake_path)
    runs: list[int] = []

    def overtaken_once(tx: Transaction) -> int:
        runs.append(raise_counter(tx, "overtaken"))
        if len(runs) == 1:
            elsewhere.query("UPDATE counter SET n = 40")  # does not wait for its turn, as a writer from elsewhere
        return runs[-1]

    assert small_lake.transact(overtaken_once) == 41
    assert runs == [1, 41]
    assert small_lake.query("SELECT * FROM lines").to_pylist() == [{"writer": "overtaken", "n": 41}]


@pytest.mark.parametrize("rows", [1, 5000], ids=["inlined", "in files"])
def test_of_two_that_would_insert_the_same_new_row_the_later_one_looks_again(
    rows: int, lake_path: Path, small_lake: LakeWarehouse
) -> None:
    insert = (
        f"INSERT INTO lines SELECT 'W' || n, n FROM range({rows}) AS wanted (n)"
        " WHERE NOT EXISTS (SELECT 1 FROM lines WHERE lines.n = wanted.n)"
    )
    elsewhere = LakeWarehouse(lake_path)
    runs: list[int] = []

    def overtaken_once(tx: Transaction) -> None:
        runs.append(tx.execute(insert))
        if len(runs) == 1:
            elsewhere.query(insert)  # does not wait for its turn, as a writer from elsewhere

    small_lake.transact(overtaken_once)
    assert runs == [rows, 0]
    assert small_lake.query("SELECT count(*) AS n FROM lines")["n"].to_pylist() == [rows]


def test_an_exception_in_the_work_rolls_everything_back_and_is_not_retried(small_lake: LakeWarehouse) -> None:
    runs: list[int] = []

    def fails(tx: Transaction) -> None:
        runs.append(raise_counter(tx, "fails"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        small_lake.transact(fails)
    assert counter_and_lines(small_lake) == (0, 0)
    assert runs == [1]
    assert small_lake.transact(lambda tx: raise_counter(tx, "next")) == 1


def test_staged_rows_can_be_read_by_name_within_the_transaction_only(small_lake: LakeWarehouse) -> None:
    rows = pa.table({"writer": ["a", "b"], "n": pa.array([1, 2], pa.int32())})
    assert small_lake.transact(lambda tx: tx.execute("INSERT INTO lines FROM arrived"), staged={"arrived": rows}) == 2
    assert small_lake.query("FROM lines ORDER BY n").to_pylist() == rows.to_pylist()
    with pytest.raises(duckdb.CatalogException):
        small_lake.query("FROM arrived")


def _open_and_write(connection: Connection, path: Path) -> None:
    connection.send("ready")
    connection.recv()
    try:
        LakeWarehouse(path).transact(lambda tx: tx.execute("SELECT 1"))
        connection.send("opened")
    except duckdb.Error as error:
        connection.send(str(error))


def test_a_lake_that_is_new_can_be_opened_by_several_processes_at_once(tmp_path: Path) -> None:
    for attempt in range(3):
        with ExitStack() as stack:
            path = tmp_path / f"lake{attempt}"
            connections = [stack.enter_context(process(_open_and_write, path))[1] for _ in range(4)]
            for connection in connections:
                heard_from(connection)
            for connection in connections:
                connection.send("go")
            assert [heard_from(connection) for connection in connections] == ["opened"] * 4


def test_a_lake_may_lie_in_a_folder_whose_name_has_an_apostrophe(tmp_path: Path) -> None:
    lake = LakeWarehouse(tmp_path / "o'brien" / "lake")
    lake.transact(create_counter)
    assert counter_and_lines(lake) == (0, 0)


# Read-only


@pytest.fixture(scope="module")
def guarded_path(tmp_path_factory: pytest.TempPathFactory, lake_with_counter: Path) -> Path:
    path = tmp_path_factory.mktemp("guarded") / "lake"
    shutil.copytree(lake_with_counter, path)
    LakeWarehouse(path).transact(lambda tx: tx.execute(f"INSERT INTO lines SELECT 'seed', * FROM range({IN_PARQUET})"))
    return path


@pytest.fixture(scope="module")
def guarded_lake(guarded_path: Path) -> LakeWarehouse:
    """A lake with rows in Parquet, opened for reading only."""
    return LakeWarehouse(guarded_path, read_only=True)


def state(lake: LakeWarehouse) -> list[dict[str, object]]:
    """The rows, the history and the options of a lake."""
    return lake.query(
        "SELECT count(*) AS lines, sum(n) AS total, (SELECT n FROM counter) AS n,"
        " (SELECT count(*) FROM __ducklake_metadata_lake.ducklake_snapshot) AS snapshots,"
        " (SELECT list(key || '=' || value ORDER BY key) FROM __ducklake_metadata_lake.ducklake_metadata) AS options FROM lines"
    ).to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO counter VALUES (1)",
        "UPDATE counter SET n = 1",
        "DELETE FROM lines",
        "TRUNCATE lines",
        "MERGE INTO counter USING (SELECT 5 AS n) AS new ON true WHEN MATCHED THEN UPDATE SET n = new.n",
        "CREATE TABLE other AS SELECT 1 AS n",
        "CREATE TABLE memory.main.other AS SELECT 1 AS n",
        "CREATE OR REPLACE TABLE lines (n INTEGER)",
        "DROP TABLE lines",
        "ALTER TABLE lines ADD COLUMN more INTEGER",
        "COPY lines TO '{outside}'",
        "EXPORT DATABASE '{outside}'",
        "ATTACH '{outside}' AS outside",
        "ATTACH 'ducklake:sqlite:{catalog}' AS again",
        "DETACH lake",
        "USE memory",
        "SET threads = 1",
        "SET VARIABLE as_of_day = DATE '2026-01-01'",
        "PRAGMA threads = 1",
        "CHECKPOINT",
        "VACUUM",
        "CALL lake.set_option('data_inlining_row_limit', 7)",
        "CALL ducklake_expire_snapshots('lake', older_than => now())",
        "CALL lake.merge_adjacent_files()",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT 1; DELETE FROM lines",
        "BEGIN; DELETE FROM lines; COMMIT",
        "SELECT * FROM ducklake_set_option('lake', 'data_inlining_row_limit', '7')",
        "SELECT * FROM lake.set_option('data_inlining_row_limit', '7')",
        'SELECT * FROM "ducklake_set_option" (\'lake\', \'data_inlining_row_limit\', \'7\')',
        "SELECT * FROM ducklake_set_option/**/('lake', 'data_inlining_row_limit', '7')",
        "SELECT * FROM ducklake_expire_snapshots('lake', older_than => now())",
        "SELECT * FROM ducklake_delete_orphaned_files/**/('lake', cleanup_all => true)",
        "SELECT * FROM lake.flush_inlined_data()",
        "SELECT * FROM query('DELETE FROM lines')",
        "FROM query('FROM ducklake_expire_snapshots(''lake'', older_than => now())')",
        "SELECT * FROM sqlite_query('__ducklake_metadata_lake', 'DELETE FROM ducklake_metadata RETURNING key')",
        "DELETE FROM __ducklake_metadata_lake.ducklake_snapshot",
        "EXPLAIN ANALYZE DELETE FROM lines",
        "EXPLAIN ANALYZE INSERT INTO counter VALUES (1)",
        pytest.param(
            "EXPLAIN ANALYZE COPY lines TO '{outside}'",
        ),
        "nonsense",
        "SELECT nothing FROM nowhere",
        "",
        "-- nothing but a remark",
    ],
)  # fmt: skip
def test_a_read_only_lake_refuses_all_but_one_reading_statement(
    guarded_lake: LakeWarehouse, guarded_path: Path, tmp_path: Path, sql: str
) -> None:
    before = state(guarded_lake)
    outside = tmp_path / "outside"
    with pytest.raises((ReadOnlyError, duckdb.Error)):
        guarded_lake.query(sql.format(outside=outside, catalog=guarded_path / "catalog.sqlite"))
    assert state(guarded_lake) == before
    assert not outside.exists()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT n FROM counter",
        "FROM counter",
        "WITH a AS (SELECT 1 AS n) SELECT n FROM a;",
        "DESCRIBE counter",
        "SHOW TABLES",
        "SUMMARIZE lines",
        "EXPLAIN SELECT n FROM counter",
        "SELECT max(snapshot_id) AS newest FROM lake.snapshots()",
        "SELECT n FROM counter AT (VERSION => 1)",
    ],
)
def test_a_read_only_lake_answers_questions(guarded_lake: LakeWarehouse, sql: str) -> None:
    assert guarded_lake.query(sql).num_rows > 0


def test_a_read_only_lake_refuses_transactions(guarded_lake: LakeWarehouse) -> None:
    before = state(guarded_lake)
    with pytest.raises(duckdb.Error, match="read-only"):
        guarded_lake.transact(lambda tx: tx.execute("DELETE FROM lines"))
    assert state(guarded_lake) == before


def test_a_read_only_lake_that_is_missing_says_what_to_do_and_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(LakeNotFoundError, match="churn deploy"):
        LakeWarehouse(tmp_path / "lake", read_only=True).query("SELECT 1")
    assert not (tmp_path / "lake").exists()


# Deployment


def test_extensions_are_loaded_without_installing_anything(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from churn_assets.warehouse.lake import LakeWarehouse;"
        "lake = LakeWarehouse(Path(sys.argv[1]));"
        "lake.transact(lambda tx: tx.execute('CREATE TABLE t AS SELECT * FROM range(1000) AS r(n)'));"
        "print(lake.query('SELECT count(*) AS n FROM t')['n'][0])"
    )
    environment = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-c", code, str(tmp_path / "lake")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"
    assert list(home.rglob("*")) == []


def test_a_lake_that_was_moved_still_has_its_rows_and_takes_more(lake_path: Path, small_lake: LakeWarehouse) -> None:
    small_lake.transact(lambda tx: tx.execute(f"INSERT INTO lines SELECT 'old', * FROM range({IN_PARQUET})"))
    lake_path.rename(lake_path.with_name("moved"))
    moved = LakeWarehouse(lake_path.with_name("moved"))
    moved.transact(lambda tx: tx.execute(f"INSERT INTO lines SELECT 'new', * FROM range({IN_PARQUET})"))
    assert moved.query("SELECT writer, count(*) AS n FROM lines GROUP BY writer ORDER BY writer").to_pylist() == [
        {"writer": "new", "n": IN_PARQUET},
        {"writer": "old", "n": IN_PARQUET},
    ]
    assert not lake_path.exists()


def test_deploying_again_keeps_every_row(tmp_path: Path) -> None:
    lake = LakeWarehouse(tmp_path / "lake")
    lake.deploy()
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO support_cases VALUES ('K1', 'C1', now(), 'app', 0.1, NULL, NULL, now(), NULL, NULL, NULL)"
        )
    )
    LakeWarehouse(tmp_path / "lake").deploy()
    assert lake.query("SELECT case_id FROM support_cases")["case_id"].to_pylist() == ["K1"]
    assert lake.query("SELECT name FROM streams ORDER BY name")["name"].to_pylist() == [
        "churn_metrics_stream",
        "search_of_app_activity_logs",
        "search_of_dim_customers",
        "search_of_support_cases",
        "stream_high_risk_customers",
    ]


def test_a_models_file_is_kept_whole_within_the_lake_so_that_it_moves_with_it(
    small_lake: LakeWarehouse, lake_path: Path, tmp_path: Path
) -> None:
    small_lake.store_model("a.model", b"all of it")
    small_lake.store_model("a.model", b"all of it")

    shutil.copytree(lake_path, tmp_path / "moved")
    assert LakeWarehouse(tmp_path / "moved", read_only=True).read_model("a.model") == b"all of it"
    assert [file.name for file in lake_path.rglob("*model*") if file.is_file()] == ["a.model"]


def test_a_models_file_that_is_not_there_is_an_error_that_names_it(small_lake: LakeWarehouse) -> None:
    with pytest.raises(ModelFileError, match=r"lake/models/b\.model cannot be read"):
        small_lake.read_model("b.model")


@pytest.mark.usefixtures("small_lake")
def test_a_query_that_takes_too_long_is_stopped_and_the_next_one_runs(lake_path: Path) -> None:
    lake = LakeWarehouse(lake_path, read_only=True, timeout_seconds=0.5)
    lake.query("SELECT 1 AS n")  # opened before the clock is read
    began = time.monotonic()

    with pytest.raises(QueryTimeoutError, match=r"stopped after 0\.5 seconds"):
        lake.query("SELECT count(*) FROM range(1000000000) AS a, range(1000000000) AS b WHERE a.range + b.range = 1")

    assert time.monotonic() - began < 10
    assert lake.query("SELECT 1 AS n")["n"].to_pylist() == [1]


def test_a_query_that_needs_more_memory_than_is_allowed_is_done_with_files_in_the_lake(lake_path: Path) -> None:
    lake = LakeWarehouse(lake_path, memory_limit="100MB")
    spilled = set[str]()

    def watch() -> None:
        while not done.wait(0.01):
            spilled.update(file.name for file in lake_path.glob("churn-spill-*/*"))

    done, watcher = threading.Event(), threading.Thread(target=watch)
    watcher.start()
    rows = lake.query("SELECT count(*) AS n FROM (SELECT i FROM range(6_000_000) AS numbers (i) GROUP BY i)")
    done.set()
    watcher.join()

    assert rows["n"].to_pylist() == [6_000_000]
    assert spilled


def test_what_a_killed_process_spilled_is_deleted_after_a_day(lake_path: Path) -> None:
    lake, left = LakeWarehouse(lake_path), lake_path / "churn-spill-1"
    lake.transact(lambda tx: [tx.execute(one.query) for one in duckdb.extract_statements(schema_script())])
    left.mkdir()
    lake.maintain({}, utc_now() + timedelta(hours=23))
    assert left.exists()
    lake.maintain({}, utc_now() + timedelta(hours=25))
    assert not left.exists()
