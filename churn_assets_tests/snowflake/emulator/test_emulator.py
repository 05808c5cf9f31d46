"""The emulator's own semantics, through the real connector over HTTP, each as Snowflake's documentation has it."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, Error

from churn_assets.retention.writing.cortex import CortexWriter
from churn_assets.retention.writing.prompts import load_prompts
from churn_assets.retention.writing.writer import EmailRequest, WriterError
from churn_assets.settings import Settings
from churn_assets.warehouse.snowflake import SnowflakeWarehouse
from churn_assets_tests.snowflake.emulator.process import RunningEmulator, running

pytestmark = pytest.mark.emulator

IDLE_SECONDS = 1
LOCK_SECONDS = 4


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with running("--idle", str(IDLE_SECONDS), "--lock-timeout", str(LOCK_SECONDS)) as emulator:
        yield emulator


Connect = Callable[..., "Client"]


class Client:
    """A session, as short to write as its statements."""

    def __init__(self, connection: SnowflakeConnection) -> None:
        self.connection = connection

    def run(self, sql: str, *values: Any) -> int | None:
        """The number of rows that a statement touched."""
        return self.connection.cursor().execute(sql, values or None).rowcount  # type: ignore[union-attr]

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.connection.cursor().execute(sql, values or None).fetchall()  # type: ignore[union-attr]

    def named(self, sql: str) -> list[dict[str, Any]]:
        """Rows by the names of their columns."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return [
            dict(zip((column.name for column in cursor.description), row, strict=True)) for row in cursor.fetchall()
        ]

    def error(self, sql: str, *values: Any) -> int:
        """The number of the error that a statement fails with."""
        with pytest.raises(Error) as failed:
            self.connection.cursor().execute(sql, values or None)
        assert failed.value.errno is not None
        return failed.value.errno


@pytest.fixture
def connect(emulator: RunningEmulator, account: Settings) -> Iterator[Connect]:
    """Sessions of an account that has its roles, warehouse and schemas."""
    opened: list[SnowflakeConnection] = []

    def open_one(**parameters: Any) -> Client:
        place = {"role": "DATA_ENGINEER", "warehouse": "CHURN", "database": "CHURN", "schema": "MAIN"}
        opened.append(emulator.connect(**{**place, **parameters}))
        return Client(opened[-1])

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def one(connect: Connect) -> Client:
    """A session with a table of two rows."""
    client = connect()
    client.run("CREATE TABLE t (id INTEGER, word VARCHAR)")
    client.run("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    return client


@pytest.fixture
def other(connect: Connect) -> Client:
    return connect()


def words(client: Client) -> list[str]:
    return [word for (word,) in client.rows("SELECT word FROM t ORDER BY word")]


# ---- values


@pytest.mark.parametrize(
    "value",
    [
        'it\'s \\ a\n"text" ? $$ -- é',
        "",
        "2026-01-02",
        0,
        -(2**53) - 1,
        0.1,
        -1e300,
        True,
        False,
        None,
        datetime(2026, 1, 2, 3, 4, 5, 678901),
        datetime(1969, 12, 31, 23, 59, 59, 999999),
        date(2024, 2, 29),
        b"\x00\xff'",
    ],
    ids=repr,
)
def test_a_bound_value_comes_back_as_it_went(one: Client, value: Any):
    assert one.rows("SELECT ?, '?', ? -- ?", value, 1) == [(value, "?", 1)]


def test_a_column_of_each_type_keeps_what_was_bound(one: Client):
    row = (7, "x", 0.5, True, datetime(2026, 1, 2, 3, 4, 5, 6), date(2026, 1, 2), b"\x00", None)
    one.run("CREATE TABLE v (a BIGINT, b VARCHAR, c DOUBLE, d BOOLEAN, e TIMESTAMP, f DATE, g BINARY, h INTEGER)")

    assert one.run("INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row) == 1
    assert one.rows("SELECT * FROM v WHERE e = ? AND f = ? AND g = ?", row[4], row[5], row[6]) == [row]


def test_a_batch_of_bound_rows_is_one_statement(one: Client):
    cursor = one.connection.cursor()
    cursor.executemany(
        "INSERT INTO t (id, word) VALUES (?, UPPER(?))", [(number, f"w{number}") for number in range(200)]
    )

    assert cursor.rowcount == 200
    assert one.rows("SELECT count(*), max(word) FROM t WHERE word LIKE 'W%'") == [(200, "W99")]
    assert one.rows(
        "SELECT count(*) FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY()) WHERE query_text LIKE 'INSERT%UPPER%'"
    ) == [(1,)]


def test_a_result_without_rows_is_empty_and_a_large_one_is_whole(one: Client):
    assert one.rows("SELECT *, CURRENT_TIMESTAMP FROM t WHERE FALSE") == []
    one.run("CREATE TABLE many AS SELECT a.id * 300 + b.id AS n FROM (VALUES (0), (1)) a (id) CROSS JOIN t b")
    assert one.rows("SELECT count(*) FROM many") == [(4,)]


# ---- what is not known


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("CREATE ALERT a IF (EXISTS (SELECT 1)) THEN SELECT 1", 2),
        ("CREATE FUNCTION f() RETURNS INTEGER LANGUAGE PYTHON AS $$ $$", 2029),
        ("CREATE SEQUENCE s", 2),
        ("ALTER WAREHOUSE churn ABORT ALL QUERIES", 2),
        ("CREATE STREAM s ON TABLE t APPEND_ONLY = TRUE", 2),
        ("CREATE STAGE s URL = 's3://b/'", 2),
        ("SHOW NETWORK POLICIES", 2),
        ("EXECUTE IMMEDIATE $$ BEGIN RETURN 1; END $$", 2),
        ("BEGIN LET x INTEGER := 1; END", 2),
        ("SELECT SYSTEM$WAIT(1)", 2),
        ("CREATE TABLE x (id INTEGER AUTOINCREMENT)", 2),
        ("CREATE TABLE x (id INTEGER) ENABLE_SCHEMA_EVOLUTION = TRUE", 2),
        ("INSERT OVERWRITE INTO t VALUES (1, 'x')", 2),
        ("ALTER SESSION SET NOTHING = 1", 1),
        ("DELETE FROM t; SELECT 1", 8),
        ("SELECT * FROM t AT(OFFSET => -60)", 1003),
        ("SELEKT 1", 1003),
        ("SELECT FROM WHERE", 1003),
        ("SELECT * FROM nothing", 2003),
        ("SELECT nothing FROM t", 904),
        ("SELECT nothing(1)", 2140),
        ("CREATE TABLE t (id INTEGER)", 2002),
        ("USE ROLE nobody", 2003),
        ("USE WAREHOUSE nothing", 2043),
        ("CALL nothing()", 2140),
        ("INSERT INTO t SELECT 'x'", 904),
    ],
)
def test_what_is_unknown_or_wrong_is_an_error_with_a_number_and_never_succeeds(
    one: Client, statement: str, number: int
):
    assert one.error(statement) == number
    assert words(one) == ["one", "two"]


def test_whoever_signs_in_with_an_unknown_role_is_refused(connect: Connect):
    with pytest.raises(DatabaseError) as refused:
        connect(role="NOBODY")

    assert "390189" in str(refused.value) or refused.value.errno in {390189, 250001}


def test_tables_need_a_warehouse_to_be_read(connect: Connect, one: Client):
    without = connect(warehouse="NOTHING")

    assert without.error("SELECT * FROM t") == 606
    without.run("USE WAREHOUSE churn")
    assert words(without) == ["one", "two"]


def test_a_test_can_let_statements_fail(emulator: RunningEmulator, one: Client):
    emulator.fail(r"FROM\s+t\b", 3001, times=2)

    assert [one.error("SELECT word FROM t"), one.error("SELECT word FROM t")] == [3001, 3001]
    assert words(one) == ["one", "two"]


def test_the_history_tells_each_statement_with_its_tag_and_session(one: Client, other: Client):
    one.connection.cursor().execute("SELECT 'mine'", _statement_params={"QUERY_TAG": "tagged"})
    other.run("ALTER SESSION SET QUERY_TAG = 'of the session'")
    other.run("SELECT 'other'")

    told = one.rows(
        "SELECT query_text, query_tag, session_id FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY()) WHERE query_tag <> ''"
    )
    assert [(text, tag) for text, tag, _ in told] == [("SELECT 'mine'", "tagged"), ("SELECT 'other'", "of the session")]
    assert [session for _, _, session in told] == [one.connection.session_id, other.connection.session_id]
    assert one.rows("SHOW PARAMETERS LIKE 'QUERY_TAG' IN SESSION")[0][1] == ""


# ---- transactions


def test_what_a_transaction_writes_is_its_own_until_it_commits(one: Client, other: Client):
    one.run("BEGIN")
    one.run("INSERT INTO t VALUES (3, 'three')")
    one.run("DELETE FROM t WHERE id = 1")

    assert words(one) == ["three", "two"]
    assert words(other) == ["one", "two"]
    one.run("COMMIT")
    assert words(other) == ["three", "two"]


def test_a_transaction_that_is_rolled_back_leaves_nothing(one: Client):
    one.run("BEGIN")
    one.run("UPDATE t SET word = 'x'")
    one.run("TRUNCATE TABLE t")
    assert words(one) == []
    one.run("ROLLBACK")

    assert words(one) == ["one", "two"]


def test_each_statement_of_a_transaction_sees_what_others_have_committed_by_then(one: Client, other: Client):
    one.run("BEGIN")
    one.run("UPDATE t SET word = 'first' WHERE id = 1")
    other.run("INSERT INTO t VALUES (3, 'three')")

    assert words(one) == ["first", "three", "two"]
    assert one.run("UPDATE t SET word = UPPER(word)") == 3
    one.run("COMMIT")
    assert words(other) == ["FIRST", "THREE", "TWO"]


def test_two_transactions_that_only_insert_do_not_see_or_stop_each_other(one: Client, other: Client):
    insert = "INSERT INTO t SELECT 9, 'nine' WHERE NOT EXISTS (SELECT 1 FROM t WHERE id = 9)"
    for client in (one, other):
        client.run("BEGIN")
    assert [one.run(insert), other.run(insert)] == [1, 1]
    for client in (one, other):
        client.run("COMMIT")

    assert words(one) == ["nine", "nine", "one", "two"]


def test_rows_that_are_alike_are_counted(one: Client, other: Client):
    other.run("INSERT INTO t SELECT * FROM t")
    one.run("BEGIN")
    one.run("UPDATE t SET word = 'half' WHERE id = 1")
    one.run("INSERT INTO t VALUES (2, 'two'), (NULL, NULL), (NULL, NULL)")
    other.run("INSERT INTO t VALUES (1, 'one'), (NULL, NULL)")
    one.run("COMMIT")

    assert other.rows("SELECT id, word, count(*) FROM t GROUP BY ALL ORDER BY 1, 2") == [
        (1, "half", 2),
        (1, "one", 1),
        (2, "two", 3),
        (None, None, 3),
    ]


def test_a_statement_that_fails_leaves_its_transaction_open_with_what_was_done_before(one: Client, other: Client):
    one.run("CREATE TABLE strict (id INTEGER NOT NULL)")
    one.run("BEGIN")
    one.run("INSERT INTO t VALUES (3, 'three')")
    assert one.error("INSERT INTO strict VALUES (1), (NULL)") == 100072
    assert one.error("INSERT INTO t SELECT word::INTEGER, word FROM t") == 100038
    one.run("COMMIT")

    assert words(other) == ["one", "three", "two"]
    assert other.rows("SELECT * FROM strict") == []


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE IF NOT EXISTS t (id INTEGER)",
        "CREATE TEMPORARY TABLE x (id INTEGER)",
        "GRANT ROLE data_engineer TO ROLE sysadmin",
    ],
)
def test_ddl_commits_the_transaction_that_it_stands_in(one: Client, other: Client, ddl: str):
    one.run("BEGIN")
    one.run("INSERT INTO t VALUES (3, 'three')")
    one.run(ddl)

    assert words(other) == ["one", "three", "two"]
    one.run("ROLLBACK")
    assert words(one) == ["one", "three", "two"]


def test_without_autocommit_a_statement_opens_a_transaction(connect: Connect, one: Client):
    client = connect(autocommit=False)
    client.run("INSERT INTO t VALUES (3, 'three')")
    assert words(one) == ["one", "two"]
    client.connection.commit()

    assert words(one) == ["one", "three", "two"]


def test_a_merge_within_a_transaction_counts_what_it_did(one: Client, other: Client):
    one.run("CREATE TABLE source AS SELECT * FROM (VALUES (1, 'ONE'), (3, 'three'), (2, NULL)) AS s (id, word)")
    one.run("BEGIN")
    touched = one.run("""
        MERGE INTO t USING source AS s ON t.id = s.id
        WHEN MATCHED AND s.word IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET t.word = s.word
        WHEN NOT MATCHED THEN INSERT (id, word) VALUES (s.id, s.word)
    """)

    assert touched == 3
    assert words(one) == ["ONE", "three"]
    assert words(other) == ["one", "two"]
    one.run("ROLLBACK")
    assert words(one) == ["one", "two"]


def test_a_merge_tells_inserted_and_updated_rows_apart(one: Client):
    merge = """
        MERGE INTO t USING (SELECT 1 AS id UNION ALL SELECT 8) AS s ON t.id = s.id
        WHEN MATCHED THEN UPDATE SET word = 'x' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)
    """

    assert one.named(merge) == [{"number of rows inserted": 1, "number of rows updated": 1}]


def test_a_merge_in_which_two_rows_would_change_one_is_refused(one: Client):
    merge = """
        MERGE INTO t USING (SELECT 1 AS id, 'a' AS w UNION ALL SELECT 1, 'b') AS s ON t.id = s.id
        WHEN MATCHED THEN UPDATE SET word = w
    """

    assert one.error(merge) == 100090
    assert words(one) == ["one", "two"]


# ---- locks


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start something that will wait; what is given back waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(timeout=30)
        return results[0]

    return result


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET word = word || '!' WHERE id = 1",
        "MERGE INTO t USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET word = word || '!'",
    ],
    ids=["update", "merge"],
)
def test_who_waits_for_a_table_sees_what_was_committed_meanwhile(one: Client, other: Client, statement: str):
    one.run("BEGIN")
    one.run("UPDATE t SET word = 'changed' WHERE id = 1")
    waiting = in_background(lambda: other.run(statement))
    time.sleep(0.3)
    assert words(one) == ["changed", "two"]
    one.run("COMMIT")

    assert waiting() == 1
    assert words(one) == ["changed!", "two"]


def test_inserts_do_not_wait_for_a_table_that_is_locked(one: Client, other: Client):
    one.run("BEGIN")
    one.run("DELETE FROM t")

    assert other.run("INSERT INTO t VALUES (3, 'three')") == 1
    one.run("COMMIT")
    assert words(one) == ["three"]


def test_who_waits_for_too_long_is_told_so_and_can_go_on(one: Client, other: Client):
    other.run("ALTER SESSION SET LOCK_TIMEOUT = 1")
    one.run("BEGIN")
    one.run("UPDATE t SET word = 'x' WHERE id = 1")
    stop = threading.Event()

    def stay_awake() -> None:
        while not stop.wait(IDLE_SECONDS / 4):
            one.rows("SELECT 1")

    awake = in_background(stay_awake)
    began = time.monotonic()
    assert other.error("UPDATE t SET word = 'y' WHERE id = 2") == 625
    assert 0.9 < time.monotonic() - began < 3
    stop.set()
    awake()
    one.run("COMMIT")
    assert words(other) == ["two", "x"]


def test_the_transaction_of_a_client_that_was_killed_is_rolled_back_once_it_blocks_somebody(
    emulator: RunningEmulator, one: Client
):
    script = f"""
        import time
        from churn_assets_tests.snowflake.emulator.process import RunningEmulator
        emulator = RunningEmulator({emulator.host!r}, {emulator.port})
        cursor = emulator.connect(warehouse="CHURN", database="CHURN", schema="MAIN").cursor()
        cursor.execute("BEGIN")
        cursor.execute("UPDATE t SET word = 'of the dead'")
        print("ready", flush=True)
        time.sleep(60)
    """
    client = subprocess.Popen(
        [sys.executable, "-c", re.sub(r"(?m)^ {8}", "", script)], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    client.send_signal(signal.SIGKILL)
    client.wait()

    assert words(one) == ["one", "two"]
    assert one.run("UPDATE t SET word = 'alive' WHERE id = 1") == 1
    assert words(one) == ["alive", "two"]


def test_who_lost_the_transaction_by_resting_is_told_so_before_it_believes_to_have_committed(
    one: Client, other: Client
):
    one.run("BEGIN")
    one.run("UPDATE t SET word = 'x' WHERE id = 1")
    time.sleep(IDLE_SECONDS * 1.2)
    assert other.run("UPDATE t SET word = 'y' WHERE id = 1") == 1

    assert one.error("COMMIT") == 608
    assert words(one) == ["two", "y"]


def test_a_session_that_ends_gives_its_locks_back(connect: Connect, one: Client):
    gone = connect()
    gone.run("BEGIN")
    gone.run("UPDATE t SET word = 'x'")
    gone.connection.close()
    began = time.monotonic()

    assert one.run("UPDATE t SET word = 'y' WHERE id = 1") == 1
    assert time.monotonic() - began < IDLE_SECONDS / 2
    assert words(one) == ["two", "y"]


# ---- tables of one session


def test_a_temporary_table_is_its_sessions_and_hides_another_of_its_name(one: Client, other: Client):
    one.run("CREATE TEMPORARY TABLE main.t (id INTEGER, word VARCHAR)")
    one.run("INSERT INTO t VALUES (9, 'mine')")
    one.run("BEGIN")
    one.run("UPDATE churn.main.t SET word = 'still mine'")
    one.run("INSERT INTO t VALUES (9, 'gone')")
    assert words(one) == ["gone", "still mine"]
    one.run("ROLLBACK")

    assert words(one) == ["mine"]
    assert words(other) == ["one", "two"]
    one.run("DROP TABLE t")
    assert words(one) == ["one", "two"]


def test_a_table_like_another_has_its_columns_and_no_rows(one: Client, other: Client):
    one.run("CREATE TABLE strict (id INTEGER NOT NULL)")
    one.run("CREATE TEMPORARY TABLE t LIKE strict")
    one.run("ALTER TABLE t ADD COLUMN word VARCHAR")
    assert one.error("INSERT INTO t (word) VALUES ('x')") == 100072
    one.run("INSERT INTO t VALUES (1, 'mine')")

    assert words(one) == ["mine"]
    assert words(other) == ["one", "two"]


# ---- files


@pytest.fixture
def batch() -> BytesIO:
    """A Parquet file with a row of values and a row of NULLs, and a column that the table does not have."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901)
    columns = {
        "text": ["x", None],
        "Number": [2**40, None],
        "ratio": [0.5, None],
        "flag": [True, None],
        "moment": pa.array([moment, None], pa.timestamp("us")),
        "day": [date(2026, 1, 2), None],
        "raw": [b"\xff\x00", None],
        "beyond": [1, 2],
    }
    file = BytesIO()
    pq.write_table(pa.table(columns), file)
    file.seek(0)
    return file


@pytest.fixture
def landing(one: Client, batch: BytesIO) -> Client:
    """A session with a stage on which the file lies, and a table for it."""
    one.run(
        "CREATE TABLE landed (text VARCHAR, number BIGINT, ratio DOUBLE, flag BOOLEAN, moment TIMESTAMP, day DATE, raw BINARY,"
        " nothing VARCHAR)"
    )
    one.run("CREATE FILE FORMAT event_batches TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE")
    one.run("CREATE STAGE landing FILE_FORMAT = (FORMAT_NAME = 'event_batches')")
    put(one, "PUT file:///here/batch.parquet @landing/run-1 AUTO_COMPRESS = FALSE", batch)
    return one


def put(client: Client, statement: str, content: BytesIO) -> None:
    client.connection.cursor().execute(statement, file_stream=content)


COPY = (
    "COPY INTO landed FROM @landing/run-1 FILE_FORMAT = (FORMAT_NAME = 'event_batches')"
    " MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
)
LANDED = [
    ("x", 2**40, 0.5, True, datetime(2026, 1, 2, 3, 4, 5, 678901), date(2026, 1, 2), b"\xff\x00", None),
    (None,) * 8,
]


def test_a_parquet_file_on_a_stage_becomes_rows_within_the_transaction_that_copies_it(landing: Client, other: Client):
    landing.run("BEGIN")
    assert landing.named(COPY)[0]["rows_loaded"] == 2
    assert landing.rows("SELECT * FROM landed ORDER BY text") == LANDED
    assert other.rows("SELECT * FROM landed") == []
    landing.run("ROLLBACK")
    assert landing.rows("SELECT * FROM landed") == []
    landing.run(COPY)

    assert other.rows("SELECT * FROM landed ORDER BY text") == LANDED


def test_a_file_that_was_loaded_is_not_loaded_again_unless_it_changed_or_is_forced(landing: Client, batch: BytesIO):
    landing.run(COPY)
    assert landing.rows(COPY) == [("Copy executed with 0 files processed.",)]
    landing.run(f"{COPY} FORCE = TRUE")
    content = BytesIO()
    pq.write_table(pa.table({"text": ["changed"]}), content)
    content.seek(0)
    put(landing, "PUT file:///here/batch.parquet @landing/run-1 AUTO_COMPRESS = FALSE OVERWRITE = TRUE", content)
    landing.run(COPY)

    assert landing.rows("SELECT text, count(*) FROM landed GROUP BY text ORDER BY text") == [
        ("changed", 1),
        ("x", 2),
        (None, 2),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [("USE_LOGICAL_TYPE = TRUE", ""), ("BINARY_AS_TEXT = FALSE", ""), ("MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE", "")],
)
def test_a_copy_that_would_not_give_these_values_in_snowflake_is_refused(landing: Client, old: str, new: str):
    format_ = "TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE".replace(old, new)
    landing.run(f"CREATE OR REPLACE FILE FORMAT event_batches {format_}")

    landing.error(COPY.replace(old, new))
    assert landing.rows("SELECT * FROM landed") == []


def test_files_can_be_listed_fetched_and_removed(landing: Client, tmp_path: Path):
    (tmp_path / "note 1.txt").write_text("hello")
    landing.run(f"PUT 'file://{tmp_path}/note 1.txt' @landing/run-2")
    landing.run(f"PUT file://{tmp_path}/*.txt @landing/run-2 AUTO_COMPRESS = FALSE")

    assert [name for name, *_ in landing.rows("LIST @landing")] == [
        "landing/run-1/batch.parquet",
        "landing/run-2/note 1.txt",
        "landing/run-2/note 1.txt.gz",
    ]
    (tmp_path / "out").mkdir()
    landing.run(f"GET @churn.main.landing/run-1/batch.parquet file://{tmp_path}/out/")
    assert pq.read_table(tmp_path / "out" / "batch.parquet").num_rows == 2
    assert landing.rows("REMOVE @landing/run-2 PATTERN = '.*gz'") == [("landing/run-2/note 1.txt.gz", "removed")]
    assert len(landing.rows("LS @landing")) == 2
    assert landing.error("LIST @nothing") == 2003


def test_a_put_does_not_overwrite_unless_it_says_so(landing: Client):
    put(landing, "PUT file:///here/batch.parquet @landing/run-1 AUTO_COMPRESS = FALSE", BytesIO(b"no Parquet"))

    assert landing.named(COPY)[0]["rows_loaded"] == 2


# ---- streams


@pytest.fixture
def stream(one: Client) -> Client:
    """A session with a stream on the table, and one more table."""
    one.run("CREATE STREAM s ON TABLE t")
    one.run("CREATE TABLE taken (id INTEGER, word VARCHAR, action VARCHAR)")
    return one


def shown(client: Client) -> list[tuple[Any, ...]]:
    return client.rows("SELECT id, word, METADATA$ACTION, METADATA$ISUPDATE FROM s ORDER BY id, METADATA$ACTION")


TAKE = "INSERT INTO taken SELECT id, word, METADATA$ACTION FROM s"


def test_a_stream_begins_empty_and_shows_the_net_difference(stream: Client):
    assert shown(stream) == []
    stream.run("UPDATE t SET word = 'uno' WHERE id = 1")
    stream.run("UPDATE t SET word = 'eins' WHERE id = 1")
    stream.run("DELETE FROM t WHERE id = 2")
    stream.run("INSERT INTO t VALUES (3, 'three'), (4, 'four')")
    stream.run("DELETE FROM t WHERE id = 4")

    assert shown(stream) == [
        (1, "one", "DELETE", True),
        (1, "eins", "INSERT", True),
        (2, "two", "DELETE", False),
        (3, "three", "INSERT", False),
    ]
    pair = stream.rows("SELECT DISTINCT METADATA$ROW_ID FROM s WHERE id = 1")
    assert len(pair) == 1


def test_only_dml_that_commits_moves_a_stream_even_if_it_takes_nothing_of_it(stream: Client):
    stream.run("INSERT INTO t VALUES (3, 'three')")
    assert len(shown(stream)) == 1
    stream.run("BEGIN")
    stream.run(TAKE)
    stream.run("ROLLBACK")
    assert stream.rows("SELECT SYSTEM$STREAM_HAS_DATA('s')") == [(True,)]
    stream.run(f"{TAKE} WHERE FALSE")

    assert shown(stream) == []
    assert stream.rows("SELECT SYSTEM$STREAM_HAS_DATA('churn.main.S')") == [(False,)]
    assert stream.rows("SELECT * FROM taken") == []


def test_all_statements_of_a_transaction_see_the_same_stream(stream: Client, other: Client):
    stream.run("INSERT INTO t VALUES (3, 'three')")
    stream.run("BEGIN")
    other.run("INSERT INTO t VALUES (4, 'four')")
    stream.run("INSERT INTO t VALUES (5, 'five')")
    stream.run(TAKE)
    other.run("INSERT INTO t VALUES (6, 'six')")
    stream.run(TAKE)
    stream.run("COMMIT")

    assert stream.rows("SELECT id, count(*) FROM taken GROUP BY id") == [(3, 2)]
    assert [id_ for id_, *_ in shown(stream)] == [4, 5, 6]


def test_who_reads_a_stream_by_dml_locks_it(stream: Client, other: Client):
    stream.run("INSERT INTO t VALUES (3, 'three')")
    stream.run("BEGIN")
    stream.run(TAKE)
    waiting = in_background(lambda: other.run(TAKE))
    time.sleep(0.3)
    stream.run("COMMIT")

    assert waiting() == 0
    assert stream.rows("SELECT id FROM taken") == [(3,)]


def test_a_stream_on_a_table_that_was_created_anew_is_stale_until_it_is_too(stream: Client):
    stream.run("CREATE OR REPLACE TABLE t (id INTEGER, word VARCHAR)")
    assert stream.error("SELECT * FROM s") == 91904
    stream.run("CREATE STREAM IF NOT EXISTS s ON TABLE t")
    assert stream.error("SELECT * FROM s") == 91904
    assert stream.named("SHOW STREAMS")[0]["stale"] == "true"
    stream.run("CREATE OR REPLACE STREAM s ON TABLE t")

    assert shown(stream) == []
    assert stream.named("DESCRIBE STREAM s")[0]["stale"] == "false"
    stream.run("DROP STREAM s")
    assert stream.rows("SHOW STREAMS") == []


# ---- dynamic tables


DYNAMIC = (
    "CREATE DYNAMIC TABLE d TARGET_LAG = '1 minute' WAREHOUSE = churn REFRESH_MODE = {}"
    " AS SELECT id, UPPER(word) AS word FROM t"
)


@pytest.fixture
def dynamic(one: Client) -> Client:
    """A session with a dynamic table over the table, another over it, and a stream on that."""
    one.run(DYNAMIC.format("INCREMENTAL"))
    one.run(
        "CREATE DYNAMIC TABLE e TARGET_LAG = DOWNSTREAM WAREHOUSE = churn REFRESH_MODE = INCREMENTAL AS"
        " SELECT word, COUNT(*) AS n FROM d GROUP BY word"
    )
    one.run("CREATE STREAM s ON DYNAMIC TABLE e")
    one.run("CREATE TABLE taken (word VARCHAR)")
    return one


def last_refresh(client: Client, name: str) -> tuple[Any, ...]:
    return client.rows(
        "SELECT refresh_action, statistics:numInsertedRows::INTEGER, statistics:numDeletedRows::INTEGER"
        f" FROM TABLE(INFORMATION_SCHEMA.DYNAMIC_TABLE_REFRESH_HISTORY(NAME => 'CHURN.MAIN.{name}'))"
        " ORDER BY refresh_start_time DESC LIMIT 1"
    )[0]


def test_a_dynamic_table_is_filled_when_it_is_created_and_again_only_when_it_is_refreshed(dynamic: Client):
    assert last_refresh(dynamic, "E") == ("REINITIALIZE", 2, 0)
    dynamic.run("UPDATE t SET word = 'two' WHERE id = 1")
    assert dynamic.rows("SELECT word, n FROM e ORDER BY word") == [("ONE", 1), ("TWO", 1)]
    dynamic.run("ALTER DYNAMIC TABLE e REFRESH")

    assert dynamic.rows("SELECT word, n FROM e") == [("TWO", 2)]
    assert last_refresh(dynamic, "D") == ("INCREMENTAL", 1, 1)
    assert last_refresh(dynamic, "E") == ("INCREMENTAL", 1, 2)


def test_a_refresh_without_news_is_none_and_one_in_full_says_so(dynamic: Client):
    dynamic.run("ALTER DYNAMIC TABLE e REFRESH")
    assert last_refresh(dynamic, "E") == ("NO_DATA", 0, 0)
    dynamic.run(DYNAMIC.format("FULL").replace(" d ", " f "))
    dynamic.run("INSERT INTO t VALUES (3, 'three')")
    dynamic.run("ALTER DYNAMIC TABLE f REFRESH")

    assert last_refresh(dynamic, "F") == ("FULL", 1, 0)
    assert dynamic.error("CREATE STREAM x ON DYNAMIC TABLE f") == 2
    assert (
        dynamic.error(
            "CREATE DYNAMIC TABLE g TARGET_LAG = DOWNSTREAM WAREHOUSE = churn REFRESH_MODE = INCREMENTAL AS SELECT id FROM f"
        )
        == 2
    )


def test_a_stream_on_a_dynamic_table_shows_what_refreshes_changed(dynamic: Client):
    dynamic.run("UPDATE t SET word = 'two' WHERE id = 1")
    dynamic.run("ALTER DYNAMIC TABLE e REFRESH")
    columns = "word, n, METADATA$ACTION, METADATA$ISUPDATE"

    assert dynamic.rows(f"SELECT {columns} FROM s ORDER BY word, n") == [
        ("ONE", 1, "DELETE", False),
        ("TWO", 1, "DELETE", True),
        ("TWO", 2, "INSERT", True),
    ]
    dynamic.run("INSERT INTO taken SELECT word FROM s")
    assert dynamic.rows("SELECT SYSTEM$STREAM_HAS_DATA('s')") == [(False,)]


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("INSERT INTO d VALUES (1, 'x')", 1506),
        ("UPDATE d SET word = 'x'", 1506),
        ("DROP TABLE d", 2003),
        ("CREATE STREAM x ON TABLE d", 2003),
        ("CREATE STREAM x ON DYNAMIC TABLE d SHOW_INITIAL_ROWS = TRUE", 2),
        (DYNAMIC.format("INCREMENTAL"), 2002),
        ("CREATE DYNAMIC TABLE x WAREHOUSE = churn AS SELECT id FROM t", 2029),
        ("CREATE DYNAMIC TABLE x TARGET_LAG = '1 hour' AS SELECT id FROM t", 2029),
        ("CREATE DYNAMIC TABLE x TARGET_LAG = '30 seconds' WAREHOUSE = churn AS SELECT id FROM t", 1008),
        ("CREATE DYNAMIC TABLE x TARGET_LAG = '1 hour' WAREHOUSE = nothing AS SELECT id FROM t", 2003),
        (
            "CREATE DYNAMIC TABLE x TARGET_LAG = '1 hour' WAREHOUSE = churn REFRESH_MODE = INCREMENTAL"
            " AS SELECT id FROM t LIMIT 1",
            2,
        ),
        ("ALTER DYNAMIC TABLE d SET REFRESH_MODE = FULL", 2),
    ],
)
def test_what_a_dynamic_table_cannot_be_or_have_is_refused(dynamic: Client, statement: str, number: int):
    assert dynamic.error(statement) == number


def test_a_dynamic_table_that_was_never_filled_cannot_be_read(one: Client):
    one.run(DYNAMIC.format("AUTO").replace("AS SELECT", "INITIALIZE = ON_SCHEDULE AS SELECT"))
    assert one.error("SELECT * FROM d") == 2
    one.run("ALTER DYNAMIC TABLE d REFRESH")

    assert one.rows("SELECT word FROM d ORDER BY word") == [("ONE",), ("TWO",)]


def test_show_tells_of_dynamic_tables_and_drop_forgets_them(dynamic: Client):
    dynamic.run("ALTER DYNAMIC TABLE d SET TARGET_LAG = '2 hours'")
    (shown_one,) = dynamic.named("SHOW DYNAMIC TABLES LIKE 'd' IN SCHEMA churn.main")
    assert (shown_one["name"], shown_one["target_lag"], shown_one["refresh_mode"]) == ("D", "2 hours", "INCREMENTAL")
    assert {row["name"]: row["is_dynamic"] for row in dynamic.named("SHOW OBJECTS IN churn.main LIMIT 10")} == {
        "D": "Y",
        "E": "Y",
        "T": "N",
        "TAKEN": "N",
    }
    dynamic.run("DROP DYNAMIC TABLE d")

    assert [row["name"] for row in dynamic.named("SHOW DYNAMIC TABLES")] == ["E"]
    assert dynamic.error("SELECT * FROM d") == 2003


def test_a_refresh_that_fails_stands_in_the_history_and_changes_nothing(one: Client):
    one.run("CREATE TABLE texts AS SELECT '1' AS n")
    one.run(
        "CREATE DYNAMIC TABLE d TARGET_LAG = '1 hour' WAREHOUSE = churn AS SELECT CAST(n AS INTEGER) AS n FROM texts"
    )
    one.run("INSERT INTO texts VALUES ('x')")

    assert one.error("ALTER DYNAMIC TABLE d REFRESH") == 100038
    assert one.rows("SELECT n FROM d") == [(1,)]
    (past,) = one.rows("SELECT state FROM TABLE(INFORMATION_SCHEMA.DYNAMIC_TABLE_REFRESH_HISTORY(ERROR_ONLY => TRUE))")
    assert past == ("FAILED",)


# ---- what is kept as it was defined


def test_a_task_is_created_suspended_and_runs_only_when_it_is_told_to(one: Client):
    one.run(
        "CREATE TASK IF NOT EXISTS k WAREHOUSE = churn WHEN SYSTEM$STREAM_HAS_DATA('s') AS INSERT INTO t VALUES (3, 'task')"
    )
    assert one.named("SHOW TASKS IN SCHEMA churn.main")[0]["state"] == "suspended"
    one.run("ALTER TASK k RESUME")
    assert one.named("SHOW TASKS")[0]["state"] == "started"
    assert words(one) == ["one", "two"]
    one.run("EXECUTE TASK k")

    assert words(one) == ["one", "task", "two"]


def test_a_procedure_in_python_runs_as_its_owner_with_its_packages_alone(one: Client):
    create = (
        "CREATE OR REPLACE PROCEDURE p() RETURNS VARCHAR LANGUAGE PYTHON RUNTIME_VERSION = '3.11' HANDLER = 'handler'"
        " PACKAGES = ('snowflake-snowpark-python') EXECUTE AS OWNER AS $$\n{}\n$$"
    )
    body = "def handler(session):\n    session.sql(\"INSERT INTO t VALUES (3, 'called')\").collect()\n    return 1"
    one.run(create.format(body))
    one.run("CREATE TASK k WAREHOUSE = churn WHEN SYSTEM$STREAM_HAS_DATA('s') AS CALL p()")

    assert one.rows("CALL p()") == [("1",)]
    one.run("EXECUTE TASK k")
    assert words(one) == ["called", "called", "one", "two"]
    one.run(create.format("import duckdb\ndef handler(session): ..."))
    assert one.error("CALL p()") == 100357, "the package is not on its list"
    assert one.error("CALL p(1)") == 2
    one.run("BEGIN")
    assert one.error("CALL p()") == 2, "a transaction of the caller's is not known"
    one.run("ROLLBACK")


def test_a_procedure_in_sql_is_kept_and_says_that_it_is_not_run(one: Client):
    one.run("CREATE OR REPLACE PROCEDURE p() RETURNS VARCHAR LANGUAGE SQL AS $$ BEGIN RETURN 1; END $$")

    assert one.error("CALL p()") == 2
    assert [row["name"] for row in one.named("SHOW PROCEDURES")] == ["P"]


def test_grants_and_roles_can_be_read_back(connect: Connect):
    admin = connect(role="ACCOUNTADMIN")
    admin.run("CREATE ROLE r")
    admin.run("GRANT USAGE, OPERATE ON WAREHOUSE churn TO ROLE r")
    admin.run("GRANT SELECT ON FUTURE DYNAMIC TABLES IN SCHEMA churn.main TO ROLE r")
    admin.run("GRANT ROLE r TO ROLE sysadmin")
    admin.run("REVOKE OPERATE ON WAREHOUSE churn FROM ROLE r")

    told = [(row["privilege"], row["granted_on"], row["name"]) for row in admin.named("SHOW GRANTS TO ROLE r")]
    assert told == [("USAGE", "WAREHOUSE", "CHURN")]
    (future,) = admin.named("SHOW FUTURE GRANTS TO ROLE r")
    assert (future["privilege"], future["grant_on"], future["name"]) == (
        "SELECT",
        "DYNAMIC_TABLE",
        "CHURN.MAIN.<DYNAMIC_TABLE>",
    )
    assert {row["name"] for row in admin.named("SHOW ROLES")} >= {"R", "DATA_ENGINEER", "ACCOUNTADMIN"}
    assert admin.error("GRANT SELECT ON TABLE nothing TO ROLE r") == 2003
    assert admin.error("SHOW GRANTS TO ROLE nobody") == 2003


STORED = {
    "CORTEX SEARCH SERVICE": "c ON text ATTRIBUTES id WAREHOUSE = churn TARGET_LAG = '1 hour' AS SELECT word AS text, id FROM t",
    "SEMANTIC VIEW": "v TABLES (t PRIMARY KEY (id)) METRICS (t.n AS COUNT(*))",
    "AGENT": "a FROM SPECIFICATION $$ models: {} $$",
    "STREAMLIT": "l FROM '@landing' MAIN_FILE = 'app.py' QUERY_WAREHOUSE = churn",
}


@pytest.mark.parametrize("kind", STORED)
def test_objects_of_cortex_and_streamlit_are_kept_if_they_have_what_they_must_have(one: Client, kind: str):
    one.run(f"CREATE {kind} IF NOT EXISTS {STORED[kind]}")
    one.run(f"CREATE {kind} IF NOT EXISTS {STORED[kind]}")
    one.run(f"CREATE OR REPLACE {kind} {STORED[kind]}")

    assert one.error(f"CREATE {kind} {STORED[kind]}") == 2002
    assert one.error(f"CREATE {kind} x COMMENT = ''") == 2029
    assert len(one.rows(f"SHOW {kind}S")) == 1
    if kind == "STREAMLIT":
        one.run("ALTER STREAMLIT l ADD LIVE VERSION FROM LAST")


def test_a_semantic_view_from_yaml_needs_a_name_and_base_tables(one: Client):
    call = "CALL SYSTEM$CREATE_SEMANTIC_VIEW_FROM_YAML('churn.main', $$ {} $${})"
    model = "{name: churn, tables: [{name: t, base_table: {table: T}}]}"

    assert one.error(call.format("{name: churn, tables: [{name: t}]}", "")) == 392400
    one.run(call.format(model, ", TRUE"))
    assert one.rows("SHOW SEMANTIC VIEWS") == []
    one.run(call.format(model, ""))
    assert [row["name"] for row in one.named("SHOW SEMANTIC VIEWS")] == ["CHURN"]


# ---- Cortex


def test_the_projects_writer_reads_what_ai_complete_answers(emulator: RunningEmulator, account: Settings):
    prompts = load_prompts()
    writer = CortexWriter(SnowflakeWarehouse(account, any_version=True), "llama3.1-8b", prompts)
    emulator.complete(text=" Dear Ann, hello. ", completion_tokens=12)
    answer = writer.write(EmailRequest(full_name="Ann 'O", segment="RETAIL", reasons="many app errors"))

    assert (answer.text, answer.completion_tokens) == ("Dear Ann, hello.", 12)
    emulator.complete(error="model is busy")
    with pytest.raises(WriterError, match="model is busy"):
        writer.write(EmailRequest(full_name="Ann", segment="RETAIL", reasons=""))
