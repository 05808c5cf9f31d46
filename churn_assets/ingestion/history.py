"""Events that do not come from Kafka: files of history, and rejects that the contract accepts today.

Both pass the same validation and the same statements as messages from Kafka (`decoding`, `commit`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from churn_assets.ingestion.commit import Stored, store_decoded, store_rejects
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded
from churn_assets.ingestion.events import LEDGERS, STORED_COLUMNS, EventType, Field
from churn_assets.ingestion.isolation import Decode, IsolatedDecoder
from churn_assets.ingestion.json_text import UnreadableError, parsed
from churn_assets.ingestion.mapping.compiling import MappedSource, Mappings
from churn_assets.ingestion.schema_registry import Registry
from churn_assets.rules import INGEST_CHUNK_MESSAGES
from churn_assets.table_files.source import FileError, printable
from churn_assets.table_files.tables import FAULT, HEIGHT, ORIGINAL, PLACE, TableFile, open_table
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import literal

# Of rejects from a file. Their kafka_topic is the file's path, their kafka_offset the line of the file, or of Parquet the row.
FILE_EPOCH = "file"
# Of rejects from a file of corrections. They are no rows by themselves, so a replay of rejects leaves them alone.
CORRECTION_EPOCH = "correction"
_PLACE = pa.schema([MESSAGE_SCHEMA.field(name) for name in ("kafka_partition", "kafka_offset")])


@dataclass
class Loaded(Stored):
    """What became of the rows of files."""

    examples: dict[str, tuple[TableFile, int]] = field(default_factory=dict[str, tuple[TableFile, int]])
    """By reason, the first file with such a reject, and its place there."""
    over_lines: int = 0
    """How many rows have line ends between quotes. A quote that was forgotten may have made one row of many."""
    tallest: tuple[TableFile, int, int] | None = None
    """Of these the one with the most lines: its file, its place there, and its lines."""


@dataclass(frozen=True)
class LedgerTable:
    """A file as a table for a ledger. Without `mapped`, its columns are the fields of the contract."""

    file: TableFile
    mapped: MappedSource | None = None


def open_tables(ledger: str, files: Sequence[Path], mappings: Mappings | None = None) -> list[LedgerTable]:
    """The files as tables for a ledger; `FileError` if one is no table, or lacks a column that the ledger or mapping needs."""
    tables: list[LedgerTable] = []
    for path in files:
        mapped = mappings.of_file(path, ledger) if mappings else None
        if mapped is None:
            tables += map(LedgerTable, open_files(ledger, [path]))
            continue
        tables.append(open_mapped(path, mapped))
    return tables


def open_mapped(path: Path, mapped: MappedSource) -> LedgerTable:
    """The file as a table that a mapping reads; `FileError` if it is none, or lacks a field of the mapping."""
    table = open_table(path, mapped.columns)
    if missing := mapped.missing(table.names):
        raise _lacking(table, missing, f"the mapping {mapped.title}")
    return LedgerTable(table, mapped.spelled_as(table.names))


def open_files(ledger: str, files: Sequence[Path], needed: Sequence[str] | None = None) -> list[TableFile]:
    """The files whose columns are the fields of a ledger; `FileError` if one is no table, or lacks a column that is needed.

    `needed` names the columns that a file must have, if not all that the ledger requires.
    """
    if ledger not in LEDGERS:
        raise FileError(f"there is no ledger {ledger}; the ledgers are {', '.join(LEDGERS)}")
    required = needed or [field.name for field in LEDGERS[ledger].fields if field.required]
    tables: list[TableFile] = []
    for file in files:
        table = open_table(file, required)
        there = {name.lower() for name in table.names}
        if missing := [name for name in required if name not in there]:
            raise _lacking(table, missing, ledger)
        tables.append(table)
    return tables


def _lacking(table: TableFile, missing: Sequence[str], who: str) -> FileError:
    return FileError(
        f"{table.name} lacks the columns {printable(', '.join(missing))}, which {who} needs; it has"
        f" {printable(', '.join(table.names))} ({table.found}). Other names can be mapped: `churn map suggest`"
    )


def extra_columns(ledger: str, table: LedgerTable) -> list[str]:
    """The columns of a table that neither the ledger nor the mapping knows; their values go to `extra_fields`."""
    if table.mapped:
        keeps = any(projection.keeps_extra for projection in table.mapped.projections)
        return [name for name in table.file.names if name not in table.mapped.columns] if keeps else []
    known = {field.name for field in LEDGERS[ledger].fields} | STORED_COLUMNS.keys()
    return [name for name in table.file.names if name.lower() not in known]


def load(
    warehouse: Warehouse,
    ledger: str,
    tables: Sequence[LedgerTable],
    clock: Callable[[], datetime],
    report: Callable[[TableFile, Stored], None],
) -> Loaded:
    """Store the rows of `open_tables` in a ledger; `report` gets the totals so far after each chunk.

    Each row counts as an event of the ledger's type, with its columns as payload (names in any case). The time of the
    load (`clock`, UTC) stands in for an absent `updated_at`, so what is loaded last counts; a row that says nothing new is
    a duplicate. A chunk is one transaction, and rows that are already stored are duplicates, so an interrupted load can
    simply be repeated. Each row is stored, a duplicate or a reject. Raises `FileError`.
    """
    total = Loaded()
    with closing(IsolatedDecoder()) as decoder:
        for table in tables:
            of_file = Stored()
            for rows in rows_as_events(table.file, LEDGERS[ledger], table.mapped):
                of_file.add(_store_chunk(warehouse, rows, table, decoder.decode, clock(), total))
                report(table.file, total)
            if of_file.accounted != of_file.messages:
                raise FileError(
                    f"of {of_file.messages:,} rows of {table.file.name} only {of_file.accounted:,} were stored or rejected;"
                    " report this"
                )
    return total


def replay_rejects(
    warehouse: Warehouse,
    reason: str | None,
    clock: Callable[[], datetime],
    mappings: Mappings | None = None,
    registry: Registry | None = None,
) -> Stored:
    """Check the rejects (with `reason`, or all) again and store those that the contract and the mappings accept today.

    What is no reject any more keeps its line in `event_rejects` and gets a `replayed_at`; the others stay as they are.
    """
    total = Stored()
    waiting, parameters = _waiting(reason)
    sources = warehouse.query(
        f"SELECT DISTINCT epoch, kafka_topic FROM event_rejects WHERE {waiting} ORDER BY epoch, kafka_topic", parameters
    ).to_pylist()
    with closing(IsolatedDecoder()) as decoder:
        for source in sources:
            epoch, topic = source["epoch"], source["kafka_topic"]
            mapped = (
                (mappings.of_file(topic) if epoch == FILE_EPOCH else mappings.of_topic(topic)) if mappings else None
            )
            total.add(
                _replay_source(warehouse, epoch, topic, reason, decoder.decode, mapped, registry or Registry(), clock)
            )
    return total


def _waiting(reason: str | None) -> tuple[str, list[str]]:
    """The rejects (with `reason`, or all) that were not replayed, as a condition and its parameters."""
    waiting = f"replayed_at IS NULL AND epoch <> '{CORRECTION_EPOCH}'"
    return (waiting, []) if reason is None else (f"{waiting} AND reason = ?", [reason])


def _replay_source(
    warehouse: Warehouse,
    epoch: str,
    topic: str,
    reason: str | None,
    decode: Decode,
    mapped: MappedSource | None,
    registry: Registry,
    clock: Callable[[], datetime],
) -> Stored:
    total, partition, offset = Stored(), -1, -1
    waiting, parameters = _waiting(reason)
    while True:
        messages = warehouse.query(
            "SELECT kafka_partition, kafka_offset, kafka_time, original AS value FROM event_rejects"
            f" WHERE {waiting} AND epoch = ? AND kafka_topic = ?"
            " AND (kafka_partition > ? OR (kafka_partition = ? AND kafka_offset > ?))"
            f" ORDER BY kafka_partition, kafka_offset, kafka_time, original LIMIT {INGEST_CHUNK_MESSAGES}",
            [*parameters, epoch, topic, partition, partition, offset],
        ).cast(MESSAGE_SCHEMA)
        if not messages.num_rows:
            return total
        last = messages.slice(messages.num_rows - 1).to_pylist()[0]
        partition, offset = last["kafka_partition"], last["kafka_offset"]
        now = clock()
        if mapped and epoch == FILE_EPOCH:
            mapped = mapped.spelled_as(_names_of_rows(messages))
        if mapped:
            mapped = registry.with_schemas(mapped, messages)
        total.add(_store_again(warehouse, decode(messages, now, mapped), messages, epoch, topic, now))


def _store_again(
    warehouse: Warehouse, decoded: Decoded, messages: pa.Table, epoch: str, topic: str, now: datetime
) -> Stored:
    # What is no reject any more: a row, a delete, or left out by a mapping.
    places = messages.select(_PLACE.names).join(
        decoded.rejects.select(_PLACE.names), _PLACE.names, join_type="left anti"
    )

    def mark(tx: Transaction) -> None:
        tx.execute(
            "UPDATE event_rejects SET replayed_at = ? FROM staged_places AS place WHERE epoch = ? AND kafka_topic = ?"
            " AND event_rejects.kafka_partition = place.kafka_partition"
            " AND event_rejects.kafka_offset = place.kafka_offset",
            [now, epoch, topic],
        )

    source = None if epoch == FILE_EPOCH else topic
    staged = {"staged_places": places}
    return store_decoded(warehouse, messages, decoded, source, now, first=mark, staged=staged)


def _store_chunk(
    warehouse: Warehouse, rows: pa.Table, opened: LedgerTable, decode: Decode, now: datetime, total: Loaded
) -> Stored:
    """Store rows of a file (as of `rows_as_events`) and add what became of them to the total."""
    messages, decoded = decode_rows(rows, decode, now, opened.mapped)
    table = opened.file

    def reject(tx: Transaction) -> None:
        if decoded.rejects.num_rows:
            store_rejects(tx, FILE_EPOCH, printable(table.source.path.absolute()), now, unless_known=True)

    stored = store_decoded(warehouse, messages, decoded, None, now, first=reject)
    total.add(stored)
    over_lines = rows.filter(pc.greater(rows[HEIGHT], 1))
    if over_lines.num_rows:
        total.over_lines += over_lines.num_rows
        row = over_lines.sort_by([(HEIGHT, "descending")]).slice(0, 1).to_pylist()[0]
        if total.tallest is None or row[HEIGHT] > total.tallest[2]:
            total.tallest = (table, row["kafka_offset"], row[HEIGHT])
    if stored.rejected:
        for reject_of in decoded.rejects.group_by("reason").aggregate([("kafka_offset", "min")]).to_pylist():
            reason, place = reject_of["reason"], reject_of["kafka_offset_min"]
            known = total.examples.get(reason)
            if known is None or (known[0] is table and place < known[1]):
                total.examples[reason] = (table, place)
    return stored


def _names_of_rows(messages: pa.Table) -> list[str]:
    """The columns of a mapped file, from its rows in `event_rejects`."""
    for value in messages["value"].to_pylist():
        with suppress(UnreadableError):
            row = parsed(value)
            if isinstance(row, dict):
                return list(cast("dict[str, Any]", row))
    return []


def decode_rows(
    rows: pa.Table, decode: Decode, now: datetime, mapped: MappedSource | None = None
) -> tuple[pa.Table, Decoded]:
    """Rows of a file (as of `rows_as_events`) as messages (`MESSAGE_SCHEMA`), and what they are; who is no row is a reject."""
    messages = as_messages(rows, now)
    if rows[FAULT].null_count == rows.num_rows:
        return messages, decode(messages, now, mapped)
    is_row = pc.is_null(rows[FAULT])
    decoded = decode(messages.filter(is_row), now, mapped)
    rejects = pa.concat_tables([decoded.rejects, faulty_rows(rows, messages).cast(decoded.rejects.schema)])
    return messages, replace(decoded, rejects=rejects)


def as_messages(rows: pa.Table, now: datetime) -> pa.Table:
    """Rows of a file (as of `rows_as_events`) as messages (`MESSAGE_SCHEMA`) that were sent `now` (UTC)."""
    return pa.table(
        {
            "kafka_partition": pa.array([0] * rows.num_rows, pa.int32()),
            "kafka_offset": rows["kafka_offset"],
            "kafka_time": pa.array([now] * rows.num_rows, pa.timestamp("us")),
            "value": rows["value"],
        },
        schema=MESSAGE_SCHEMA,
    )


def faulty_rows(rows: pa.Table, messages: pa.Table) -> pa.Table:
    """The rejects (as in `Decoded`) of what is no row in its file."""
    faulty = messages.append_column("reason", rows[FAULT]).filter(pc.is_valid(rows[FAULT]))
    columns = ["kafka_partition", "kafka_offset", "kafka_time", "reason", "original"]
    return faulty.rename_columns({"value": "original"}).select(columns)


def rows_as_events(table: TableFile, event_type: EventType, mapped: MappedSource | None = None) -> Generator[pa.Table]:
    """The rows of a file in chunks: `kafka_offset`, `height`, `value`, and `fault` where the value is a text that is no row.

    A value is an event of the contract, or of a mapped file the object of its columns. Facts are sorted by time: a sorted chunk
    covers few days, so the search for duplicates opens few of the ledger's files.
    """
    if mapped:
        columns = {name: place for place, name in enumerate(table.names)}
        members = ", ".join(f"{literal(name)}: {_as_json(table, place, None)}" for name, place in columns.items())
        row = f"{{{members}}}"
        time = None
    else:
        # A file that was exported from a ledger also has the columns that ingestion adds.
        columns = {name.lower(): place for place, name in enumerate(table.names) if name.lower() not in STORED_COLUMNS}
        fields = {field.name: field for field in event_type.fields}
        payload = ", ".join(
            f"{literal(name)}: {_as_json(table, place, fields.get(name))}" for name, place in columns.items()
        )
        row = f"{{'event_type': '{event_type.name}', 'payload': {{{payload}}}}}"
        time = columns.get(event_type.event_time)
    order = "" if time is None or event_type.is_dimension else f"ORDER BY c{time}"
    failed: list[Exception] = []

    def batches() -> Generator[pa.RecordBatch]:
        try:
            yield from table.batches()
        except Exception as error:
            failed.append(error)  # DuckDB passes on its text alone
            raise

    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET memory_limit = '1GB'")
        connection.register("rows", pa.RecordBatchReader.from_batches(table.schema(), batches()))
        try:
            reader = connection.execute(
                f"SELECT {PLACE} AS kafka_offset, {HEIGHT}, {FAULT}, CASE WHEN {FAULT} IS NULL THEN"
                f" encode(to_json({row})::VARCHAR)"
                f" ELSE {ORIGINAL} END AS value FROM rows {order}"
            ).to_arrow_reader(INGEST_CHUNK_MESSAGES)
            for batch in reader:
                yield pa.Table.from_batches([batch])
        except (duckdb.Error, pa.ArrowException) as error:
            raise (
                failed[0] if failed else FileError(f"{table.name} cannot be read: {str(error).splitlines()[0]}")
            ) from error


def _as_json(table: TableFile, place: int, field: Field | None) -> str:
    """SQL: a column's value in a JSON object, for a field of the contract or for the extra fields.

    NaN and infinity are no JSON, so they become text and then a reject. A time becomes ISO 8601, and a day where the field
    is one: pandas writes days as midnights.
    """
    column, kind = f"c{place}", table.types[place]
    if kinds.is_floating(kind):
        return f"CASE WHEN isfinite({column}) THEN to_json({column}) ELSE to_json({column}::VARCHAR) END"
    if kinds.is_timestamp(kind):
        time = f"timezone('UTC', {column})" if kind.tz else f"{column}::TIMESTAMP"
        text = f"strftime({time}, '%Y-%m-%dT%H:%M:%S.%f{'Z' if kind.tz else ''}')"
        if field and field.type == "DATE":
            return f"CASE WHEN {time} = date_trunc('day', {time}) THEN strftime({time}, '%Y-%m-%d') ELSE {text} END"
        return text
    return column
