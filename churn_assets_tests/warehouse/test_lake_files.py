"""Damage to the lake's files is found: by sizes at once, by checksums in each bit, and nothing sound is called damaged."""

import random
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from churn_assets.clock import utc_now
from churn_assets.dynamic_tables.definitions import schema_script
from churn_assets.warehouse import catalog_file, lake_files
from churn_assets.warehouse.lake import LakeWarehouse

ROWS = 2_000


pytestmark = pytest.mark.in_home


@pytest.fixture
def lake(tmp_path: Path) -> LakeWarehouse:
    """Three files of one table, and one of deletions."""
    lake = LakeWarehouse(tmp_path / "lake")

    def create(tx) -> None:
        for statement in duckdb.extract_statements(schema_script()):
            tx.execute(statement.query)
        tx.execute("CREATE TABLE events (id BIGINT, said VARCHAR)")

    lake.transact(create)
    for batch in range(3):
        lake.transact(
            lambda tx, batch=batch: tx.execute(
                f"INSERT INTO events SELECT i, md5(i::VARCHAR) FROM range({batch * ROWS}, {(batch + 1) * ROWS}) AS n (i)"
            )
        )
    lake.transact(lambda tx: tx.execute(f"DELETE FROM events WHERE id < {ROWS // 2}"))
    return lake


@pytest.fixture
def files(lake: LakeWarehouse, tmp_path: Path) -> list[Path]:
    _ = lake
    found = sorted((tmp_path / "lake" / "data").rglob("*.parquet"))
    assert len(found) == 4
    return found


@pytest.fixture
def without_sqlites_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a process each time."""
    monkeypatch.setattr(catalog_file, "problem", lambda catalog: None)


def problems(lake: LakeWarehouse) -> dict[str, str]:
    return {Path(one.file).name: one.problem for one in lake.damage()}


def test_a_missing_and_a_truncated_file_are_seen_at_once_and_named_with_their_table(
    lake: LakeWarehouse, files: list[Path]
):
    assert lake.damage() == []
    size = files[1].stat().st_size
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])

    assert problems(lake) == {
        files[0].name: "is missing",
        files[1].name: f"has {size - 1:,} bytes, and {size:,} were written",
    }
    assert {(one.table, one.file.partition("/")[0]) for one in lake.damage()} == {("events", "main")}


@pytest.mark.usefixtures("without_sqlites_check")
def test_one_bit_is_found_in_each_of_200_places_and_is_no_longer_told_once_the_file_is_restored(
    lake: LakeWarehouse, files: list[Path]
):
    listed, place = lake._live_files(), lake.place
    lake_files.check(place, lambda: listed, 1.0, utc_now())
    chance = random.Random(23)
    for _ in range(200):
        file = chance.choice(files)
        whole = file.read_bytes()
        bit = chance.randrange(len(whole) * 8)
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)

        found = lake_files.check(place, lambda: listed, 1.0, utc_now()).damage

        assert [Path(one.file).name for one in found] == [file.name], f"bit {bit} of {file.name}"
        assert lake_files.known_damage(place, lambda: listed) == found, "it stays known"
        file.write_bytes(whole)
    assert lake.check_files(1.0, utc_now()).damage == lake.damage() == []


@pytest.mark.usefixtures("without_sqlites_check")
def test_what_is_damaged_is_looked_at_again_first_and_all_else_in_turn(lake: LakeWarehouse, files: list[Path]):
    now = utc_now()
    first = lake.check_files(0.0, now)
    assert (first.files, first.read, first.new) == (4, 4, 4), "a checksum is taken of each file that has none"
    read: list[int] = [lake.check_files(1 / 4, now + timedelta(days=day)).read for day in range(1, 5)]
    assert sum(read) >= 4
    with sqlite3.connect(files[0].parents[3] / "checksums.sqlite") as store:
        assert min(store.execute("SELECT checked_at FROM checksums"))[0] > now.isoformat(), "each was read again"

    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    lake.check_files(1.0, now + timedelta(days=5))
    files[2].write_bytes(whole)
    assert problems(lake)

    assert lake.check_files(0.0001, now + timedelta(days=6)).read == 1
    assert not problems(lake)


def test_files_that_maintenance_gives_up_are_not_called_missing(lake: LakeWarehouse):
    lake.check_files(1.0, utc_now())
    lake.maintain({}, utc_now() + timedelta(days=4))

    done = lake.check_files(1.0, utc_now())

    assert (done.files, done.damage) == (1, [])
    assert done.new == 1
    assert lake.query("SELECT count(*) AS n FROM events")["n"].to_pylist() == [3 * ROWS - ROWS // 2]


def test_a_file_that_only_time_travel_reads_is_no_damage(lake: LakeWarehouse, files: list[Path]):
    lake.transact(lambda tx: tx.execute("DELETE FROM events"))
    for file in files:
        file.unlink()

    assert lake.damage() == []


def test_a_broken_page_of_the_catalog_is_found_while_the_lake_is_open(lake: LakeWarehouse, tmp_path: Path):
    assert lake.check_files(1.0, utc_now()).damage == []
    catalog = tmp_path / "lake" / "catalog.sqlite"
    # In a process of its own, as anybody else would write to it.
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')"
    subprocess.run([sys.executable, "-c", script, str(catalog)], check=True)
    content = bytearray(catalog.read_bytes())
    content[4096 * 5 : 4096 * 5 + 100] = b"\xff" * 100
    catalog.write_bytes(content)

    assert "SQLite's check says" in (catalog_file.problem(catalog) or "")


def test_checksums_that_cannot_be_read_are_told_and_are_made_anew_once_they_are_deleted(
    lake: LakeWarehouse, tmp_path: Path
):
    lake.check_files(1.0, utc_now())
    store = tmp_path / "lake" / "checksums.sqlite"
    store.write_bytes(b"no database" * 100)

    assert set(problems(lake)) == {"checksums.sqlite"}
    assert [one.file for one in lake.check_files(1.0, utc_now()).damage] == ["checksums.sqlite"]
    store.unlink()
    assert lake.check_files(1.0, utc_now()).damage == []
