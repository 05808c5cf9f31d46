"""However a stream is cut into ranges, and in whatever order they are run or run again, the ledgers are the same."""

import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from churn_assets.clock import utc_now
from churn_assets.ingestion import commit
from churn_assets.ingestion.commit import broken_ranges, committed_offsets, not_yet_committed
from churn_assets.ingestion.decoding import MESSAGE_SCHEMA, decode
from churn_assets.ingestion.events import LEDGERS
from churn_assets.ingestion.kafka import Chunk, OffsetRange, Partition
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.messages import message
from churn_assets_tests.rounds import rounds

PARTITIONS = 3
NOW = utc_now()
# Few keys, so that most events repeat, contradict or overtake another one.
EVENTS = st.one_of(
    st.builds(
        lambda ref, day, amount: message("TXN", transaction_ref=ref, posting_date=f"2026-03-0{day}", amount=amount),
        st.sampled_from("ABC"),
        st.just(1),
        st.integers(1, 3),
    ),
    st.builds(
        lambda ref, day: message("CASE", case_id=f"{ref}{day}", open_timestamp=f"2026-{day:02d}-03"),
        st.sampled_from("AB"),
        st.integers(1, 9),
    ),
    st.builds(
        lambda name, day: message("USER", full_name=name, updated_at=f"2026-03-0{day}"),
        st.sampled_from(["Ada", "Bob", "Eve"]),
        st.integers(1, 3),
    ),
    st.sampled_from([b"poison", b"{}", message("TXN", amount="much")]),
)


def slice_of(stream: list[list[bytes]], part: OffsetRange) -> pa.Table:
    values = stream[part.partition.number][part.start : part.end]
    size = len(values)
    columns = [[part.partition.number] * size, range(part.start, part.end), [NOW] * size, values]
    return pa.table(columns, schema=MESSAGE_SCHEMA)


def ingest(lake: LakeWarehouse, stream: list[list[bytes]], asked: list[OffsetRange]) -> None:
    if ranges := not_yet_committed(asked, committed_offsets(lake)):
        messages = pa.concat_tables([slice_of(stream, part) for part in ranges])
        commit.store(lake, Chunk("t", ranges, messages), decode(messages, NOW), NOW, {})


def outcome(lake: LakeWarehouse) -> dict[str, list[tuple[object, ...]]]:
    """What is stored: payloads, rejects, offsets. Where a retry came from is not part of it."""
    tables = {
        ledger: ", ".join(field.name for field in event_type.fields) for ledger, event_type in LEDGERS.items()
    } | {
        "event_rejects": "kafka_partition, kafka_offset, reason, original",
        "kafka_offsets": "kafka_partition, committed_offset",
    }
    return {
        table: sorted(
            (tuple(row.values()) for row in lake.query(f"SELECT {columns} FROM {table}").to_pylist()), key=str
        )
        for table, columns in tables.items()
    }


def empty(lake: LakeWarehouse) -> None:
    def delete(tx) -> None:
        for table in [*LEDGERS, "event_rejects", "kafka_offsets", "ingest_ranges"]:
            tx.execute(f"DELETE FROM {table}")

    lake.transact(delete)


def plan(stream: list[list[bytes]], luck: random.Random) -> list[list[OffsetRange]]:
    """Runs that read every partition in ranges of random size, interleaved, with earlier runs repeated in between."""
    positions = [0] * len(stream)
    runs: list[list[OffsetRange]] = []
    while any(position < len(values) for position, values in zip(positions, stream, strict=True)):
        run: list[OffsetRange] = []
        for number, values in enumerate(stream):
            end = min(len(values), positions[number] + luck.choice([0, 0, 1, 2, 5]))
            if end > positions[number]:
                run.append(OffsetRange(Partition("e", "t", number), positions[number], end))
                positions[number] = end
        runs.append(run)
        if luck.random() < 0.3:
            runs.append(luck.choice(runs))
    return runs


@pytest.mark.slow
@settings(max_examples=rounds(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(EVENTS, max_size=12), min_size=PARTITIONS, max_size=PARTITIONS), st.integers(0, 2**32))
def test_any_split_into_ranges_and_any_order_of_replays_gives_the_same_ledgers(lake: LakeWarehouse, stream, number):
    empty(lake)
    whole = [OffsetRange(Partition("e", "t", p), 0, len(values)) for p, values in enumerate(stream) if values]
    ingest(lake, stream, whole)
    at_once = outcome(lake)

    empty(lake)
    for run in plan(stream, random.Random(number)):
        ingest(lake, stream, run)

    assert outcome(lake) == at_once
    assert not broken_ranges(lake)


def test_a_retry_that_was_sent_before_what_is_stored_takes_its_place(lake: LakeWarehouse):
    one, two = message("TXN", amount=1), message("TXN", amount=2)
    stream = [[b"poison", one, two], [b"poison", b"poison", b"poison", one]]

    for part in (
        OffsetRange(Partition("e", "t", 1), 0, 4),
        *(OffsetRange(Partition("e", "t", 0), n, n + 1) for n in range(3)),
    ):
        ingest(lake, stream, [part])

    assert lake.query("SELECT amount FROM fact_transaction_ledger")["amount"].to_pylist() == [1], "as all at once"


def test_the_earlier_of_two_contradicting_facts_stands_whichever_is_stored_first(lake: LakeWarehouse):
    stream = [[message("TXN", amount=1)], [b"poison", message("TXN", amount=2)]]
    first, second = OffsetRange(Partition("e", "t", 0), 0, 1), OffsetRange(Partition("e", "t", 1), 0, 2)

    ingest(lake, stream, [second])
    assert lake.query("SELECT amount FROM fact_transaction_ledger")["amount"].to_pylist() == [2]
    ingest(lake, stream, [first])
    assert lake.query("SELECT amount FROM fact_transaction_ledger")["amount"].to_pylist() == [1]
