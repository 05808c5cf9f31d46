"""Backups are whole whatever happens meanwhile, and come back as they were."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from churn_assets.cli.app import run_command
from churn_assets.clock import utc_now
from churn_assets.folder import Folder
from churn_assets.operations.backup import BackupError, back_up, restore
from churn_assets.settings import Settings, load_settings
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Transaction
from churn_assets.warehouse.shelf import RESTORED
from churn_assets_tests.warehouse.processes import heard_from, killed, process

IN_A_FILE = 2_000  # rows, more than the catalog keeps itself


def quiet(_: str) -> None:
    pass


def add(tx: Transaction) -> None:
    """One more batch, of which the counter knows."""
    tx.execute("UPDATE counter SET batches = batches + 1")
    tx.execute(f"INSERT INTO numbers SELECT batches, range FROM counter, range({IN_A_FILE})")


def batches(lake: LakeWarehouse) -> tuple[int, int]:
    """How many batches the counter says, and how many are there."""
    rows = lake.query(
        "SELECT (SELECT batches FROM counter) AS said, (SELECT count(*) FROM numbers) AS rows"
    ).to_pylist()
    return rows[0]["said"], rows[0]["rows"] // IN_A_FILE


@pytest.fixture
def home() -> Settings:
    """The settings of a home with a lake of one batch, a model and a mark."""
    settings = load_settings()
    lake = LakeWarehouse(settings.lake_path)
    lake.transact(lambda tx: tx.execute("CREATE TABLE counter (batches BIGINT)"))
    lake.transact(lambda tx: tx.execute("CREATE TABLE numbers (batch BIGINT, number BIGINT)"))
    lake.transact(lambda tx: tx.execute("INSERT INTO counter VALUES (0)"))
    lake.transact(add)
    lake.store_model("one.model", b"a model")
    settings.emails_path.mkdir()
    (settings.emails_path / "left.ndjson").write_text("{}\n")
    return settings


@pytest.fixture
def another_home(tmp_path: Path) -> Settings:
    return load_settings(CHURN_HOME=tmp_path / "another_home")


def in_backup(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_a_backup_comes_back_as_it_was_and_the_next_one_copies_what_is_new(
    home: Settings, another_home: Settings, tmp_path: Path
):
    to, lake = str(tmp_path / "backup"), LakeWarehouse(home.lake_path)
    first = back_up(home, to, utc_now(), quiet)
    lake.transact(add)
    second = back_up(home, to, utc_now(), quiet)
    lake.transact(add)  # of which the backup knows nothing

    assert (first.copied, first.known) == (2, 0)
    assert (second.copied, second.known) == (1, 2)
    restored = restore(another_home, to, quiet)

    assert restored.copied == 3
    lake = LakeWarehouse(another_home.lake_path)
    assert batches(lake) == (2, 2)
    assert lake.read_model("one.model") == b"a model"
    assert (another_home.emails_path / "left.ndjson").read_text() == "{}\n"
    lake.transact(add)
    assert batches(lake) == (3, 3)


def test_what_no_snapshot_needs_any_more_leaves_the_backup(home: Settings, another_home: Settings, tmp_path: Path):
    to, lake = tmp_path / "backup", LakeWarehouse(home.lake_path)
    lake.transact(lambda tx: [tx.execute(one) for one in ("CREATE TABLE dynamic_tables (name VARCHAR, position BIGINT,"
                  " base_position BIGINT)", "CREATE TABLE streams (name VARCHAR, position BIGINT)")])  # fmt: skip
    lake.transact(add)
    back_up(home, str(to), utc_now(), quiet)
    before = in_backup(to)
    lake.transact(lambda tx: tx.execute("DELETE FROM numbers WHERE batch = 1"))
    lake.forget_history(lambda: None)

    back_up(home, str(to), utc_now() + timedelta(seconds=1), quiet)

    assert len({file for file in before - in_backup(to) if file.endswith(".parquet")}) >= 1
    assert len([file for file in in_backup(to) if "catalog" in file]) == 1
    restore(another_home, str(to), quiet)
    assert batches(LakeWarehouse(another_home.lake_path)) == (2, 1)


def _add_until_killed(connection: Connection, path: Path) -> None:
    lake = LakeWarehouse(path)
    connection.send("ready")
    for count in range(1_000_000):
        lake.transact(add)
        if count % 5 == 4:
            lake.transact(lambda tx: tx.rows("CALL ducklake_merge_adjacent_files('lake', 'numbers')"))


@pytest.mark.slow
def test_a_backup_is_one_state_of_the_lake_while_another_process_writes_and_merges(home: Settings, tmp_path: Path):
    to, seen = str(tmp_path / "backup"), []
    with process(_add_until_killed, home.lake_path) as (_, connection):
        assert heard_from(connection) == "ready"
        for number in range(6):
            time.sleep(0.5)
            back_up(home, to, utc_now(), quiet)
            there = load_settings(CHURN_HOME=tmp_path / f"home_{number}")
            restore(there, to, quiet)
            said, found = batches(LakeWarehouse(there.lake_path))
            assert said == found
            seen.append(said)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def _back_up_until(connection: Connection, home: Settings, to: str, name: str) -> None:
    write = Folder.write

    def stop(place: Folder, file: str, source: object) -> None:
        if name in file:
            connection.send("there")
            connection.recv()
        write(place, file, source)  # type: ignore[arg-type]

    Folder.write = stop  # type: ignore[method-assign]
    back_up(home, to, utc_now(), quiet)


@pytest.mark.parametrize("name", [".parquet", "catalog-", "backup.json"])
def test_a_backup_that_is_killed_leaves_the_one_before_and_the_next_one_is_whole(
    name: str, home: Settings, another_home: Settings, tmp_path: Path
):
    to = str(tmp_path / "backup")
    back_up(home, to, utc_now(), quiet)
    LakeWarehouse(home.lake_path).transact(add)
    with process(_back_up_until, home, to, name) as (child, connection):
        assert heard_from(connection) == "there"
        killed(child)

    restore(another_home, to, quiet)
    assert batches(LakeWarehouse(another_home.lake_path)) == (1, 1)
    back_up(home, to, utc_now(), quiet)
    shutil.rmtree(another_home.home)
    restore(another_home, to, quiet)
    assert batches(LakeWarehouse(another_home.lake_path)) == (2, 2)
    assert len([file for file in in_backup(Path(to)) if "catalog" in file]) == 1


def test_a_restore_that_was_interrupted_goes_on(
    home: Settings, another_home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    to = str(tmp_path / "backup")
    back_up(home, to, utc_now(), quiet)
    write = Folder.write

    def fail_at_the_catalog(place: Folder, name: str, source: object) -> None:
        if name.endswith("catalog.sqlite"):
            raise KeyboardInterrupt
        write(place, name, source)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", fail_at_the_catalog)
        with pytest.raises(KeyboardInterrupt):
            restore(another_home, to, quiet)

    assert restore(another_home, to, quiet).copied == 0
    assert batches(LakeWarehouse(another_home.lake_path)) == (1, 1)


def test_a_lake_that_is_there_is_never_written_over(home: Settings, tmp_path: Path):
    to, lake = str(tmp_path / "backup"), LakeWarehouse(home.lake_path)
    back_up(home, to, utc_now(), quiet)
    lake.transact(add)

    with pytest.raises(BackupError, match=r"there is a lake in .* move that folder away"):
        restore(home, to, quiet)
    with pytest.raises(BackupError, match="is a home with a lake of its own"):
        back_up(home, str(home.home), utc_now(), quiet)

    assert batches(LakeWarehouse(home.lake_path)) == (2, 2)


def test_the_marks_of_a_home_that_lost_its_lake_stay_because_they_are_newer(home: Settings, tmp_path: Path):
    to = str(tmp_path / "backup")
    back_up(home, to, utc_now(), quiet)
    (home.emails_path / "left.ndjson").write_text("{}\n{}\n")
    shutil.rmtree(home.lake_path)

    restore(home, to, quiet)

    assert (home.emails_path / "left.ndjson").read_text() == "{}\n{}\n"


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_damaged_lake_is_said_and_does_not_touch_the_backup(
    damage: str, home: Settings, another_home: Settings, tmp_path: Path
):
    to, lake = str(tmp_path / "backup"), LakeWarehouse(home.lake_path)
    back_up(home, to, utc_now(), quiet)
    known = set(home.lake_path.rglob("*.parquet"))
    lake.transact(add)
    [file] = set(home.lake_path.rglob("*.parquet")) - known
    if damage == "gone":
        file.unlink()
    else:
        os.truncate(file, 100)

    with pytest.raises(BackupError, match=rf"the lake is damaged: .*{file.name}"):
        back_up(home, to, utc_now(), quiet)

    restore(another_home, to, quiet)
    assert batches(LakeWarehouse(another_home.lake_path)) == (1, 1)


def test_what_is_no_backup_or_no_lake_is_said(another_home: Settings, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")

    with pytest.raises(BackupError, match=r"there is no backup in .*mine"):
        restore(another_home, str(tmp_path / "mine"), quiet)
    with pytest.raises(BackupError, match="there is no lake in"):
        back_up(another_home, str(tmp_path / "mine"), utc_now(), quiet)
    assert in_backup(tmp_path / "mine") == {"letter.txt"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on this machine."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="backups")
        yield "backups"
    finally:
        server.stop()


@pytest.mark.slow
def test_a_backup_in_s3_is_like_one_in_a_folder(
    home: Settings, another_home: Settings, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    to = f"s3://{bucket}/bank/lake"
    assert run_command(["backup", to]) == 0
    LakeWarehouse(home.lake_path).transact(add)
    assert run_command(["backup", to]) == 0
    assert "1 files copied" in capsys.readouterr().out.splitlines()[-1]
    assert run_command(["backup", "s3://nothing/here"]) == 1
    assert "s3://nothing/here cannot be used" in capsys.readouterr().err

    monkeypatch.setenv("CHURN_HOME", str(another_home.home))
    assert run_command(["restore", to]) == 0

    assert batches(LakeWarehouse(another_home.lake_path)) == (2, 2)
    assert "restored from a backup" in json.loads((another_home.emails_path / RESTORED).read_text())["evidence"]
    keys = [one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert len([key for key in keys if "catalog" in key]) == 1
