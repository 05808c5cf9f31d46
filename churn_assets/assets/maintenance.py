"""Upkeep of the warehouse and of Dagster's own storage: what many small writes and many runs leave behind.

The work itself is in `churn_assets.warehouse` and `dagster_warm.retention`.
"""

from dataclasses import asdict
from datetime import datetime, time, timedelta

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.ledgers import REJECTS
from churn_assets.assets.readable import failing, rounded, table
from churn_assets.clock import utc_now
from churn_assets.ingestion.commit import merge_old_ranges
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS
from churn_assets.operations import damage
from churn_assets.rules import FILE_CHECK_SHARE, MAINTENANCE_SECONDS, PURGE_SECONDS, RANGES_DAYS, SKIPPED_TICKS_HOURS
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse
from dagster_warm.retention import Retention, purge

# Sorted by time: so the look-up for duplicates and the windows of the features read few parts of a ledger.
ORDER = {event_type.ledger: event_type.event_time for event_type in EVENT_TYPES if not event_type.is_dimension}
FILES_CHECK = dg.AssetCheckKey(dg.AssetKey("table_maintenance"), "files_are_whole")


@dg.asset(
    deps=[*LEDGERS, REJECTS],
    description="Merges small files, removes deleted rows and old snapshots, and deletes left-over files.",
    **groups.MAINTENANCE.spec("ducklake"),
    freshness_policy=scheduled(MAINTENANCE_SECONDS),
    pool=pools.UPKEEP,
)
def table_maintenance(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Keep reads fast and storage small."""
    started_at = utc_now()
    # By whole days, so that it is done once a day.
    before = datetime.combine(started_at.date() - timedelta(days=RANGES_DAYS), time.min)
    joined = warehouse.transact(lambda tx: merge_old_ranges(tx, before))
    saved = warehouse.maintain(ORDER, started_at)
    seen = damage.check(warehouse, 0.0, started_at)  # takes the checksums of the files that are new
    changed = {name: counts for name, counts in saved.files.items() if counts[0] != counts[1]}
    return dg.MaterializeResult(
        metadata={
            "files_before": sum(before for before, _ in saved.files.values()),
            "files_after": sum(after for _, after in saved.files.values()),
            "bytes_before": saved.bytes[0],
            "bytes_after": saved.bytes[1],
            "snapshots_expired": saved.snapshots_expired,
            "files_deleted": saved.files_deleted,
            "files_damaged": len(seen.damage),
            "offset_ranges_joined": joined,
            **rounded({"seconds": (utc_now() - started_at).total_seconds()}),
            "files_by_table": table(
                [{"table": name, "before": before, "after": after} for name, (before, after) in changed.items()],
                ["table", "before", "after"],
            ),
        }
    )


@dg.asset_check(
    asset="table_maintenance",
    name=FILES_CHECK.name,
    description="Every file of the tables and models is there, of the size that was written, and has the content of before.",
    blocking=True,
    pool=pools.UPKEEP,
)
def files_are_whole(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
    """Read a part of the files; all of them within a week."""
    done = damage.check(warehouse, FILE_CHECK_SHARE, utc_now())
    return dg.AssetCheckResult(
        passed=not done.damage,
        description=damage.in_words(done.damage) or None,
        metadata={
            "files": done.files,
            "files_read": done.read,
            "files_new": done.new,
            "bytes_read": done.bytes_read,
            **failing([asdict(one) for one in done.damage], ["file", "table", "problem", "way_out"]),
        },
    )


@dg.asset(
    deps=[*LEDGERS, REJECTS],
    description="The runs that Dagster's storage holds: old ones are deleted with their events, logs and ticks.",
    **groups.MAINTENANCE.spec("dagster"),
    freshness_policy=scheduled(PURGE_SECONDS),
    pool=pools.UPKEEP,
)
def run_history(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Keep Dagster's storage small; what gates, sensors and freshness policies look at stays."""
    retention = Retention(
        successes=timedelta(days=settings.runs_days),
        failures=timedelta(days=settings.failed_runs_days),
        runs_of_a_job=settings.runs_of_a_job,
        skipped_ticks=timedelta(hours=SKIPPED_TICKS_HOURS),
    )
    deleted = purge(context.instance, retention, utc_now())
    return dg.MaterializeResult(
        metadata={"dagster/row_count": context.instance.get_runs_count(), "runs_deleted": deleted}
    )
