"""The semantic model: what the figures mean in words, for questions in natural language on either warehouse.

Here belong the schema of `semantic_model.yaml` (the used parts of Snowflake's YAML specification of semantic views), the text
that creates the semantic view, and the translation of queries to the serving views.
https://docs.snowflake.com/en/user-guide/views-semantic/semantic-view-yaml-spec
"""

from pathlib import Path
from typing import Annotated, Any

import sqlglot
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlglot import exp

from churn_assets.serving.guard import Dialect
from churn_assets.serving.views import with_tables

SEMANTIC_MODEL_FILE = Path(__file__).with_name("semantic_model.yaml")

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Named(_Part):
    name: _Name
    description: _Text
    synonyms: list[_Text] = []
    expr: _Text


class Column(_Named):
    """A dimension, time dimension or fact: one value a row."""

    data_type: _Text
    sample_values: list[_Text] = []
    is_enum: bool = False


class Metric(_Named):
    """An aggregate over the rows of one table."""


class Filter(_Named):
    """A condition that is often asked for."""


class BaseTable(_Part):
    """The table or view that a logical table stands for."""

    database: _Text
    schema_: _Text = Field(alias="schema")
    table: _Text


class PrimaryKey(_Part):
    """The columns that are unique together."""

    columns: list[_Name]


class Table(_Part):
    """A logical table."""

    name: _Name
    description: _Text
    base_table: BaseTable
    primary_key: PrimaryKey | None = None
    dimensions: list[Column] = []
    time_dimensions: list[Column] = []
    facts: list[Column] = []
    metrics: list[Metric] = []
    filters: list[Filter] = []

    @property
    def columns(self) -> list[Column]:
        """The columns that a query over the table may use."""
        return [*self.dimensions, *self.time_dimensions, *self.facts]


class JoinedColumns(_Part):
    """One pair of a relationship."""

    left_column: _Name
    right_column: _Name


class Relationship(_Part):
    """Many rows of the left table belong to one of the right."""

    name: _Name
    left_table: _Name
    right_table: _Name
    relationship_columns: list[JoinedColumns]


class VerifiedQuery(_Part):
    """A question with the SQL that answers it: over logical tables, in SQL that both warehouses accept."""

    name: _Name
    question: _Text
    sql: _Text
    use_as_onboarding_question: bool = False


class Instructions(_Part):
    """Instructions for authors of SQL, in addition to the tables."""

    sql_generation: _Text
    question_categorization: _Text


class SemanticModel(_Part):
    """The content of `semantic_model.yaml`."""

    name: _Name
    description: _Text
    tables: list[Table]
    relationships: list[Relationship]
    verified_queries: list[VerifiedQuery]
    module_custom_instructions: Instructions

    @property
    def columns_of_tables(self) -> dict[str, dict[str, str]]:
        """The columns of each logical table with their types."""
        return {table.name: {column.name: column.data_type for column in table.columns} for table in self.tables}

    def tables_of_views(self, schema: str) -> dict[str, str]:
        """The logical tables by the full names of their views in `schema` (as DATABASE.SCHEMA)."""
        return {f"{schema}.{table.base_table.table}".upper(): table.name for table in self.tables}

    @model_validator(mode="after")
    def _hangs_together(self) -> "SemanticModel":
        tables = {table.name: table for table in self.tables}
        for relationship in self.relationships:
            for name, columns in (
                (relationship.left_table, [pair.left_column for pair in relationship.relationship_columns]),
                (relationship.right_table, [pair.right_column for pair in relationship.relationship_columns]),
            ):
                missing = set(columns) - {column.name for column in tables[name].columns} if name in tables else {name}
                if missing:
                    raise ValueError(f"relationship {relationship.name}: {name} has no {sorted(missing)[0]}")
        if renamed := [column.name for table in self.tables for column in table.columns if column.expr != column.name]:
            raise ValueError(f"the column {renamed[0]} must have the name that it has in its view")
        words = [word for table in self.tables for part in _named(table) for word in part.synonyms]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(f"synonyms must be unique in the model; {twice[0]!r} occurs twice")
        return self


def load_semantic_model(path: Path = SEMANTIC_MODEL_FILE) -> SemanticModel:
    """Load the model from a file; `ValidationError` if it does not follow Snowflake's specification."""
    return SemanticModel.model_validate(yaml.safe_load(path.read_text()))


def for_snowflake(database: str, schema: str, path: Path = SEMANTIC_MODEL_FILE) -> str:
    """The YAML that creates a semantic view over the views of `database.schema`."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    for table in content["tables"]:
        table["base_table"] |= {"database": database, "schema": schema}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def on_views(model: SemanticModel, sql: str, dialect: Dialect) -> str:
    """Translate a checked query over logical tables into one over serving views, which people may run as it stands.

    A column has its view's name, so a view in the place of its table is enough. Only `*` means other columns there: such a
    query gets the tables before it, as WITH.
    """
    tree = sqlglot.parse_one(sql, dialect=dialect)
    if any(star.parent_select is star.parent for star in tree.find_all(exp.Star)):
        return with_tables(sql, {table.name: _query(table) for table in model.tables})
    views = {table.name: table.base_table.table.lower() for table in model.tables}
    for table in tree.find_all(exp.Table):
        if view := views.get(table.name.lower()):
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.alias or table.name.lower())))
            table.set("this", exp.to_identifier(view))
    return tree.sql(dialect=dialect)


def _query(table: Table) -> str:
    return f"SELECT {', '.join(column.name for column in table.columns)} FROM {table.base_table.table.lower()}"


def _named(table: Table) -> list[_Named]:
    return [*table.columns, *table.metrics, *table.filters]
