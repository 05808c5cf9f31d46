"""Stage 6: the index that people search in. The work itself is in `churn_assets.search`."""

import dagster as dg

from churn_assets.assets import groups, pools
from churn_assets.assets.freshness import scheduled
from churn_assets.assets.readable import rounded
from churn_assets.rules import SEARCH_POSITION_SECONDS
from churn_assets.settings import Settings
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.wiring import open_log_index, place_of


def log_search_index_asset(settings: Settings) -> dg.AssetsDefinition:
    """`log_search_index`; without a freshness policy if the warehouse's own search keeps itself up to date."""
    freshness = scheduled(SEARCH_POSITION_SECONDS) if place_of(settings).kind == "ducklake" else None

    @dg.asset(
        deps=["app_activity_logs", "support_cases", "dim_customers"],
        description=(
            "An index for searching the errors of the app and the support cases in words. Each run adds what has changed in the"
            " ledgers since the last one. On Snowflake the search service keeps itself up to date."
        ),
        **groups.SERVING.spec("tantivy", "search"),
        freshness_policy=freshness,
        pool=pools.SEARCH,
    )
    def log_search_index(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse], settings: dg.ResourceParam[Settings]
    ) -> dg.MaterializeResult:
        """Bring the search index up to date."""
        index = open_log_index(settings, warehouse)
        if index is None:
            return dg.MaterializeResult(metadata={"action": "the service churn_logs_search refreshes itself"})
        update = index.update()
        if update.reason:
            context.log.warning(f"built in full: {update.reason}")
        return dg.MaterializeResult(
            metadata={
                "action": update.action,
                "reason": update.reason,
                "documents_added": update.documents_added,
                "documents_removed": update.documents_removed,
                "dagster/row_count": update.documents,
                "bytes": update.bytes,
                **rounded({"seconds": update.seconds}),
                "snapshot": update.position.snapshot,
            }
        )

    return log_search_index
