"""`python -m churn_assets_tests.snowflake.emulator --port N`: serve an empty emulated account."""

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn

from churn_assets_tests.snowflake.emulator.account import Limits
from churn_assets_tests.snowflake.emulator.server import Emulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--lock-timeout", type=float, default=Limits.lock_timeout, help="seconds, where no session sets it"
    )
    parser.add_argument(
        "--idle", type=float, default=Limits.idle, help="seconds until a transaction that blocks another is rolled back"
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with whoever holds the other end")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snowflake-emulator-") as folder:
        if asked.until_stdin_closes:
            threading.Thread(target=_end_with_stdin, args=[folder], daemon=True).start()
        app = Emulator(Path(folder), Limits(asked.lock_timeout, asked.idle), asked.port).app()
        uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="warning")


def _end_with_stdin(folder: str) -> None:
    import shutil

    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


main()
