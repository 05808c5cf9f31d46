"""TRAIN_CHURN_MODEL, PREDICT_CHURN and CHURN_REASONS as objects of a Snowflake schema, and the code that they run.

It was written from the documentation and has not run in a live account. Their code is in `snowflake_training` and
`snowflake_scoring`.
https://docs.snowflake.com/en/sql-reference/sql/create-function
https://docs.snowflake.com/en/developer-guide/udf/python/udf-python-packages
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from churn_assets.configuration import packed
from churn_assets.model.artefact import digest, zipped
from churn_assets.model.by_digest import PREDICT, REASONS
from churn_assets.project_files import contents, modules_behind
from churn_assets.rules import FEATURES

REPOSITORY = "snowflake.snowpark.pypi_shared_repository"  # PyPI, so that the same versions exist as here
SCORING_PACKAGES = ("numpy", "onnx", "pandas", "pydantic", "python-dotenv", "snowflake-snowpark-python")
TRAINING_PACKAGES = (*SCORING_PACKAGES, "pyarrow", "scikit-learn", "sqlglot", "threadpoolctl")
_SCORING, _TRAINING = "churn_assets.model.snowflake_scoring", "churn_assets.model.snowflake_training"


def statements(schema: str, code: bytes) -> list[str]:
    """The statements that create the stage and, once the code is on it, the procedure and the functions.

    An existing function is not replaced, because a dynamic table that calls it would fail at its next incremental refresh. To
    give it new code, drop it, deploy, recreate the predictions with `dbt run --full-refresh`, and then their stream. A new
    model needs none of this. The stage is encrypted by the server, which functions require for files that they open.
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
    """The statement that puts the code on the stage, from its file in a local folder; it may already be on the stage."""
    place, _, name = _place(schema, code).rpartition("/")
    return f"PUT 'file://{folder}{name}' {place} AUTO_COMPRESS = FALSE"


def package_zip(modules: Sequence[str] = (_SCORING, _TRAINING)) -> bytes:
    """These modules, everything they import and the bank's rules, as a zip; the same code and rules give the same bytes."""
    return zipped(contents(modules_behind(*modules)) | packed())


def imports(schema: str, code: bytes) -> str:
    """The clause of a function or procedure that names its code on the stage."""
    return f"IMPORTS = ('{_place(schema, code)}')"


def _place(schema: str, code: bytes) -> str:
    # Named by its content, so that a function keeps the code that it was created with.
    return f"@{schema}.churn_models/churn_assets-{digest(code)[:12]}.zip"


def packages(names: Sequence[str]) -> str:
    """The clauses of a function or procedure that name its runtime and packages.

    The versions are those of this process: uv.lock holds some packages in several versions, for different Python versions.
    """
    runtime = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = ", ".join(f"'{name}=={version(name)}'" for name in names)
    return f"RUNTIME_VERSION = '{runtime}' ARTIFACT_REPOSITORY = {REPOSITORY} PACKAGES = ({pinned})"
