"""Serve the dashboard by Streamlit's server, for this machine only unless an address says otherwise: it asks nobody who they are.

`python -m churn_assets.dashboard.serve PORT ADDRESS` serves it until it is stopped.
"""

import logging
import sys
from contextlib import suppress
from pathlib import Path

APP = Path(__file__).with_name("streamlit_app.py")


def command(port: int, address: str = "127.0.0.1") -> list[str]:
    """The command that serves the dashboard on a port until it is stopped."""
    return [sys.executable, "-m", "churn_assets.dashboard.serve", str(port), address]


def serve(port: int, address: str) -> None:
    """Serve the dashboard until the process ends."""
    # Imported now, so that the first visitor does not wait for them.
    import scipy.stats  # noqa: PLC0415, F401
    from streamlit.web import cli  # noqa: PLC0415

    # Streamlit would warn of each cache that is made before its server runs; they work all the same.
    of_caches = logging.getLogger("streamlit.runtime.caching.cache_data_api")
    of_caches.disabled = True
    import churn_assets.dashboard.app  # noqa: PLC0415, F401

    of_caches.disabled = False

    options = {
        "server.address": address,
        "server.port": str(port),
        "server.headless": "true",  # opens no browser and asks for no email address
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    cli.main(["run", str(APP), *(f"--{name}={value}" for name, value in options.items())])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends, also while it still imports
        serve(int(sys.argv[1]), sys.argv[2])
