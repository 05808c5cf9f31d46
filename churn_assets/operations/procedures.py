"""The statements that create the procedures of Snowflake's own tasks, and the zip of their code.

Their code is `retention.snowflake_procedures`. Written from the documentation, never run on a live account.
"""

from collections.abc import Mapping, Sequence

from churn_assets.model.snowflake_functions import imports, package_zip, packages
from churn_assets.operations.statements import within_dollars
from churn_assets.retention.snowflake_procedures import PACKAGES
from churn_assets.retention.writing.prompts import PROMPTS_FILE
from churn_assets.warehouse.snowflake_names import Names

_MODULE = "churn_assets.retention.snowflake_procedures"
_CUSTOMER = ("full_name", "segment", "reason_codes")  # all that a writer gets to know


def code() -> bytes:
    """The modules that the procedures need, as a zip to import them from."""
    return package_zip([_MODULE])


def statements(names: Names, code: bytes) -> list[str]:
    """The statements that create the procedures. The code must be on the stage of the model's functions before.

    The limits, the model and marketing's wording are part of the procedure, so they change with a deployment and the tasks stay.
    """
    schema = f"{names.database}.{names.schema}"
    head = f"RETURNS VARCHAR LANGUAGE PYTHON {packages(PACKAGES)} {imports(schema, code)}"
    texts = {"model": names.writer_model, "marketing": PROMPTS_FILE.read_text(encoding="utf-8")}
    limits = {"emails_per_day": names.emails_per_day, "tokens_per_day": names.tokens_per_day}
    run, one = (
        _body("generate_retention_emails", (), texts | limits),
        _body("generate_retention_email", _CUSTOMER, texts),
    )
    columns = ", ".join(f"{name} VARCHAR" for name in _CUSTOMER)
    return [
        f"CREATE OR REPLACE PROCEDURE {schema}.generate_retention_emails() {head} HANDLER = 'handler' EXECUTE AS OWNER AS {run}",
        f"CREATE OR REPLACE PROCEDURE {schema}.generate_retention_email({columns}) {head} HANDLER = 'handler' EXECUTE AS OWNER"
        f" AS {one}",
        f"CREATE OR REPLACE PROCEDURE {schema}.process_alerts() {head} HANDLER = '{_MODULE}.process_alerts' EXECUTE AS OWNER",
    ]


def _body(function: str, parameters: Sequence[str], given: Mapping[str, object]) -> str:
    """A handler that calls a function of the module with the procedure's parameters and the deployment's values."""
    keywords = "".join(f"        {name}={value!r},\n" for name, value in given.items())
    taken = ", ".join(("session", *parameters))
    body = (
        f"from {_MODULE} import {function}\n\n\n"
        f"def handler({taken}):\n    return {function}(\n        {taken},\n{keywords}    )\n"
    )
    return f"$$\n{within_dollars(body)}$$"
