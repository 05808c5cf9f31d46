"""From a source's fields to the rows of the ledgers, by the contract's own checks.

DuckDB evaluates the expressions and takes what surely fits the contract (`decoding`); every other row is checked by `values`,
one by one, which gives the reason of a reject. What stands in a message is `messages`.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn_assets.ingestion import values
from churn_assets.ingestion.decoding import (
    COORDINATES,
    REJECT_SCHEMA,
    VOID_SCHEMA,
    Decoded,
    all_of,
    fits_sql,
    has_no_wide_blank,
    is_possible,
    state_time,
    stored_columns,
    table_of,
    typed_rows,
    typed_sql,
)
from churn_assets.ingestion.events import EXTRA_FIELDS, LEDGERS, EventType, Field
from churn_assets.ingestion.json_text import UnreadableError
from churn_assets.ingestion.mapping.compiling import MappedSource, Projection
from churn_assets.ingestion.mapping.engine import cursor
from churn_assets.ingestion.mapping.fields import DELETE, UPDATE
from churn_assets.ingestion.mapping.messages import fields_of
from churn_assets.rules import FUTURE_TOLERANCE_HOURS

NOT_TAKEN = "no mapping takes it"


def decode(messages: pa.Table, now: datetime, source: MappedSource) -> Decoded:
    """As `decoding.decode`, of messages that the mappings of a source read."""
    fields, rejects, silent = fields_of(messages, source)
    decoded = rows_of(fields, source, now)
    return replace(decoded, rejects=pa.concat_tables([rejects, decoded.rejects]), left_out=decoded.left_out + silent)


def rows_of(fields: pa.Table, source: MappedSource, now: datetime) -> Decoded:
    """The rows and rejects of a source's fields (`fields.fields_schema`); times are as of `now` (UTC).

    A message may become a row of several ledgers. One that no mapping takes, or that one of them cannot make a row of, is one
    reject. Those that a mapping skips on purpose are counted.
    """
    latest = now + timedelta(hours=FUTURE_TOLERANCE_HOURS)
    found: dict[str, list[pa.Table]] = {}
    rejected: dict[tuple[int, int], tuple[Any, ...]] = {}
    used = skipped = np.zeros(fields.num_rows, np.int64)
    refused = 0
    voids: dict[str, list[pa.Table]] = {}
    for number, projection in enumerate(source.projections):
        event_type = LEDGERS[projection.ledger]
        with cursor() as connection:
            connection.register("fields", fields)
            looked_at = connection.execute(_query(number, projection, event_type, latest)).to_arrow_table()
        state = looked_at["state"]
        is_unsure = pc.equal(state, "unsure")
        sure = looked_at.filter(pc.equal(state, "sure")).select(stored_columns(event_type))
        accepted, more_voids, flaws = _one_by_one(looked_at.filter(is_unsure), projection, event_type, latest)
        found.setdefault(projection.ledger, []).extend(table for table in (sure, accepted) if table.num_rows)
        refused += len(flaws)
        of_ledger = [table for table in (_voids(looked_at, event_type), more_voids) if table.num_rows]
        if of_ledger:
            voids.setdefault(projection.ledger, []).extend(of_ledger)
        for flaw in flaws:
            rejected.setdefault(flaw[:2], flaw)
        used = used + pc.is_in(state, pa.array(["sure", "unsure", "delete"])).to_numpy()
        skipped = skipped + pc.equal(state, "skipped").to_numpy()
    others = fields.filter(pa.array(used + skipped == 0)).select([*COORDINATES, "kafka_time", "value"])
    for partition, offset, kafka_time, value in zip(*(c.to_pylist() for c in others.columns), strict=True):
        rejected[partition, offset] = (partition, offset, kafka_time, NOT_TAKEN, value)
    return Decoded(
        {ledger: pa.concat_tables(tables) for ledger, tables in found.items() if tables},
        table_of(list(rejected.values()), REJECT_SCHEMA),
        voids={ledger: pa.concat_tables(tables) for ledger, tables in voids.items()},
        left_out=int(((used == 0) & (skipped > 0)).sum()),
        further=int(np.maximum(used - 1, 0).sum()) - (refused - (len(rejected) - others.num_rows)),
    )


def _query(number: int, projection: Projection, event_type: EventType, latest: datetime) -> str:
    """SQL: for each message its state, and its typed columns, or what is needed to find the reason of a reject.

    The state is "other" (not for this mapping), "skipped", "sure" (a row), "delete" (of a key) or "unsure". The order is that of
    the fields.
    """
    columns = {column.name: column for column in projection.columns}
    contract = event_type.fields
    taken = f"TRY({projection.where})" if projection.where else "true"
    skipped = f"TRY({projection.skip})" if projection.skip else "false"
    faults = [column.fault for column in projection.columns]
    if projection.skip:
        failed = f"skipped IS NULL AND TRY({{'value': {projection.skip}}}) IS NULL"
        faults.insert(0, f"CASE WHEN {failed} THEN 'the condition skip failed' END")
    raws = ", ".join(f"{column.raw} AS raw_{column.name}" for column in projection.columns)
    texts_of = {
        field.name: columns[field.name].text if field.name in columns else "NULL::VARCHAR" for field in contract
    }
    values_of = {column.name: column.value for column in projection.columns if column.value}
    read = ", ".join(
        f"{values_of[field.name]} AS {field.name}" if field.name in values_of
        else f"{texts_of[field.name]} AS text_{field.name}"
        for field in contract
    )  # fmt: skip
    fault = f"coalesce({', '.join(faults)}, NULL)"
    typed = "".join(f", {typed_sql(field)} AS {field.name}" for field in contract if field.name not in values_of)
    is_sure = all_of(
        ["fault IS NULL", *(_is_sure(field, latest, is_typed=field.name in values_of) for field in contract)]
    )
    key = _field(event_type, event_type.key)
    key_is_sure = all_of([f"({columns[key.name].fault}) IS NULL", _is_sure(key, latest, is_typed=False)])
    stored = [
        f"{state_time(field.name, latest)} AS {field.name}"
        if event_type.event_time_is_optional and field.name == event_type.event_time
        else field.name
        for field in contract
    ]
    asked = f"SELECT *, {taken} AS taken, {skipped} AS skipped FROM fields"
    raw = f"SELECT *, {raws} FROM ({asked})"
    text = f"SELECT *, {read} FROM ({raw})"
    told = f"SELECT *, {fault} AS fault{typed} FROM ({text})"
    judged = (
        # What Debezium tells of a deleted row may be no more than its key.
        f"SELECT *, CASE WHEN op = '{DELETE}' AND taken IS NOT FALSE THEN CASE WHEN {key_is_sure} THEN 'delete'"
        " ELSE 'unsure' END WHEN taken IS NOT TRUE THEN 'other' WHEN skipped IS TRUE THEN 'skipped'"
        f" WHEN {is_sure} THEN 'sure' ELSE 'unsure' END AS state FROM ({told})"
    )
    unsure = ", ".join(
        f"CASE WHEN state = 'unsure' THEN {texts_of[field.name] if field.name in values_of else f'text_{field.name}'} END"
        f" AS text_{field.name}"
        for field in contract
    )
    return (
        f"SELECT {', '.join(stored)}, extra{number} AS {EXTRA_FIELDS}, {', '.join(COORDINATES)}, kafka_time, state, op, fault,"
        f" {unsure}, CASE WHEN state = 'unsure' THEN value END AS value FROM ({judged})"
    )


def _voids(looked_at: pa.Table, event_type: EventType) -> pa.Table:
    """The keys whose earlier rows no longer hold: they are deleted, or are facts that are updated (`VOID_SCHEMA`).

    A dimension keeps its latest state anyway.
    """
    is_delete = pc.equal(looked_at["state"], "delete")
    is_void = is_delete
    if not event_type.is_dimension:
        is_update = pc.and_(pc.equal(looked_at["op"], UPDATE), pc.equal(looked_at["state"], "sure"))
        is_void = pc.or_(is_delete, pc.fill_null(is_update, False))
    void = looked_at.append_column("is_delete", is_delete).filter(is_void)
    return void.select([event_type.key, *COORDINATES, "is_delete"]).rename_columns(VOID_SCHEMA.names).cast(VOID_SCHEMA)


def _field(event_type: EventType, name: str) -> Field:
    return next(field for field in event_type.fields if field.name == name)


def _is_sure(field: Field, latest: datetime, *, is_typed: bool) -> str:
    """SQL: whether a field's text, or its typed value where no text was read, is one that `values` reads alike."""
    text = f"text_{field.name}"
    if is_typed:
        fits = is_possible(field, latest)
        return f"({fits})" if field.required else f"({field.name} IS NULL OR {fits})"
    match field.type:
        case "VARCHAR":
            is_plain = f"({text} IS NULL OR {has_no_wide_blank(text)})"
        case "DOUBLE":
            is_plain = f"({text} IS NULL OR NOT contains({text}, '_'))"
        case _:
            is_plain = "true"
    return f"{fits_sql(field, latest)} AND {is_plain}"


def _one_by_one(
    rows: pa.Table, projection: Projection, event_type: EventType, latest: datetime
) -> tuple[pa.Table, pa.Table, list[tuple[Any, ...]]]:
    """The rows of the messages that need a closer look, what they make void, and the rejects."""
    sources = {column.name: column.source for column in projection.columns}
    key = _field(event_type, event_type.key)
    key_place = event_type.fields.index(key)
    accepted: list[list[Any]] = []
    voids: list[tuple[Any, ...]] = []
    rejected: list[tuple[Any, ...]] = []
    for row in rows.to_pylist():
        place = (row["kafka_partition"], row["kafka_offset"], row["kafka_time"])
        payload = {field.name: row[f"text_{field.name}"] for field in event_type.fields}
        try:
            if row["op"] == DELETE:
                voids.append((values.value_of(key, payload[key.name], latest), *place[:2], True))
                continue
            if row["fault"]:
                raise UnreadableError(row["fault"])
            _, found, _ = values.event({"event_type": event_type.name, "payload": payload}, latest)
        except UnreadableError as unreadable:
            reason = str(unreadable)
            if reason.startswith("missing "):
                reason += f" (mapped from {' '.join(sources[reason.removeprefix('missing ')].split())[:60]})"
            rejected.append((*place, reason, row["value"]))
        else:
            accepted.append([*found, row[EXTRA_FIELDS], *place])
            if row["op"] == UPDATE and not event_type.is_dimension:
                voids.append((found[key_place], *place[:2], False))
    return typed_rows(event_type, accepted, latest), table_of(voids, VOID_SCHEMA), rejected
