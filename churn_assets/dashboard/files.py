"""The files of the app, which the deployment uploads to the stage DASHBOARD_FILES before it creates the Streamlit app."""

from pathlib import Path

from churn_assets.configuration import packed
from churn_assets.model.artefact import zipped
from churn_assets.project_files import contents, modules_behind

APP_STAGE = "dashboard_files"  # in the serving schema
APP_FOLDER = "app"  # on that stage
APP_FILE = "streamlit_app.py"
ENVIRONMENT_FILE = "environment.yml"
CODE_FILE = "churn_assets.zip"
_HERE = Path(__file__).parent
_DATA = ("*.yaml", "*.csv", "*.txt")  # files that modules read from their own folders


def app_files() -> dict[str, bytes]:
    """The content by name within APP_FOLDER; to be uploaded uncompressed, overwriting older files."""
    return {
        APP_FILE: (_HERE / APP_FILE).read_bytes(),
        ENVIRONMENT_FILE: (_HERE / ENVIRONMENT_FILE).read_bytes(),
        CODE_FILE: _code(),
    }


def _code() -> bytes:
    """A zip of the modules that the app may import, their data files and the bank's rules; the same ones give the same bytes."""
    modules = modules_behind("churn_assets.dashboard.app")
    data = [file for folder in {module.parent for module in modules} for kind in _DATA for file in folder.glob(kind)]
    return zipped(contents([*modules, *data]) | packed())
