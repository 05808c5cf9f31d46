"""Serve the dashboard by Streamlit's server, on and for this machine only.

`python -m churn_assets.dashboard.serve PORT` serves it until it is stopped.
"""

import sys
from pathlib import Path

APP = Path(__file__).with_name("streamlit_app.py")


def command(port: int) -> list[str]:
    """The command that serves the dashboard on a port of 127.0.0.1 until it is stopped."""
    return [sys.executable, "-m", "churn_assets.dashboard.serve", str(port)]


def serve(port: int) -> None:
    """Serve the dashboard until the process ends."""
    # Imported now, so that the first visitor does not wait for them.
    import scipy.stats  # noqa: PLC0415, F401
    from streamlit.web import cli  # noqa: PLC0415

    import churn_assets.dashboard.app  # noqa: PLC0415, F401

    options = {
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.headless": "true",  # opens no browser and asks for no email address
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    cli.main(["run", str(APP), *(f"--{name}={value}" for name, value in options.items())])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
