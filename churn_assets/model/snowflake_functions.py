"""TRAIN_CHURN_MODEL, PREDICT_CHURN and CHURN_REASONS as objects of a Snowflake schema, and the code that they run.

By documentation only: it has not met a live account. What runs in them is `snowflake_training` and `snowflake_scoring`.
https://docs.snowflake.com/en/sql-reference/sql/create-function
https://docs.snowflake.com/en/developer-guide/udf/python/udf-python-packages
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from churn_assets.model.artefact import digest, zipped
from churn_assets.model.by_digest import PREDICT, REASONS
from churn_assets.project_files import contents, modules_behind
from churn_assets.rules import FEATURES

REPOSITORY = "snowflake.snowpark.pypi_shared_repository"  # PyPI, so that there is what is here
SCORING_PACKAGES = ("numpy", "onnx", "pandas", "snowflake-snowpark-python")
TRAINING_PACKAGES = (*SCORING_PACKAGES, "pyarrow", "scikit-learn", "skl2onnx", "sqlglot")
_SCORING, _TRAINING = "churn_assets.model.snowflake_scoring", "churn_assets.model.snowflake_training"


def statements(schema: str, code: bytes) -> list[str]:
    """What creates the stage, and then, once the code is on it, the procedure and the functions.

    A function that exists is not replaced: a dynamic table that calls it would fail at its next incremental refresh. Where new
    code is wanted in it, drop it, deploy, create the predictions again with `dbt run --full-refresh`, and their stream after
    them. A new model needs none of this. The stage is encrypted by the server, as files that functions open must be.
    """
    columns = ", ".join(["digest VARCHAR", *(f"{name} FLOAT" for name in FEATURES)])
    return [
        f"CREATE STAGE IF NOT EXISTS {schema}.churn_models ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')",
        f"CREATE OR REPLACE PROCEDURE {schema}.train_churn_model() RETURNS VARCHAR LANGUAGE PYTHON {packages(TRAINING_PACKAGES)}"
        f" {imports(schema, code)} HANDLER = '{_TRAINING}.train_churn_model' EXECUTE AS OWNER",
        *(
            f"CREATE FUNCTION IF NOT EXISTS {schema}.{function}({columns}) RETURNS {type_} LANGUAGE PYTHON IMMUTABLE"
            f" {packages(SCORING_PACKAGES)} {imports(schema, code)} HANDLER = 'handler' AS $$\n"
            f"from {_SCORING} import {maker}\nhandler = {maker}('@{schema}.churn_models')\n$$"
            for function, type_, maker in ((PREDICT, "FLOAT", "predictor"), (REASONS, "VARCHAR", "explainer"))
        ),
    ]


def upload(schema: str, code: bytes, folder: str = "") -> str:
    """What puts the code on the stage, from the file of its name in a folder of this machine; it may be there already."""
    place, _, name = _place(schema, code).rpartition("/")
    return f"PUT 'file://{folder}{name}' {place} AUTO_COMPRESS = FALSE"


def package_zip(modules: Sequence[str] = (_SCORING, _TRAINING)) -> bytes:
    """These modules and all that they need, as a zip to import them from; the same code gives the same bytes."""
    return zipped(contents(modules_behind(*modules)))


def imports(schema: str, code: bytes) -> str:
    """What of a function or procedure names the code on the stage."""
    return f"IMPORTS = ('{_place(schema, code)}')"


def _place(schema: str, code: bytes) -> str:
    # By its content, so that a function keeps the code that it was created with.
    return f"@{schema}.churn_models/churn_assets-{digest(code)[:12]}.zip"


def packages(names: Sequence[str]) -> str:
    """What of a function or procedure names its runtime and packages.

    They are those of this process, so those of uv.lock; it has some in several versions, each for other versions of Python.
    """
    runtime = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = ", ".join(f"'{name}=={version(name)}'" for name in names)
    return f"RUNTIME_VERSION = '{runtime}' ARTIFACT_REPOSITORY = {REPOSITORY} PACKAGES = ({pinned})"
