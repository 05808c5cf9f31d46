"""The statements that create the procedures of Snowflake's own tasks, and the zip of their code.

Their code is `retention.snowflake_procedures`. Written from the documentation, never run on a live account.
"""

from churn_assets.model.snowflake_functions import imports, package_zip, packages
from churn_assets.operations.statements import within_dollars
from churn_assets.retention.snowflake_procedures import PACKAGES
from churn_assets.retention.writing.prompts import PROMPTS_FILE
from churn_assets.warehouse.snowflake_names import Names

_MODULE = "churn_assets.retention.snowflake_procedures"


def code() -> bytes:
    """The modules that the procedures need, as a zip to import them from."""
    return package_zip([_MODULE])


def statements(names: Names, code: bytes) -> list[str]:
    """The statements that create the procedures. The code must be on the stage of the model's functions before.

    The limits, the model and marketing's wording are part of the procedure, so they change with a deployment and the tasks stay.
    """
    schema = f"{names.database}.{names.schema}"
    head = f"RETURNS VARCHAR LANGUAGE PYTHON {packages(PACKAGES)} {imports(schema, code)}"
    arguments = {
        "model": names.writer_model,
        "emails_per_day": names.emails_per_day,
        "tokens_per_day": names.tokens_per_day,
        "marketing": PROMPTS_FILE.read_text(encoding="utf-8"),
    }
    given = "".join(f"        {name}={value!r},\n" for name, value in arguments.items())
    body = (
        f"from {_MODULE} import generate_retention_emails\n\n\n"
        f"def handler(session):\n    return generate_retention_emails(\n        session,\n{given}    )\n"
    )
    return [
        f"CREATE OR REPLACE PROCEDURE {schema}.generate_retention_emails() {head} HANDLER = 'handler' EXECUTE AS OWNER"
        f" AS $$\n{within_dollars(body)}$$",
        f"CREATE OR REPLACE PROCEDURE {schema}.process_alerts() {head} HANDLER = '{_MODULE}.process_alerts' EXECUTE AS OWNER",
    ]
