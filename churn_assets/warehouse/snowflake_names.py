"""The names of the project's objects in a Snowflake account, and the error for a name that cannot be used.

The names also appear in string literals of statements, so only names that need no quotes are allowed.
"""

import re
from dataclasses import dataclass
from typing import Any

from churn_assets.errors import ChurnError
from churn_assets.rules import ANALYST_ROLE, ENGINEER_ROLE
from churn_assets.settings import DEFAULT_MODELS, Settings

_NAME = re.compile(r"[A-Z_][A-Z0-9_$]{0,254}")


class SnowflakeSqlError(ChurnError):
    """A name that cannot be used, or a file that cannot be rendered; the message says which and what to do."""


@dataclass(frozen=True)
class Names:
    """The names of the objects as Snowflake stores unquoted names; and the model that writes emails, with its daily limits.

    The names also appear in string literals (`IS_ROLE_IN_SESSION('…')`), where case matters. So names that would need
    quotes are refused.
    """

    database: str = "CHURN"
    schema: str = "MAIN"
    serving_schema: str = "SERVING"
    warehouse: str = "CHURN"
    admin_role: str = "ACCOUNTADMIN"
    engineer_role: str = ENGINEER_ROLE
    analyst_role: str = ANALYST_ROLE
    writer_model: str = DEFAULT_MODELS["cortex"]
    emails_per_day: int = Settings.model_fields["emails_per_day"].default
    tokens_per_day: int = Settings.model_fields["tokens_per_day"].default

    def __post_init__(self) -> None:
        for key, name in self.identifiers().items():
            if not _NAME.fullmatch(name):
                raise SnowflakeSqlError(
                    f"{key} cannot be {name!r}; use capital letters, digits and _, and begin with a letter"
                )
            if name == "PUBLIC" and key.endswith("_role"):
                raise SnowflakeSqlError(f"{key} cannot be PUBLIC, which every user has; name a role of its own")
        if len({self.admin_role, self.engineer_role, self.analyst_role}) < 3:
            raise SnowflakeSqlError("admin_role, engineer_role and analyst_role must be three different roles")
        if self.schema == self.serving_schema:
            raise SnowflakeSqlError("serving_schema must not be the schema of the ledgers: analysts read all of it")

    def identifiers(self) -> dict[str, str]:
        """The names of the objects by kind."""
        keys = ("database", "schema", "serving_schema", "warehouse", "admin_role", "engineer_role", "analyst_role")
        return {key: getattr(self, key) for key in keys}


def names_of(settings: Settings) -> Names:
    """The names in the settings, as Snowflake stores them; `SnowflakeSqlError` for a name that would need quotes."""
    found: dict[str, Any] = {}
    for part, key in (
        ("database", "database"),
        ("schema", "schema"),
        ("warehouse", "warehouse"),
        ("role", "engineer_role"),
    ):
        name: str = getattr(settings, f"snowflake_{part}")
        if not (name.isascii() and _NAME.fullmatch(name.upper())):
            raise SnowflakeSqlError(
                f"SNOWFLAKE_{part.upper()} cannot be {name!r}; use letters, digits and _, as in a name without quotes"
            )
        found[key] = name.upper()
    model = settings.writer_model if settings.writer == "cortex" else None
    return Names(
        **found,
        writer_model=model or DEFAULT_MODELS["cortex"],
        emails_per_day=settings.emails_per_day,
        tokens_per_day=settings.tokens_per_day,
    )
