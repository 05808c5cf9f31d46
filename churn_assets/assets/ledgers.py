"""Stage 1: the Kafka topic, the five ledgers and the rejects. The work itself is in `churn_assets.ingestion`."""

import dagster as dg
import pydantic

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.commit import Ingested, broken_ranges, committed_offsets, ingest, waiting_ranges
from churn_assets.ingestion.events import EVENT_TYPES, EventType
from churn_assets.ingestion.kafka import Cluster, OffsetRange
from churn_assets.settings import EVENTS_TOPIC, Settings
from churn_assets.warehouse.protocol import Warehouse

GROUP = "ledgers"
REJECTS = "event_rejects"
OWNER = "team:data-engineering"

_ACCOUNTED, _CONTIGUOUS = "every_message_is_accounted_for", "offsets_are_contiguous"
INGEST_CHECKS = tuple(dg.AssetCheckKey(dg.AssetKey(REJECTS), name) for name in (_ACCOUNTED, _CONTIGUOUS))

events_topic = dg.AssetSpec(
    EVENTS_TOPIC,
    description="The Kafka topic that all events of the bank arrive on, as JSON envelopes of event_type and payload.",
    kinds={"kafka"},
    group_name=GROUP,
    owners=[OWNER],
)


class RangeConfig(dg.Config):
    """The messages `[start, end)` of one partition."""

    topic: str
    partition: int
    start: int
    end: int


class IngestConfig(dg.Config):
    """Exactly what a run reads. Without ranges it reads all that waits."""

    epoch: str = ""
    ranges: list[RangeConfig] = pydantic.Field(default_factory=list)


def ingest_config(epoch: str, ranges: list[OffsetRange]) -> IngestConfig:
    """The run configuration that reads `ranges`."""
    return IngestConfig(
        epoch=epoch,
        ranges=[RangeConfig(topic=r.topic, partition=r.partition, start=r.start, end=r.end) for r in ranges],
    )


def _ledger_spec(event_type: EventType) -> dg.AssetSpec:
    columns = [
        dg.TableColumn(
            field.name, field.type, field.description, dg.TableColumnConstraints(nullable=not field.required)
        )
        for field in event_type.fields
    ]
    return dg.AssetSpec(
        event_type.ledger,
        deps=[events_topic],
        description=event_type.description,
        kinds={"ducklake", "table"},
        group_name=GROUP,
        owners=[OWNER],
        skippable=True,
        metadata={
            "dagster/column_schema": dg.TableSchema(columns),
            "dagster/table_name": f"lake.main.{event_type.ledger}",
            "primary_key": event_type.key,
        },
    )


_rejects_spec = dg.AssetSpec(
    REJECTS,
    deps=[events_topic],
    description="Messages that could not become rows, with the reason and the original bytes.",
    kinds={"ducklake", "table"},
    group_name=GROUP,
    owners=[OWNER],
    skippable=True,
    metadata={"dagster/table_name": f"lake.main.{REJECTS}"},
)


@dg.multi_asset(
    name="ingest",
    specs=[*(_ledger_spec(event_type) for event_type in EVENT_TYPES), _rejects_spec],
    check_specs=[
        dg.AssetCheckSpec(
            _ACCOUNTED,
            asset=REJECTS,
            blocking=True,
            description="Each message of the run is a stored row, a dropped duplicate or a reject.",
        ),
        dg.AssetCheckSpec(
            _CONTIGUOUS,
            asset=REJECTS,
            blocking=True,
            description="The stored offset ranges of each partition follow one another up to the committed offset.",
        ),
    ],
    pool="ingest",
)
def ledgers(
    context: dg.AssetExecutionContext,
    config: IngestConfig,
    warehouse: dg.ResourceParam[Warehouse],
    settings: dg.ResourceParam[Settings],
):
    """Store the messages of the configured offset ranges, exactly once."""
    cluster = kafka.locate(settings)
    epoch, ranges = _requested(config, cluster, warehouse)
    result = ingest(warehouse, cluster, epoch, ranges, utc_now())
    context.log.info("%d messages in %s", result.messages, result.ranges)
    metadata = _run_metadata(epoch, result)
    for event_type in EVENT_TYPES:
        ledger = event_type.ledger
        if result.stored.get(ledger):
            yield dg.MaterializeResult(
                asset_key=ledger,
                metadata={
                    **metadata,
                    "rows_stored": result.stored[ledger],
                    "duplicates_dropped": result.duplicates[ledger],
                    "dagster/row_count": row_count(warehouse, ledger),
                },
            )
    if result.rejected:
        yield dg.MaterializeResult(
            asset_key=REJECTS,
            metadata={**metadata, "rejected": result.rejected, "dagster/row_count": row_count(warehouse, REJECTS)},
        )
    yield _accounted_check(result)
    yield _contiguous_check(broken_ranges(warehouse))


def row_count(warehouse: Warehouse, table: str) -> int:
    """The number of rows of a table now."""
    return warehouse.query(f"SELECT count(*) AS row_count FROM {table}")["row_count"][0].as_py()


def _requested(config: IngestConfig, cluster: Cluster, warehouse: Warehouse) -> tuple[str, list[OffsetRange]]:
    if config.ranges:
        return config.epoch, [OffsetRange(r.topic, r.partition, r.start, r.end) for r in config.ranges]
    marks = kafka.watermarks(cluster, EVENTS_TOPIC)
    return cluster.epoch, waiting_ranges(EVENTS_TOPIC, marks, committed_offsets(warehouse, cluster.epoch))


def _run_metadata(epoch: str, result: Ingested) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "epoch": dg.MetadataValue.text(epoch),
        "ranges": dg.MetadataValue.json([[r.topic, r.partition, r.start, r.end] for r in result.ranges]),
        "messages": dg.MetadataValue.int(result.messages),
        "bytes": dg.MetadataValue.int(result.bytes),
    }
    if result.newest_event_time is not None:
        lag = (utc_now() - result.newest_event_time).total_seconds()
        metadata["event_time_lag_seconds"] = dg.MetadataValue.float(lag)
    return metadata


def _accounted_check(result: Ingested) -> dg.AssetCheckResult:
    outcomes = sum(result.stored.values()) + sum(result.duplicates.values()) + sum(result.rejected.values())
    return dg.AssetCheckResult(
        check_name=_ACCOUNTED,
        asset_key=REJECTS,
        passed=outcomes == result.messages,
        metadata={"messages": result.messages, "stored_dropped_or_rejected": outcomes},
    )


def _contiguous_check(broken: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_CONTIGUOUS, asset_key=REJECTS, passed=not broken, metadata={"broken_ranges": broken}
    )
