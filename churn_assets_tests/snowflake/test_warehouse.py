"""The warehouse on Snowflake, over the real connector, against the emulator."""

import threading
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from churn_assets.errors import ModelFileError
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import ReadOnlyError, Transaction
from churn_assets.warehouse.snowflake import MAX_ATTEMPTS, SnowflakeWarehouse
from churn_assets.warehouse.snowflake_connection import SnowflakeError
from churn_assets_tests.snowflake.emulator.process import RunningEmulator

pytestmark = pytest.mark.emulator

NOON = datetime.fromisoformat("2026-03-02T12:00:00.123456")
ROWS = pa.table(
    {
        "a_text": pa.array(["it's", None, "ü \\ ? %s"], pa.string()),
        "a_number": pa.array([1, None, -(2**40)], pa.int64()),
        "a_place": pa.array([1, 2, 3], pa.int32()),
        "a_double": pa.array([0.1, None, -1e300], pa.float64()),
        "a_truth": pa.array([True, None, False], pa.bool_()),
        "a_day": pa.array([date(2026, 3, 2), None, date(1999, 12, 31)], pa.date32()),
        "a_time": pa.array([NOON, None, NOON - timedelta(days=9000)], pa.timestamp("us")),
        "some_bytes": pa.array([b"\x00\xff{", None, b""], pa.binary()),
        "nothing": pa.array([None, None, None], pa.string()),
    }
)


@pytest.fixture
def warehouse(tables: Settings) -> SnowflakeWarehouse:
    """A warehouse whose tables are there."""
    return SnowflakeWarehouse(tables, tag=lambda: '{"run": "r1"}')


def moves(warehouse: SnowflakeWarehouse) -> list[dict[str, Any]]:
    return warehouse.query("SELECT * FROM suppressions ORDER BY customer_id").to_pylist()


def suppress(tx: Transaction, customer: str) -> int:
    return tx.execute("INSERT INTO suppressions (customer_id, suppressed_at) VALUES (?, ?)", [customer, NOON])


def test_staged_rows_come_out_as_they_went_in(warehouse: SnowflakeWarehouse):
    found = warehouse.transact(lambda tx: tx.rows("SELECT * FROM staged_rows ORDER BY a_place"), {"staged_rows": ROWS})

    assert found == [tuple(row.values()) for row in ROWS.to_pylist()]


def test_staged_rows_are_gone_afterwards_from_the_stage_too(warehouse: SnowflakeWarehouse):
    warehouse.transact(lambda tx: tx.rows("SELECT 1"), {"staged_rows": ROWS})

    assert warehouse.query("LIST @landing").num_rows == 0


def test_a_table_without_rows_can_be_staged(warehouse: SnowflakeWarehouse):
    found = warehouse.transact(
        lambda tx: tx.rows("SELECT count(*) FROM staged_rows"), {"staged_rows": ROWS.slice(0, 0)}
    )

    assert found == [(0,)]


@pytest.mark.parametrize("value", [*(column[0].as_py() for column in ROWS.columns[:-1]), None, 2**62, "a" * 5000])
def test_parameters_come_back_as_they_were_bound(warehouse: SnowflakeWarehouse, value: Any):
    found = warehouse.transact(lambda tx: tx.rows("SELECT column1 FROM VALUES (?)", [value]))

    assert found == [(value,)]


def test_results_have_names_in_lower_case_and_the_lakes_types(warehouse: SnowflakeWarehouse):
    found = warehouse.query(
        "SELECT count(*) AS a_count, 1.25 AS a_number, sum(1) / 3 AS a_share, CAST(? AS TIMESTAMP) AS a_time", [NOON]
    )

    assert found.schema.names == ["a_count", "a_number", "a_share", "a_time"]
    assert found.schema.types == [pa.int64(), pa.float64(), pa.float64(), pa.timestamp("us")]
    assert found.to_pylist()[0]["a_time"] == NOON


def test_a_query_without_rows_has_its_columns_and_their_types_and_can_be_staged(warehouse: SnowflakeWarehouse):
    sql = (
        "SELECT customer_id, suppressed_at, CAST(suppressed_at AS DATE) AS a_day, customer_id = 'A' AS a_truth, 1 AS a_count,"
        " CAST(1 AS DOUBLE) AS a_double FROM suppressions"
    )
    found = warehouse.query(sql)
    suppressed = warehouse.transact(lambda tx: suppress(tx, "A"), {"staged_rows": found})

    assert (suppressed, found.num_rows) == (1, 0)
    assert found.schema == warehouse.query(sql).schema


def test_changes_are_counted(warehouse: SnowflakeWarehouse):
    def work(tx: Transaction) -> list[int]:
        return [
            suppress(tx, "C1"),
            suppress(tx, "C2"),
            tx.execute("UPDATE suppressions SET note = 'x' WHERE customer_id = 'C1'"),
            tx.execute(
                "MERGE INTO suppressions USING (VALUES ('C1', 'y'), ('C3', 'z')) AS said (customer_id, note)"
                " ON suppressions.customer_id = said.customer_id WHEN MATCHED THEN UPDATE SET note = said.note"
                " WHEN NOT MATCHED THEN INSERT (customer_id, suppressed_at, note)"
                " VALUES (said.customer_id, '2026-01-01'::TIMESTAMP, said.note)"
            ),
            tx.execute("DELETE FROM suppressions WHERE customer_id = 'C9'"),
        ]

    assert warehouse.transact(work) == [1, 1, 1, 2, 0]
    assert [row["note"] for row in moves(warehouse)] == ["y", None, "z"]


def test_what_fails_leaves_nothing(warehouse: SnowflakeWarehouse):
    def work(tx: Transaction) -> None:
        suppress(tx, "C1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        warehouse.transact(work, {"staged_rows": ROWS})

    assert moves(warehouse) == []
    assert warehouse.query("LIST @landing").num_rows == 0


def test_a_statement_that_would_commit_is_refused_and_nothing_is_stored(warehouse: SnowflakeWarehouse):
    def work(tx: Transaction) -> None:
        suppress(tx, "C1")
        tx.execute("CREATE TABLE a_table (a INTEGER)")

    with pytest.raises(AssertionError, match="would commit"):
        warehouse.transact(work)

    assert moves(warehouse) == []


def test_writers_take_turns(tables: Settings):
    """Each reads how many there are and adds that number: two that read the same would leave a number twice."""

    def add(tx: Transaction) -> None:
        [(count,)] = tx.rows("SELECT count(*) FROM suppressions")
        time.sleep(0.02)
        suppress(tx, f"C{count:03}")

    def write() -> None:
        warehouse = SnowflakeWarehouse(tables)
        for _ in range(5):
            warehouse.transact(add)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = [row["customer_id"] for row in moves(SnowflakeWarehouse(tables))]
    assert found == [f"C{number:03}" for number in range(15)]


def test_without_a_turn_to_take_nothing_is_written(warehouse: SnowflakeWarehouse):
    warehouse.transact(lambda tx: tx.execute("DELETE FROM write_turn"))

    with pytest.raises(SnowflakeError, match="write_turn does not have its one row"):
        warehouse.transact(lambda tx: suppress(tx, "C1"))
    assert moves(warehouse) == []


def test_one_warehouse_serves_several_threads(warehouse: SnowflakeWarehouse):
    found: list[int] = []

    def ask(number: int) -> None:
        found.append(warehouse.query("SELECT CAST(? AS INTEGER) AS number", [number])["number"][0].as_py())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == list(range(8))


def test_a_transaction_whose_lock_was_taken_runs_again(warehouse: SnowflakeWarehouse, emulator: RunningEmulator):
    emulator.fail("UPDATE write_turn", errno=625)
    runs: list[int] = []

    warehouse.transact(lambda tx: (runs.append(1), suppress(tx, "C1")))

    assert len(moves(warehouse)) == 1
    assert runs == [1]


def test_what_keeps_failing_is_said_in_one_line(warehouse: SnowflakeWarehouse, emulator: RunningEmulator):
    emulator.fail("INSERT INTO suppressions", errno=625, times=MAX_ATTEMPTS)

    with pytest.raises(SnowflakeError, match=r"^Snowflake \(625\): [^\n]*$"):
        warehouse.transact(lambda tx: suppress(tx, "C1"))
    assert moves(warehouse) == []


def test_an_error_that_will_not_pass_is_not_repeated(warehouse: SnowflakeWarehouse, emulator: RunningEmulator):
    emulator.fail("INSERT INTO suppressions", errno=3001)

    with pytest.raises(SnowflakeError, match="lacks a privilege; `churn doctor`"):
        warehouse.transact(lambda tx: suppress(tx, "C1"))
    warehouse.transact(lambda tx: suppress(tx, "C2"))

    assert [row["customer_id"] for row in moves(warehouse)] == ["C2"]


def test_a_session_that_has_expired_is_opened_again(warehouse: SnowflakeWarehouse, emulator: RunningEmulator):
    warehouse.query("SELECT 1 AS one")
    emulator.fail("SELECT 2", errno=390114)

    assert warehouse.query("SELECT 2 AS two")["two"].to_pylist() == [2]


def test_a_commit_whose_answer_is_lost_is_not_repeated(warehouse: SnowflakeWarehouse, emulator: RunningEmulator):
    emulator.fail("^COMMIT", errno=390114)
    runs: list[int] = []

    with pytest.raises(SnowflakeError, match="what was already stored is found"):
        warehouse.transact(lambda tx: (runs.append(1), suppress(tx, "C1")))

    assert len(runs) == 1


def test_statements_say_on_whose_behalf_they_ran(warehouse: SnowflakeWarehouse):
    warehouse.transact(lambda tx: suppress(tx, "C1"))

    history = warehouse.query("SELECT query_text, query_tag FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY())").to_pylist()
    told = [row for row in history if row["query_text"].startswith(("INSERT INTO suppressions", "COMMIT"))]
    tags = {row["query_text"].split()[0]: row["query_tag"] for row in told}
    assert tags == {"INSERT": '{"run": "r1"}', "COMMIT": '{"run": "r1"}'}


def test_a_reader_is_refused_all_that_writes(tables: Settings):
    reader = SnowflakeWarehouse(tables, read_only=True)

    for sql in (
        "DELETE FROM suppressions",
        "/* SELECT */ UPDATE suppressions SET note = 'x'",
        "CALL process_alerts()",
        "-- SELECT\nDROP TABLE suppressions",
        "SELECT SYSTEM$ABORT_TRANSACTION(1)",
        "ALTER TASK task_generate_emails RESUME",
        "",
    ):
        with pytest.raises(ReadOnlyError):
            reader.query(sql)
    assert reader.query("/* a note */ SELECT 1 AS one")["one"].to_pylist() == [1]


def test_columns_are_described(warehouse: SnowflakeWarehouse):
    found = {column.name: column.type.split("(")[0] for column in warehouse.columns("suppressions")}

    assert found["customer_id"] == "VARCHAR"
    assert found["suppressed_until"] == "DATE"


def test_without_tables_the_next_step_is_said(account: Settings):
    with pytest.raises(SnowflakeError, match="churn deploy --target snowflake"):
        SnowflakeWarehouse(account).deploy()


def test_models_come_back_as_they_were_stored(warehouse: SnowflakeWarehouse):
    warehouse.store_model("abc.model", b"\x00model")

    assert warehouse.read_model("abc.model") == b"\x00model"
    with pytest.raises(ModelFileError, match=r"no\.model"):
        warehouse.read_model("no.model")


def test_maintenance_removes_what_killed_writers_left_and_nothing_younger(warehouse: SnowflakeWarehouse):
    def stop(tx: Transaction) -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        assert warehouse.maintain({}, now).files_deleted == 0
        assert warehouse.query("LIST @landing").num_rows == 1
        assert warehouse.maintain({}, now + timedelta(days=2)).files_deleted == 1

    warehouse.transact(stop, {"staged_rows": ROWS})
