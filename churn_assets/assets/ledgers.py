"""Stage 1: the Kafka topics, the ledgers and the rejects. The work itself is in `churn_assets.ingestion`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import dagster as dg
import pydantic

from churn_assets.assets import groups, pools
from churn_assets.assets.columns import table_metadata
from churn_assets.assets.readable import failing, rounded, table
from churn_assets.clock import utc_now
from churn_assets.ingestion import gaps, kafka, schema_registry
from churn_assets.ingestion.backlog import PartitionLag, ingest, lags
from churn_assets.ingestion.commit import Stored, broken_ranges, fatal_rejects
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS, EventType
from churn_assets.ingestion.isolation import FATAL_REASONS
from churn_assets.ingestion.kafka import OffsetRange, Partition
from churn_assets.ingestion.mapping.compiling import load_mappings
from churn_assets.rules import EVENTS_TOPIC, SCORES_TOPIC
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse, row_counts

REJECTS = "event_rejects"

_ACCOUNTED, _CONTIGUOUS, _COMPLETE, _DECODED = (
    "every_message_is_accounted_for",
    "offsets_are_contiguous",
    "no_messages_are_missing",
    "no_message_stopped_the_decoder",
)
BLOCKING_INGEST_CHECKS = tuple(
    dg.AssetCheckKey(dg.AssetKey(REJECTS), name) for name in (_ACCOUNTED, _CONTIGUOUS, _COMPLETE)
)
INGEST_CHECKS = (*BLOCKING_INGEST_CHECKS, dg.AssetCheckKey(dg.AssetKey(REJECTS), _DECODED))
COMPLETE_CHECK = dg.AssetCheckKey(dg.AssetKey(REJECTS), _COMPLETE)

topics = [
    dg.AssetSpec(
        topic,
        description=f"The topic of {what}: JSON envelopes of event_type and payload. CHURN_TOPICS names other topics.",
        **groups.LEDGERS.spec("kafka"),
        metadata={
            "dagster/column_schema": dg.TableSchema(
                [
                    dg.TableColumn("event_type", "string", "The type of the event; docs/events.md has all types."),
                    dg.TableColumn("payload", "object", "The members that the contract of the event names."),
                ]
            )
        },
    )
    for topic, what in ((EVENTS_TOPIC, "the events of the bank"), (SCORES_TOPIC, "scores of other systems"))
]


class RangeConfig(dg.Config):
    """The messages `[start, end)` of one partition; an epoch is one life of a topic."""

    epoch: str
    topic: str
    partition: int
    start: int
    end: int


class IngestConfig(dg.Config):
    """Exactly what a run reads. Without ranges it reads all messages that wait."""

    ranges: list[RangeConfig] = pydantic.Field(default_factory=list)
    isolated: bool = pydantic.Field(
        False, description="Decode in a child process, which finds a message on which the decoder dies."
    )


def ingest_config(ranges: list[OffsetRange], *, isolated: bool = False) -> IngestConfig:
    """The run configuration that reads `ranges`; `isolated`: with decoding in a child process."""
    return IngestConfig(
        isolated=isolated,
        ranges=[
            RangeConfig(
                epoch=r.partition.epoch, topic=r.partition.topic, partition=r.partition.number, start=r.start, end=r.end
            )
            for r in ranges
        ],
    )


def _ledger_spec(event_type: EventType) -> dg.AssetSpec:
    return dg.AssetSpec(
        event_type.ledger,
        deps=[event_type.topic],
        description=event_type.description,
        **groups.LEDGERS.spec("ducklake", "table"),
        skippable=True,
        metadata={**table_metadata(event_type.ledger), "primary_key": event_type.key},
    )


_rejects_spec = dg.AssetSpec(
    REJECTS,
    deps=topics,
    description="Messages that could not become rows, with the reason and the original bytes.",
    **groups.LEDGERS.spec("ducklake", "table"),
    skippable=True,
    metadata=table_metadata(REJECTS),
)


@dg.multi_asset(
    name="ingest",
    specs=[*(_ledger_spec(event_type) for event_type in EVENT_TYPES), _rejects_spec],
    check_specs=[
        dg.AssetCheckSpec(
            _ACCOUNTED,
            asset=REJECTS,
            blocking=True,
            description="Each message of the run is a stored row, a dropped duplicate, a reject, or left out by a mapping.",
        ),
        dg.AssetCheckSpec(
            _CONTIGUOUS,
            asset=REJECTS,
            blocking=True,
            description="The stored offset ranges of each partition follow one another up to the committed offset.",
        ),
        dg.AssetCheckSpec(
            _COMPLETE,
            asset=REJECTS,
            blocking=True,
            description="Kafka holds every message that is not yet stored, and those that were, as they were. If not,"
            " `churn gaps` names what is missing, and `churn gaps resolve` goes on.",
        ),
        dg.AssetCheckSpec(
            _DECODED,
            asset=REJECTS,
            description="No message of the run made the decoder die, fail or hang. Such a message is a reject, and the"
            " stream went on without it; please report it.",
        ),
    ],
    pool=pools.INGESTION,
)
def ledgers(
    context: dg.AssetExecutionContext,
    config: IngestConfig,
    warehouse: dg.ResourceParam[Warehouse],
    settings: dg.ResourceParam[Settings],
):
    """Store the messages of the configured offset ranges, exactly once."""
    cluster = kafka.connect(settings)
    started_at = utc_now()
    result = ingest(
        warehouse,
        cluster,
        _configured(config) or [lag.waiting for lag in lags(warehouse, cluster, settings.topics)],
        on_gap=settings.on_gap,
        group=settings.kafka_group,
        clock=utc_now,
        report=context.log.info,
        isolated=config.isolated,
        mappings=load_mappings(settings.mapping_file),
        registry=schema_registry.connect(settings),
    )
    seconds = (utc_now() - started_at).total_seconds()
    yield from materializations(warehouse, result, seconds)
    for observation in observations(lags(warehouse, cluster, settings.topics), result.ranges, seconds):
        context.log_event(observation)
    yield from checks(warehouse, result, seconds, started_at)


def materializations(warehouse: Warehouse, result: Stored, seconds: float) -> Iterator[dg.MaterializeResult[Any]]:
    """What an ingestion of `seconds` has written: the ledgers with new rows, and the rejects if there are any."""
    metadata = _run_metadata(result, seconds)
    written = [ledger for ledger in LEDGERS if result.rows[ledger]]
    counts = row_counts(warehouse, [*written, *([REJECTS] if result.rejected else [])])
    for ledger in written:
        yield dg.MaterializeResult(
            asset_key=ledger,
            metadata={
                **metadata,
                "rows_stored": result.rows[ledger],
                "duplicates_dropped": result.duplicates[ledger],
                "dagster/row_count": counts[ledger],
            },
        )
    if result.rejected:
        yield dg.MaterializeResult(
            asset_key=REJECTS,
            metadata={
                **metadata,
                "rejected": _counts(result.rejected, "reason"),
                "dagster/row_count": counts[REJECTS],
            },
        )


def checks(warehouse: Warehouse, result: Stored, seconds: float, started_at: datetime) -> Iterator[dg.AssetCheckResult]:
    """What the checks find after an ingestion of `seconds` that began at `started_at` (UTC)."""
    yield _accounted_check(result, _run_metadata(result, seconds))
    yield _contiguous_check(broken_ranges(warehouse))
    yield _complete_check([str(each.gap) for each in gaps.kept(warehouse)], result)
    stopped = result.rejected.keys() & {*FATAL_REASONS}
    yield _decoded_check(fatal_rejects(warehouse, started_at) if stopped else [])


def _configured(config: IngestConfig) -> list[OffsetRange]:
    return [OffsetRange(Partition(r.epoch, r.topic, r.partition), r.start, r.end) for r in config.ranges]


def _run_metadata(result: Stored, seconds: float) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "ranges": _table_of_ranges(result.ranges),
        "messages": result.messages,
        "bytes": result.bytes,
        "seconds": seconds,
    }
    if result.newest_event_time is not None:
        metadata["event_time_lag_seconds"] = (utc_now() - result.newest_event_time).total_seconds()
    return rounded(metadata)


def _table_of_ranges(ranges: Sequence[OffsetRange]) -> dg.TableMetadataValue:
    """The ranges that were read, adjacent ones joined: messages `from` up to but not including `to`."""
    rows: list[dict[str, Any]] = []
    for partition, of_partition in groupby(sorted(ranges), key=lambda each: each.partition):
        for each in of_partition:
            if rows and (rows[-1]["of"], rows[-1]["to"]) == (partition, each.start):
                rows[-1]["to"] = each.end
            else:
                rows.append(
                    {
                        "of": partition,
                        "topic": partition.topic,
                        "partition": partition.number,
                        "from": each.start,
                        "to": each.end,
                    }
                )
    return table(
        [{**row, "messages": row["to"] - row["from"]} for row in rows],
        ["topic", "partition", "from", "to", "messages"],
    )


def observations(
    left: Sequence[PartitionLag], stored: Sequence[OffsetRange], seconds: float
) -> list[dg.AssetObservation]:
    """The state of the topics after the run: lag, partitions and how fast messages were stored.

    Topics that only CHURN_TOPICS names are shown at the asset of the bank's events.
    """
    observations: list[dg.AssetObservation] = []
    for asset in (EVENTS_TOPIC, SCORES_TOPIC):
        messages = sum(len(each) for each in stored if _asset_of(each.partition) == asset)
        standing = [lag for lag in left if _asset_of(lag.partition) == asset]
        if messages:
            metadata = {
                "lag_messages": sum(len(lag.waiting) for lag in standing),
                "messages_stored": messages,
                "messages_per_second": messages / seconds,
                "partitions": table(
                    [
                        {
                            "topic": lag.partition.topic,
                            "partition": lag.partition.number,
                            "oldest_offset": lag.watermarks.low if lag.watermarks else None,
                            "next_offset": lag.watermarks.high if lag.watermarks else None,
                            "stored_up_to": lag.waiting.start,
                            "lag_messages": len(lag.waiting),
                        }
                        for lag in standing
                    ],
                    ["topic", "partition", "lag_messages", "stored_up_to", "next_offset", "oldest_offset"],
                ),
            }
            observations.append(
                dg.AssetObservation(asset, description="after messages were stored", metadata=rounded(metadata))
            )
    return observations


def _asset_of(partition: Partition) -> str:
    return partition.topic if partition.topic == SCORES_TOPIC else EVENTS_TOPIC


def _accounted_check(result: Stored, metadata: dict[str, Any]) -> dg.AssetCheckResult:
    """The account of the whole run, even of one that found only duplicates and therefore materialized nothing."""
    return dg.AssetCheckResult(
        check_name=_ACCOUNTED,
        asset_key=REJECTS,
        passed=result.accounted == result.messages,
        metadata={
            **metadata,
            "stored_dropped_or_rejected": result.accounted - result.left_out,
            "left_out_by_a_mapping": result.left_out,
            "rows_stored": _counts(result.rows, "ledger"),
            "duplicates_dropped": _counts(result.duplicates, "ledger"),
            "rejected": _counts(result.rejected, "reason"),
        },
    )


def _contiguous_check(broken: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_CONTIGUOUS, asset_key=REJECTS, passed=not broken, metadata=_failing_texts("broken_range", broken)
    )


def _complete_check(gaps: list[str], result: Stored) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_COMPLETE,
        asset_key=REJECTS,
        passed=not gaps,
        description="; ".join(gaps) or None,
        metadata={"skipped": [str(gone) for gone in result.skipped], **_failing_texts("gap", gaps)},
    )


def _decoded_check(rejects: list[dict[str, Any]]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=_DECODED,
        asset_key=REJECTS,
        passed=not rejects,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "messages": len(rejects),
            **failing(rejects, ["kafka_topic", "kafka_partition", "kafka_offset", "reason", "rejected_at"]),
        },
    )


def _counts(counts: Mapping[str, int], name: str) -> dg.TableMetadataValue:
    return table([{name: what, "messages": number} for what, number in counts.items()], [name, "messages"])


def _failing_texts(name: str, texts: Sequence[str]) -> dict[str, Any]:
    return {f"{name}s": len(texts), **failing([{name: text} for text in texts], [name])}
