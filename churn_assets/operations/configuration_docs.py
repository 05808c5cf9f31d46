"""`make config-docs`: write docs/configuration.md and docs/churn.schema.json from the models of `rules`.

A test compares both with the code.
"""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from churn_assets.configuration import SETTINGS
from churn_assets.project_files import PROJECT_FILES
from churn_assets.rules import RiskRule, Rules

MARKDOWN = PROJECT_FILES / "docs" / "configuration.md"
JSON_SCHEMA = PROJECT_FILES / "docs" / "churn.schema.json"

EXAMPLE = """\
[settings]
CHURN_SCORE_SOURCE = "model"

[codes]
money_out = ["CARD", "CASH", "DIRECT DEBIT"]
wire_out = ["TRANSFER"]
reversal = ["CHARGEBACK"]
money_in = ["SALARY", "DEPOSIT"]
account_open = ["OPEN", "DORMANT"]
account_closed = ["CLOSED", "Z"]

[labels]
churn = "silent"
days = 90

[risk]
high_from = 0.8

[[risk.rules]]
feature = "wire_out_30d"
operator = ">"
threshold = 20000
weight = 0.6
reason = "large wires out"

[[risk.rules]]
feature = "active_days_30d"
operator = "<"
threshold = 3
weight = 0.4
reason = "rarely active"
"""


def markdown() -> str:
    """The page for people."""
    sections = "\n".join(_section(name, model) for name, model in Rules.sections().items())
    return f"""# Configuration

Generated from `churn_assets/rules.py` by `make config-docs`. As JSON Schema, for editors: [churn.schema.json](churn.schema.json).

`churn.toml` holds what the bank decides: what its codes mean, thresholds, weights, windows, classes and the limits of emails.
It lies in the folder that `churn` and Dagster run in, or where `CHURN_CONFIG` says. What it leaves out has its default. A key
that nothing reads, or a value that is not allowed, stops every command with one line that names the key.

```toml
{EXAMPLE}```

After a change:

```bash
churn doctor                          # checks the file, and says what is not deployed yet
churn deploy                          # tables whose query has changed are computed anew
churn model prepare --rebuild         # after a change of [labels], [codes] or [features]: the training set, then train
```

A process keeps the rules that it began with, so start Dagster and the dashboard again. On Snowflake the procedures and the
dashboard carry the rules of the deployment with them; `CHURN_REASONS` keeps the words that it was created with
([Snowflake](snowflake.md)).

## [settings]

Settings of [.env.example](../.env.example) by the same names, but those that may hold a secret. `.env` wins over `churn.toml`,
and the environment over both. Relative paths begin in the folder that the command runs in.

{sections}"""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `churn.toml`."""
    schema = Rules.model_json_schema()
    schema["properties"][SETTINGS] = {"type": "object", "description": "Settings by their names in .env.example."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "churn.toml"}


def main() -> None:
    """Write both files."""
    MARKDOWN.write_text(markdown(), encoding="utf-8")
    JSON_SCHEMA.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


def _section(name: str, model: type[BaseModel]) -> str:
    about = " ".join((model.__doc__ or "").split())
    return f"## [{name}]\n\n{about}\n\n{_table(model)}{''.join(_tables_within(name, model))}"


def _tables_within(section: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if RiskRule in get_args(field.annotation):
            default = "\n".join(
                f"| `{rule.feature}` | `{rule.operator}` | {rule.threshold:g} | {rule.weight:g} | {rule.reason} |"
                for rule in field.default
            )
            yield (
                f"\n### [[{section}.{name}]]\n\n{_table(RiskRule)}\nThe default rules:\n\n"
                f"| feature | operator | threshold | weight | reason |\n|---|---|---|---|---|\n{default}\n"
            )


def _table(model: type[BaseModel]) -> str:
    rows = "".join(
        f"| `{name}` | {_default(field)} | {field.description} |\n" for name, field in model.model_fields.items()
    )
    return f"| key | default | meaning |\n|---|---|---|\n{rows}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    if RiskRule in get_args(field.annotation):
        return "below"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    main()
