"""The files of the app, as the deployment puts them on the stage DASHBOARD_FILES before it creates the Streamlit app."""

from pathlib import Path

APP_STAGE = "dashboard_files"  # in the serving schema
APP_FOLDER = "app"  # on that stage
APP_FILE = "app.py"
_FILES = (APP_FILE, "environment.yml")


def app_files() -> dict[str, bytes]:
    """Content by name within APP_FOLDER; to be put uncompressed, over what is there."""
    return {name: Path(__file__).with_name(name).read_bytes() for name in _FILES}
