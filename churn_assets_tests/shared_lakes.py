"""PostgreSQL and an S3 server for the tests of a shared lake, and a new lake on them for each test.

PostgreSQL is the machine's (`.ci/install lake`). The S3 server is moto, in a process of its own, or what AWS_ENDPOINT_URL names.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg2
from botocore.exceptions import BotoCoreError
from pydantic import SecretStr

from churn_assets.warehouse.lake_place import LakePlace
from churn_assets_tests.ports import free_port

BUCKET = "lakes"
_PASSWORD = "only-for-tests"
_S3 = """
import sys, threading
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False).start()
threading.Event().wait()
"""
_START_SECONDS = 60.0


class Postgres:
    """A PostgreSQL server of its own."""

    def __init__(self, folder: Path) -> None:
        self._programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self._folder = folder / "postgres"
        self._folder.mkdir()
        self.port = free_port()
        if os.geteuid() == 0:  # as which it does not run
            for path in (self._folder, *self._folder.parents[:-2]):
                path.chmod(path.stat().st_mode | 0o711)
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        password = self._folder / "password"
        password.write_text(_PASSWORD)
        self._run(
            "initdb", "--auth=scram-sha-256", f"--pwfile={password}", "--username=churn", "--no-sync", "-D", self._data
        )
        self.start()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def url(self, database: str, port: int | None = None) -> SecretStr:
        """The address of a database, perhaps over a line that begins at another port."""
        return SecretStr(f"postgresql://churn:{_PASSWORD}@127.0.0.1:{port or self.port}/{database}")

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c fsync=off -c listen_addresses=127.0.0.1 -c max_connections=200"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", how, "-w", "stop")

    def ask(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        connection = psycopg2.connect(self.url(database).get_secret_value())
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_user, str(self._programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
        )


@dataclass(frozen=True)
class SharedLake:
    """A lake on the servers."""

    name: str
    catalog: SecretStr
    data: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name it."""
        return {"CHURN_LAKE_CATALOG": self.catalog.get_secret_value(), "CHURN_LAKE_DATA": self.data}

    def place(self, scratch: Path) -> LakePlace:
        """Where it is, for a host with such a folder."""
        return LakePlace.shared(self.catalog, self.data, scratch)


class SharedLakes:
    """Servers, and lakes on them."""

    def __init__(self, folder: Path) -> None:
        self.postgres = Postgres(folder)
        self._numbers = itertools.count()
        self._port = free_port()
        self._s3: subprocess.Popen[bytes] | None = None
        self.server = os.environ.get("AWS_ENDPOINT_URL", "")
        if not self.server:
            self.server = f"http://127.0.0.1:{self._port}"
            self._begin_s3()
        self.bucket = boto3.resource("s3", **self._client()).create_bucket(Bucket=BUCKET)

    def _begin_s3(self) -> None:
        self._s3 = subprocess.Popen([sys.executable, "-c", _S3, str(self._port)], stdout=subprocess.DEVNULL)
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            try:
                boto3.client("s3", **self._client()).list_buckets()
            except BotoCoreError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("the S3 server does not answer")

    def stop_s3(self) -> None:
        """Let the S3 server answer nobody. It does not end, because it keeps all in memory."""
        assert self._s3
        self._s3.send_signal(signal.SIGSTOP)

    def start_s3(self) -> None:
        assert self._s3
        self._s3.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End both."""
        self.postgres.stop()
        if self._s3 is not None:
            self._s3.kill()
            self._s3.wait()

    def _client(self) -> dict[str, str]:
        keys = self.keys
        return {
            "endpoint_url": self.server,
            "region_name": keys["AWS_REGION"],
            "aws_access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
        }

    @property
    def keys(self) -> dict[str, str]:
        """The variables with which every program finds the S3 server."""
        return {
            "AWS_ENDPOINT_URL": self.server,
            "AWS_REGION": os.environ.get("AWS_REGION", "us-east-1"),
            "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
            "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "only-for-tests"),
        }

    def empty(self, name: str) -> SharedLake:
        """A lake that is not there yet."""
        self.postgres.ask(f'CREATE DATABASE "{name}"')
        return SharedLake(name, self.postgres.url(name), f"s3://{BUCKET}/{name}")

    def copy(self, template: str) -> SharedLake:
        """A new lake that is like another one, which nobody has open."""
        name = f"{template}_{next(self._numbers)}"
        self.postgres.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'")
        self.postgres.ask(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        folder = f"s3://{BUCKET}/{name}/data/"
        self.postgres.ask(f"UPDATE ducklake_metadata SET value = '{folder}' WHERE key = 'data_path'", name)
        for found in self.bucket.objects.filter(Prefix=f"{template}/"):
            self.bucket.copy({"Bucket": BUCKET, "Key": found.key}, found.key.replace(template, name, 1))
        return SharedLake(name, self.postgres.url(name), f"s3://{BUCKET}/{name}")


@contextmanager
def shared_lakes() -> Iterator[SharedLakes]:
    """The servers, until the end."""
    folder = Path(tempfile.mkdtemp(prefix="churn-shared-"))
    lakes = SharedLakes(folder)
    try:
        yield lakes
    finally:
        lakes.stop()
        shutil.rmtree(folder, ignore_errors=True)
