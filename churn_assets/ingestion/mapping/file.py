"""The form of `mapping.yaml`: how a bank's own topics and files become rows of the ledgers.

Here belong the members of the file, what they mean, and that they fit together. The JSON Schema for editors is made from these
models (`make event-docs`). What an expression may hold is `expressions`; what becomes of a mapping is `compiling`.
"""

import codecs
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from churn_assets.configuration import in_words
from churn_assets.errors import ChurnError
from churn_assets.ingestion import events
from churn_assets.rules import nearest

Encoding: TypeAlias = Literal["json", "avro", "protobuf", "json_schema"]
"""How the bytes of a message are written. All but `json` have the frame of a Schema Registry."""
Format: TypeAlias = Literal[Encoding, "cloudevents", "debezium"]
NAMED_FORMATS = ("iso", "unix_seconds", "unix_milliseconds", "unix_microseconds", "unix_days")
ENVELOPE = "envelope"  # the first name of a field that stands around the row: envelope.op, envelope.source.ts_ms
_MAX_BYTES = 1_000_000


class MappingError(ChurnError):
    """A mapping cannot be used; the message is one line that names the place in the file and says what to do."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_column(value: Any) -> Any:
    return {"sql": value} if isinstance(value, str) else value


_Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=2_000)]
_Texts: TypeAlias = Annotated[list[_Text], BeforeValidator(_as_list)]
_Decimal: TypeAlias = Literal[".", ","]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CodeTable(_Model):
    """Their codes and ours."""

    values: dict[str, str] = Field(description="By their code, ours. The key '' is an absent code.")
    others: Literal["reject", "keep"] = Field(
        "reject", description="What becomes of a code that is not listed: a reject with its name, or it stays as it is."
    )
    default: str | None = Field(None, description="What every code that is not listed becomes, in place of `others`.")


class Column(_Model):
    """Where the value of one column comes from, and how it is written there. As text alone, it is `sql`."""

    sql: _Text | None = Field(None, description="An SQL expression over the source's fields.")
    field: _Text | None = Field(None, description="One field by its name, whatever characters that has.")
    constant: _Text | None = Field(None, description="The same text for every row.")
    decimal: _Decimal | None = Field(None, description="The decimal sign of numbers, in place of the mapping's.")
    date_format: _Texts | None = Field(None, description="Patterns of times, in place of the mapping's.")
    timezone: _Text | None = Field(None, description="The zone of times without an offset, in place of the mapping's.")
    codes: _Text | None = Field(None, description="The code table that translates the value.")

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Column":
        if sum(origin is not None for origin in (self.sql, self.field, self.constant)) != 1:
            raise ValueError("give it one of sql, field and constant")
        return self


class SourceMapping(_Model):
    """How the messages of a topic, or the rows of a file, become rows of one ledger."""

    name: _Text = Field(description="Any name; reports use it.")
    ledger: str = Field(description="The ledger that gets the rows.", json_schema_extra={"enum": [*events.LEDGERS]})
    topics: _Texts = Field(default_factory=list[str], description="Topics of Kafka that it reads.")
    files: _Texts = Field(
        default_factory=list[str], description="Names of files that it reads, with * and ?, without folders."
    )
    format: Format = Field("json", description="What the messages of the topics are. Files have columns instead.")
    encoding: Encoding | None = Field(
        None, description="How change events of `debezium` are written; json if unset. Otherwise `format` says it."
    )
    where: _Text | None = Field(
        None, description="SQL: which messages it takes. One that no mapping takes is a reject."
    )
    skip: _Text | None = Field(None, description="SQL: which of these are left out on purpose. They are counted.")
    decimal: _Decimal | None = Field(None, description="The decimal sign of numbers; the other one groups thousands.")
    date_format: _Texts | None = Field(
        None, description=f"Patterns such as %d.%m.%Y, or {', '.join(NAMED_FORMATS)}; the first that fits counts."
    )
    timezone: _Text | None = Field(
        None, description="The zone of times without an offset, such as Europe/Berlin; UTC if unset."
    )
    columns: dict[str, Annotated[Column, BeforeValidator(_as_column)]] = Field(
        description="By the ledger's column, where its value comes from.", min_length=1
    )
    extra_fields: Literal["all", "none"] = Field(
        "all", description="Whether the fields that no expression uses are kept in extra_fields."
    )

    @property
    def event_type(self) -> events.EventType:
        """The contract of its ledger."""
        return events.LEDGERS[self.ledger]

    @model_validator(mode="after")
    def _fits_the_ledger(self) -> "SourceMapping":
        if self.ledger not in events.LEDGERS:
            raise ValueError(f"there is no ledger {self.ledger}; the ledgers are {', '.join(events.LEDGERS)}")
        if not self.topics and not self.files:
            raise ValueError("it reads nothing; name topics or files")
        if self.encoding is not None and self.format != "debezium":
            raise ValueError(f"encoding is for format: debezium; {self.format} is written in one way")
        fields = {field.name: field for field in self.event_type.fields}
        if unknown := [name for name in self.columns if name not in fields]:
            raise ValueError(
                f"{self.ledger} has no column {', '.join(unknown)}; its columns are {', '.join(fields)}."
                " Other fields are kept in extra_fields"
            )
        missing = [name for name, field in fields.items() if field.required and name not in self.columns]
        if missing:
            raise ValueError(f"columns lacks {', '.join(missing)}, which {self.ledger} needs")
        for name, column in self.columns.items():
            kind = fields[name].type
            for option, kinds in (
                ("decimal", ("DOUBLE",)),
                ("date_format", ("TIMESTAMP", "DATE")),
                ("timezone", ("TIMESTAMP",)),
                ("codes", ("VARCHAR", "BOOLEAN")),
            ):
                if getattr(column, option) is not None and kind not in kinds:
                    raise ValueError(f"{name} is a {kind} and takes no {option}")
        return self


class MappingFile(_Model):
    """A bank's mapping of its own topics and files to the ledgers."""

    mappings: list[SourceMapping] = Field(description="One for each ledger that a source feeds.")
    codes: dict[str, CodeTable] = Field(default_factory=dict[str, CodeTable], description="Code tables by their names.")

    @model_validator(mode="after")
    def _names_are_clear(self) -> "MappingFile":
        names = [mapping.name for mapping in self.mappings]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two mappings have the name {twice[0]}; rename one")
        formats: dict[str, str] = {}
        for mapping in self.mappings:
            found = f"{mapping.format} in {mapping.encoding}" if mapping.encoding else mapping.format
            for topic in mapping.topics:
                if formats.setdefault(topic, found) != found:
                    raise ValueError(f"the topic {topic} has two formats, {formats[topic]} and {found}")
            for name, column in mapping.columns.items():
                if column.codes is not None and column.codes not in self.codes:
                    raise ValueError(
                        f"{mapping.name}: {name} names the code table {column.codes}, which is not in codes"
                    )
        return self


def read(path: Path) -> MappingFile:
    """The mapping of a file. Raises `MappingError`, also if a key stands twice.

    All scalars are read as text: YAML's `no` and `010` are codes here, not false and 8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MappingError(f"the mapping {path} cannot be read: {error.strerror}") from error
    return parse(content, str(path))


def parse(content: bytes, name: str) -> MappingFile:
    """As `read`, of the bytes of a file that messages call `name`."""
    if len(content) > _MAX_BYTES:
        raise MappingError(f"the mapping {name} is too large (limit {_MAX_BYTES:,} bytes)")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
        loaded: Any = yaml.load(text, _TextLoader)  # a BaseLoader makes texts, lists and dicts only
    except UnicodeDecodeError as error:
        raise MappingError(f"the mapping {name} is not UTF-8; save it as UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise MappingError(f"the mapping {name} is no YAML: {_yaml_flaw(error)}") from error
    if not isinstance(loaded, dict):
        raise MappingError(f"the mapping {name} has no list `mappings`; see docs/mapping.md")
    try:
        return MappingFile.model_validate(loaded)
    except ValidationError as error:
        # A key that nothing reads first: it may be the one that is missing, misspelled.
        first, *others = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        more = f" (and {len(others)} more)" if others else ""
        raise MappingError(
            f"the mapping {name} is wrong{_place(first['loc'], loaded)}: {_said(first)}{more}"
        ) from error


def _said(problem: ErrorDetails) -> str:
    match problem["type"]:
        case "extra_forbidden":
            known = {"mappings": SourceMapping, "codes": CodeTable}.get(str(problem["loc"][0]), MappingFile)
            known = Column if "columns" in problem["loc"] else known
            return f"nothing reads it{nearest(str(problem['loc'][-1]), known.model_fields)}"
        case "missing":
            return "it is missing; add it (docs/mapping.md)"
        case _:
            return in_words(problem)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    schema = MappingFile.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | _with_short_forms(schema)


class _TextLoader(yaml.BaseLoader):
    """YAML with texts for all scalars. A key that stands twice is an error: one of the two would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml_flaw(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]


def _place(where: tuple[int | str, ...], loaded: Any) -> str:
    """A place in the file: mappings by their names, and without the steps that only the models have."""
    parts = [str(step) for step in where]
    if len(where) > 1 and where[0] == "mappings" and isinstance(where[1], int):
        mapping = loaded["mappings"][where[1]]
        named = isinstance(mapping, dict) and "name" in mapping
        parts[1] = str(cast("dict[str, Any]", mapping)["name"]) if named else f"number {where[1] + 1}"
    return f" at {'.'.join(parts)}" if parts else ""


def _with_short_forms(schema: Any) -> Any:
    """The schema with what the models take beside their own form: one text for a list, and a text for a column."""
    if isinstance(schema, list):
        return [_with_short_forms(item) for item in schema]  # pyright: ignore
    if not isinstance(schema, dict):
        return schema
    changed: dict[str, Any] = {name: _with_short_forms(value) for name, value in schema.items()}  # pyright: ignore
    if changed.get("$ref") == "#/$defs/Column":
        return {"anyOf": [{"type": "string"}, changed]}
    if changed.get("type") == "array" and changed.get("items", {}).get("type") == "string":
        lists = {name: changed.pop(name) for name in ("type", "items")}
        return changed | {"anyOf": [lists["items"], lists]}
    return changed
