import os
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance

from churn_assets_tests.dagster_warm.conftest import open_files, wait_until

pytestmark = pytest.mark.heavy

CONFIG = {
    "storage": {
        "custom": {
            "module": "dagster_warm.storage",
            "class": "OpenSqliteStorage",
            "config": {"base_dir": {"env": "STORAGE"}},
        }
    }
}
STORE = """
import sys, dagster as dg
asset = dg.AssetKey(sys.argv[2])
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    for number in range(20):
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata={"number": number}))
"""


def home(folder: Path, monkeypatch) -> str:
    monkeypatch.setenv("STORAGE", str(folder))
    (folder / "dagster.yaml").write_text(yaml.dump(CONFIG))
    return str(folder)


@pytest.mark.slow
def test_processes_that_open_a_storage_that_is_not_there_yet_write_to_it_at_once(tmp_path, monkeypatch):
    of = home(tmp_path, monkeypatch)
    names = [f"asset_{number}" for number in range(4)]
    writers = [subprocess.Popen([sys.executable, "-c", STORE, of, name]) for name in names]
    assert [writer.wait() for writer in writers] == [0] * 4
    with DagsterInstance.from_config(of) as instance:
        for name in names:
            found = instance.fetch_materializations(dg.AssetKey(name), limit=100).records
            assert [record.asset_materialization.metadata["number"].value for record in found] == [*reversed(range(20))]


def test_who_watches_a_run_hears_what_another_process_writes(tmp_path, monkeypatch):
    of = home(tmp_path, monkeypatch)
    heard, first = [], threading.Event()

    def hear(event, _cursor):
        heard.append(event.message)
        first.set()

    with DagsterInstance.from_config(of) as instance:
        instance.report_engine_event("begin", run_id="a-run", job_name="a_job")
        instance.watch_event_logs("a-run", None, hear)
        assert first.wait(30)
        script = (
            "import sys, dagster as dg\n"
            "with dg.DagsterInstance.from_config(sys.argv[1]) as instance:\n"
            "    instance.report_engine_event('from elsewhere', run_id='a-run', job_name='a_job')\n"
        )
        subprocess.run([sys.executable, "-c", script, of], check=True)
        wait_until(lambda: "from elsewhere" in heard)
        instance.end_watch_event_logs("a-run", hear)
    assert heard == ["begin", "from elsewhere"]


def test_opening_the_storage_again_and_again_opens_no_more_files(tmp_path, monkeypatch):
    of = home(tmp_path, monkeypatch)

    def look() -> int:
        with DagsterInstance.from_config(of) as instance:
            instance.get_runs(limit=1)
            instance.get_latest_materialization_event(dg.AssetKey("none"))
        return open_files(os.getpid())

    look()
    files = look()
    assert [look() for _ in range(20)] == [files] * 20
