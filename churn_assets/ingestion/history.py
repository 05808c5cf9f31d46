"""Events that do not come from Kafka: files of history, and rejects that the contract accepts today.

Both pass the same validation and the same statements as messages from Kafka (`decoding`, `commit`).
"""

from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from glob import glob
from pathlib import Path

import duckdb
import pyarrow as pa

from churn_assets.dynamic_tables.difference import quoted
from churn_assets.errors import ChurnError
from churn_assets.ingestion.commit import Stored, store_decoded, store_rejects
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, Decoded, decode
from churn_assets.ingestion.events import LEDGERS, STORED_COLUMNS, EventType
from churn_assets.rules import INGEST_CHUNK_MESSAGES
from churn_assets.warehouse.protocol import Transaction, Warehouse
from churn_assets.warehouse.values import literal

FILE_EPOCH = "file"  # of rejects from a file; their kafka_topic is the file's path, kafka_offset the row number
_READERS = {
    ".parquet": "read_parquet($file)",
    ".csv": "read_csv($file, header = true, all_varchar = true)",
    ".csv.gz": "read_csv($file, header = true, all_varchar = true)",
}
_PLACE = pa.schema([MESSAGE_SCHEMA.field(name) for name in ("kafka_partition", "kafka_offset")])


class FileError(ChurnError):
    """A file cannot be loaded; the message says why."""


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files that match the patterns, each once; `FileError` for a pattern that matches none."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = sorted(glob(pattern, recursive=True))
        if not found:
            raise FileError(f"there is no file {pattern}")
        files |= dict.fromkeys(Path(name) for name in found)
    return list(files)


def load(
    warehouse: Warehouse,
    ledger: str,
    files: Sequence[Path],
    clock: Callable[[], datetime],
    report: Callable[[Path, Stored], None],
) -> Stored:
    """Store the rows of Parquet or CSV files in a ledger; `report` gets the totals so far after each chunk.

    Each row counts as an event of the ledger's type, with its columns as payload (names in any case). The file's
    modification time stands in for an absent `updated_at`. A chunk is one transaction, and rows that are already stored
    are duplicates, so an interrupted load can simply be repeated. `clock` gives the time (UTC). Raises `FileError`.
    """
    if ledger not in LEDGERS:
        raise FileError(f"there is no ledger {ledger}; the ledgers are {', '.join(LEDGERS)}")
    for file in files:
        _refuse_bad_file(file, LEDGERS[ledger])
    total = Stored()
    for file in files:
        for messages in _rows_as_events(file, LEDGERS[ledger]):
            now = clock()
            total.add(_store(warehouse, decode(messages, now), messages, str(file.absolute()), now))
            report(file, total)
    return total


def replay_rejects(warehouse: Warehouse, reason: str | None, clock: Callable[[], datetime]) -> Stored:
    """Check the rejects (with `reason`, or all) again and store those that the contract accepts today.

    The stored ones keep their line in `event_rejects` and get a `replayed_at`; the others stay as they are.
    """
    total = Stored()
    waiting, parameters = _waiting(reason)
    sources = warehouse.query(
        f"SELECT DISTINCT epoch, kafka_topic FROM event_rejects WHERE {waiting} ORDER BY epoch, kafka_topic", parameters
    ).to_pylist()
    for source in sources:
        total.add(_replay_source(warehouse, source["epoch"], source["kafka_topic"], reason, clock))
    return total


def _waiting(reason: str | None) -> tuple[str, list[str]]:
    """The rejects (with `reason`, or all) that were not replayed, as a condition and its parameters."""
    return ("replayed_at IS NULL", []) if reason is None else ("replayed_at IS NULL AND reason = ?", [reason])


def _replay_source(
    warehouse: Warehouse, epoch: str, topic: str, reason: str | None, clock: Callable[[], datetime]
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
        total.add(_store_again(warehouse, decode(messages, now), messages, epoch, topic, now))


def _store_again(
    warehouse: Warehouse, decoded: Decoded, messages: pa.Table, epoch: str, topic: str, now: datetime
) -> Stored:
    places = [rows.select(_PLACE.names) for rows in decoded.rows.values()]

    def mark(tx: Transaction) -> None:
        tx.execute(
            "UPDATE event_rejects SET replayed_at = ? FROM staged_places AS place WHERE epoch = ? AND kafka_topic = ?"
            " AND event_rejects.kafka_partition = place.kafka_partition"
            " AND event_rejects.kafka_offset = place.kafka_offset",
            [now, epoch, topic],
        )

    source = None if epoch == FILE_EPOCH else topic
    staged = {"staged_places": pa.concat_tables([_PLACE.empty_table(), *places])}
    return store_decoded(warehouse, messages, decoded, source, now, first=mark, staged=staged)


def _store(warehouse: Warehouse, decoded: Decoded, messages: pa.Table, file: str, now: datetime) -> Stored:
    def reject(tx: Transaction) -> None:
        if decoded.rejects.num_rows:
            store_rejects(tx, FILE_EPOCH, file, now, unless_known=True)

    return store_decoded(warehouse, messages, decoded, None, now, first=reject)


def _reader(file: Path) -> str:
    for suffix, reader in _READERS.items():
        if file.name.lower().endswith(suffix):
            return reader
    raise FileError(f"{file} is neither Parquet nor CSV; known endings are {', '.join(_READERS)}")


def _columns(connection: duckdb.DuckDBPyConnection, file: Path) -> list[str]:
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {_reader(file)}", {"file": str(file)}).fetchall()
    except duckdb.Error as error:
        raise FileError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    # A file that was exported from a ledger also has the columns that ingestion adds.
    return [name for name, *_ in rows if name.lower() not in STORED_COLUMNS]


def _refuse_bad_file(file: Path, event_type: EventType) -> None:
    with duckdb.connect(":memory:") as connection:
        there = {name.lower() for name in _columns(connection, file)}
    if missing := [field.name for field in event_type.fields if field.required and field.name not in there]:
        raise FileError(f"{file} lacks the columns {', '.join(missing)}, which {event_type.ledger} needs")


def _rows_as_events(file: Path, event_type: EventType) -> Generator[pa.Table]:
    """The rows of a file as messages (`MESSAGE_SCHEMA`) in chunks, with facts sorted by time.

    A sorted chunk covers few days, so the search for duplicates opens few of the ledger's files.
    """
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC).replace(tzinfo=None)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET memory_limit = '1GB'")
        names = _columns(connection, file)
        payload = ", ".join(f"{literal(name.lower())}: {quoted(name)}" for name in names)
        time = next((name for name in names if name.lower() == event_type.event_time), None)
        order = f"ORDER BY {quoted(time)}" if time and not event_type.is_dimension else ""
        try:
            reader = connection.execute(
                "SELECT 0::INTEGER AS kafka_partition, number AS kafka_offset, $written::TIMESTAMP AS kafka_time,"
                f" encode(to_json({{'event_type': '{event_type.name}', 'payload': {{{payload}}}}})::VARCHAR) AS value"
                f" FROM (SELECT *, row_number() OVER () AS number FROM {_reader(file)}) {order}",
                {"file": str(file), "written": written},
            ).to_arrow_reader(INGEST_CHUNK_MESSAGES)
            for batch in reader:
                yield pa.Table.from_batches([batch]).cast(MESSAGE_SCHEMA)
        except duckdb.Error as error:
            raise FileError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
