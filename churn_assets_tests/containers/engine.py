"""A Docker engine for the tests, and the images that docker-compose.yml names. What is tried in containers is in the tests.

An engine that runs already is used; otherwise this starts one, which needs root, and ends it. Images come from their registry.
Where none can be reached, stand-ins with the same names are made of Debian's packages, with the names, users, folders and
environment that the upstream images document.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from churn_assets_tests.repository import REPOSITORY

_IMAGES = Path(__file__).with_name("images")
_DEBIAN = "churn-test/debian"
_PACKAGES = "ca-certificates,python3,python3-venv,python3-pip"
_START_SECONDS = 60.0
_LABEL = "churn.stands-in"


class NoEngineError(Exception):
    """No engine runs and none can be started; the message says what is missing."""


class Engine:
    """A running engine: one that was there, or one of ours that ends with the tests."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if docker("info", check=False).returncode == 0:
            return
        if os.geteuid() != 0 or not shutil.which("dockerd"):
            raise NoEngineError("no Docker engine runs; start one, or become root and run `.ci/install docker`")
        self._start()

    @property
    def is_ours(self) -> bool:
        """Whether it may be ended."""
        return self._process is not None

    def end(self) -> None:
        """End it, if it is ours."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def restart(self) -> None:
        """End it and start it again; only one of ours."""
        assert self.is_ours
        self.end()
        self._start()

    def _start(self) -> None:
        log = Path(tempfile.gettempdir()) / "churn-dockerd.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(["dockerd"], stdout=output, stderr=output)
        end = time.monotonic() + _START_SECONDS
        while docker("info", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end:
                raise NoEngineError(f"dockerd did not start\n{log.read_text()[-2000:]}")
            time.sleep(0.2)


def docker(*arguments: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run docker; an error shows what it said."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0 or not check, (
        f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done


def have_image(name: str) -> None:
    """Let the engine have an image: from its registry, or a stand-in for it."""
    kind = name.rpartition("/")[2].partition(":")[0]
    digest = hashlib.sha256((_IMAGES / f"{kind}.Dockerfile").read_bytes()).hexdigest()
    found = docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{_LABEL}"}}}}', name, check=False)
    if found.returncode == 0 and found.stdout.strip() in {"", digest}:  # upstream's, or ours and not an older one
        return
    if docker("pull", "--quiet", name, check=False).returncode == 0:
        return
    _have_debian()
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copy(_IMAGES / f"{kind}.Dockerfile", context / "Dockerfile")
        if kind == "kafka":
            shutil.copytree(REPOSITORY / ".tools/kafka", context / "libs")
        docker("build", "--quiet", "--tag", name, "--label", f"{_LABEL}={digest}", folder)


def _have_debian() -> None:
    if docker("image", "inspect", _DEBIAN, check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/debian.tar"
        sources = [
            str(path)
            for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.sources"))
        ]
        present = [path for path in sources if Path(path).exists()]
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", archive, *present],
            check=True,
        )
        docker("import", archive, _DEBIAN)


def company_certificates() -> str:
    """The certificates in PEM that this machine trusts beside Debian's, as a company's machine would; mostly none."""
    return "\n".join(path.read_text() for path in sorted(Path("/usr/local/share/ca-certificates").glob("*.crt")))
