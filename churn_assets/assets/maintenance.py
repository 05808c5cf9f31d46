"""Upkeep of the warehouse: what many small writes leave behind. The work itself is in `churn_assets.warehouse`."""

import dagster as dg

from churn_assets.assets import groups
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.ledgers import REJECTS
from churn_assets.assets.readable import rounded, table
from churn_assets.clock import utc_now
from churn_assets.ingestion.events import EVENT_TYPES, LEDGERS
from churn_assets.rules import MAINTENANCE_SECONDS
from churn_assets.warehouse.protocol import Warehouse

# Sorted by time: so the look-up for duplicates and the windows of the features read few parts of a ledger.
ORDER = {event_type.ledger: event_type.event_time for event_type in EVENT_TYPES if not event_type.is_dimension}


@dg.asset(
    deps=[*LEDGERS, REJECTS],
    description="Merges small files, removes deleted rows and old snapshots, and deletes left-over files.",
    **groups.MAINTENANCE.spec("ducklake"),
    freshness_policy=scheduled(MAINTENANCE_SECONDS),
    pool="maintenance",
)
def table_maintenance(warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
    """Keep reads fast and storage small."""
    started_at = utc_now()
    saved = warehouse.maintain(ORDER, started_at)
    changed = {name: counts for name, counts in saved.files.items() if counts[0] != counts[1]}
    return dg.MaterializeResult(
        metadata={
            "files_before": sum(before for before, _ in saved.files.values()),
            "files_after": sum(after for _, after in saved.files.values()),
            "bytes_before": saved.bytes[0],
            "bytes_after": saved.bytes[1],
            "snapshots_expired": saved.snapshots_expired,
            "files_deleted": saved.files_deleted,
            **rounded({"seconds": (utc_now() - started_at).total_seconds()}),
            "files_by_table": table(
                [{"table": name, "before": before, "after": after} for name, (before, after) in changed.items()],
                ["table", "before", "after"],
            ),
        }
    )
