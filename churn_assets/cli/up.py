"""`churn up`: run Dagster for your own bank, and start its processes again when they die.

Here belong Dagster's processes and its home. What the demo adds to them is in `demo`.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from churn_assets.cli.logs import rotate
from churn_assets.cli.ports import must_be_free
from churn_assets.cli.stop import StopSignal
from churn_assets.cli.supervision import Supervised, supervised
from churn_assets.project_files import PROJECT_FILES
from churn_assets.settings import Settings

LOOK_SECONDS = 0.5  # between two looks at the processes
LOAD_SECONDS = 60.0  # for the code server to load the definitions before the others are started all the same
DEFINITIONS = "churn_assets.definitions"  # also the name of the code location


def run_up(settings: Settings, *, host: str, port: int, prints_logs: bool, say: Callable[[str], None]) -> None:
    """Run Dagster until Ctrl-C or SIGTERM. Its home is DAGSTER_HOME if that is set, otherwise in CHURN_HOME.

    With `prints_logs`, as a container should, what its processes write goes to this one's output instead of files.
    """
    must_be_free(port, "--port")
    stop = StopSignal()
    home = Path(os.environ.get("DAGSTER_HOME") or settings.dagster_home).absolute()
    if not (home / "dagster.yaml").exists():
        prepare_dagster_home(home)
    os.environ["DAGSTER_HOME"] = str(home)
    with ExitStack() as stack:
        processes = start_dagster(stack, settings, {}, host, port, prints_logs=prints_logs)
        where = "" if prints_logs else f"\nlogs       {logs(settings)}"
        say(f"Dagster    http://{host}:{port}{where}\nCtrl-C stops it")
        while not stop.wait(LOOK_SECONDS):
            look_after(processes, say)
            rotate(logs(settings))
        say("stopping; runs under way have half a minute to end")
    say("stopped")


def start_dagster(
    stack: ExitStack,
    settings: Settings,
    environment: dict[str, str],
    host: str,
    port: int,
    *,
    prints_logs: bool = False,
) -> list[Supervised]:
    """Run code server, daemon and web server until the stack unwinds.

    Not `dagster dev`: it does not notice that its code server is dead.
    """
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="churn-")))
    # A socket instead of a port, as nobody else on this machine should reach it. It stays the same when the server is started
    # again, so the daemon and the web server find it by themselves.
    socket, workspace = folder / "code_server", folder / "workspace.yaml"
    workspace.write_text(
        json.dumps({"load_from": [{"grpc_server": {"socket": str(socket), "location_name": DEFINITIONS}}]})
    )
    python = [sys.executable, "-m"]
    code_server = ["dagster", "api", "grpc", "-m", DEFINITIONS, "--empty-working-directory", "--socket", str(socket)]
    commands = {
        "code server": [*python, *code_server],
        "daemon": [*python, "dagster._daemon", "run", "-w", str(workspace), "--log-level", "warning"],
        "webserver": [*python, "dagster_webserver", "-w", str(workspace), "-h", host, "-p", str(port)],
    }
    form = ["--log-format", "json"] if settings.log_format == "json" else []
    processes: list[Supervised] = []
    for name, command in commands.items():
        processes.append(run(stack, settings, environment, name, [*command, *form], prints_log=prints_logs))
        if name == "code server":
            # The others would complain until it answers, and take the processor from it.
            end = time.monotonic() + LOAD_SECONDS
            while processes[0].is_running and not socket.exists() and time.monotonic() < end:
                time.sleep(0.1)
    return processes


def run(
    stack: ExitStack,
    settings: Settings,
    environment: dict[str, str],
    name: str,
    command: list[str],
    *,
    prints_log: bool = False,
) -> Supervised:
    """Run a command until the stack unwinds."""
    logs(settings).mkdir(parents=True, exist_ok=True)
    common = {
        "CHURN_HOME": str(settings.home.absolute()),
        "PYTHONUNBUFFERED": "1",
        # Of the C library: otherwise each of a server's many threads keeps freed memory of its own.
        "MALLOC_ARENA_MAX": "2",
    }
    log = None if prints_log else logs(settings) / f"{name.replace(' ', '_')}.log"
    return stack.enter_context(supervised(name, command, os.environ | common | environment, log))


def look_after(processes: Iterable[Supervised], say: Callable[[str], None]) -> None:
    """Start again what has ended, and say so."""
    for process in processes:
        if news := process.look():
            say(f"{now()}  {news}")


def prepare_dagster_home(home: Path) -> None:
    """Make the folder, with our `dagster.yaml`."""
    home.mkdir(parents=True, exist_ok=True)
    # Copy without the mode: a copy from a read-only site-packages would be read-only, and the next start would fail.
    shutil.copyfile(PROJECT_FILES / "dagster.yaml", home / "dagster.yaml")


def logs(settings: Settings) -> Path:
    """The folder of the processes' logs."""
    return settings.home.absolute() / "logs"


def now() -> str:
    """The time (UTC) at the start of a line."""
    return time.strftime("%H:%M:%SZ", time.gmtime())
