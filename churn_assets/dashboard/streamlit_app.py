"""The dashboard's main file, which Streamlit runs: on this machine from within the package, in Snowflake beside it.

In Snowflake the package is a zip (`churn deploy`) or a folder (the snow CLI) beside this file. The zip is unpacked, as modules
read files from their own folders.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
CODE = HERE / "churn_assets.zip"
if CODE.exists():
    UNPACKED = Path(tempfile.gettempdir()) / f"churn_assets-{CODE.stat().st_size}-{CODE.stat().st_mtime_ns}"
    with zipfile.ZipFile(CODE) as archive:
        archive.extractall(UNPACKED)
    sys.path.insert(0, str(UNPACKED))
elif (HERE / "churn_assets").is_dir():
    sys.path.insert(0, str(HERE))

from churn_assets.dashboard.app import main  # noqa: E402

main()
