"""An Apicurio Registry for tests: Confluent's API, on loopback, everything in memory."""

import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from churn_assets_tests.ports import free_port

START_SECONDS = 60.0


@contextmanager
def apicurio(libraries: Path, directory: Path) -> Iterator[str]:
    """The address of a registry's API while the context lasts. Its archive is in `libraries`, `directory` is its own."""
    (archive,) = libraries.glob("apicurio-registry-app-*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(directory, filter="data")
    (program,) = directory.glob("*-runner.jar")
    port = free_port()
    settings = [f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    log = directory / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["java", "-Xmx512m", *settings, "-jar", str(program)], cwd=directory, stdout=output, stderr=output
        )
    try:
        address = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        _wait(address, process, log)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with suppress(URLError, ConnectionError), urlopen(f"{address}/subjects", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the registry did not start: {log.read_text()[-3000:]}")
