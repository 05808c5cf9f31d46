"""Dynamic tables as they are, and as they would be if they were computed anew: what any refresh is held to."""

from datetime import datetime
from pathlib import Path

from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.lake_place import DATA, MODELS, LakePlace
from churn_assets.wiring import open_lake


def recomputed(lake: LakeWarehouse, copy: Path, now: datetime) -> LakeWarehouse:
    """A copy of a lake in a new folder, its dynamic tables refreshed as if for the first time, at `now` (UTC)."""
    copy.mkdir()
    source, there = lake.place.folder, LakePlace.here(copy)
    with lake.moving() as copy_catalog:
        copy_catalog(there)
        for name in source.sizes(DATA) | source.sizes(MODELS):
            with source.open(name) as opened:
                there.folder.write(name, opened)
    anew = open_lake(there)
    anew.transact(
        lambda tx: tx.execute(
            "UPDATE dynamic_tables SET position = NULL, base_position = NULL, as_of_day = NULL, refreshed_at = NULL"
        )
    )
    refreshed = anew.refresh([table.name for table in anew.dynamic_tables(now)], now)
    assert {result.action for result in refreshed} == {"INITIAL"}
    return anew


def dynamic_rows(lake: LakeWarehouse, now: datetime) -> dict[str, list[str]]:
    """The rows of each dynamic table, without the times at which they were computed."""
    found: dict[str, list[str]] = {}
    for table in lake.dynamic_tables(now):
        rows = lake.query(f"FROM {table.name}")
        kept = rows.drop_columns([name for name in ("computed_at", "updated_at") if name in rows.column_names])
        found[table.name] = sorted(map(str, kept.to_pylist()))
    return found
