"""Asset checks that read whole ledgers. A run yields the checks of its own work itself."""

import dagster as dg

from churn_assets.assets.readable import FAILING_ROWS, failing, rounded
from churn_assets.ingestion.events import EVENT_TYPES, EventType
from churn_assets.rules import MAX_ORPHAN_SHARE
from churn_assets.warehouse.protocol import Warehouse

# (ledger, its foreign key, the ledger that has it as primary key)
FOREIGN_KEYS = (
    ("dim_accounts", "customer_id", "dim_customers"),
    ("fact_transaction_ledger", "account_id", "dim_accounts"),
    ("app_activity_logs", "customer_id", "dim_customers"),
    ("support_cases", "customer_id", "dim_customers"),
    ("churn_scores_raw", "customer_id", "dim_customers"),
)


UNIQUE_CHECK = "primary_key_is_unique"
BLOCKING_LEDGER_CHECKS = tuple(
    dg.AssetCheckKey(dg.AssetKey(event_type.ledger), UNIQUE_CHECK) for event_type in EVENT_TYPES
)


def ledger_checks() -> list[dg.AssetChecksDefinition]:
    """Primary keys are unique and foreign keys resolve, for every ledger."""
    return [
        *(_primary_key_check(event_type) for event_type in EVENT_TYPES),
        *(_foreign_key_check(*foreign_key) for foreign_key in FOREIGN_KEYS),
    ]


def _primary_key_check(event_type: EventType) -> dg.AssetChecksDefinition:
    ledger, key = event_type.ledger, event_type.key

    @dg.asset_check(asset=ledger, name=UNIQUE_CHECK, description=f"No {key} occurs twice.", blocking=True)
    def check(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
        row = warehouse.query(f"SELECT count(*) - count(DISTINCT {key}) AS repeated FROM {ledger}").to_pylist()[0]
        repeated = (
            warehouse.query(
                f"SELECT {key}, count(*) AS row_count FROM {ledger} GROUP BY {key} HAVING count(*) > 1"
                f" ORDER BY {key} LIMIT {FAILING_ROWS}"
            )
            if row["repeated"]
            else None
        )
        return dg.AssetCheckResult(
            passed=row["repeated"] == 0,
            metadata={
                "repeated_rows": row["repeated"],
                **(failing(repeated.to_pylist(), repeated.column_names) if repeated else {}),
            },
        )

    return check


def _foreign_key_check(ledger: str, key: str, parent: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ledger,
        name=f"{key}_resolves",
        description=f"At most {MAX_ORPHAN_SHARE:.0%} of the rows have a {key} that {parent} does not know (yet).",
    )
    def check(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
        row = warehouse.query(
            f"SELECT count(*) AS all_rows, count(CASE WHEN parent.{key} IS NULL THEN 1 END) AS orphans"
            f" FROM {ledger} AS child LEFT JOIN {parent} AS parent ON child.{key} = parent.{key}"
        ).to_pylist()[0]
        share = row["orphans"] / row["all_rows"] if row["all_rows"] else 0.0
        orphans = (
            warehouse.query(
                f"SELECT child.{key}, count(*) AS row_count FROM {ledger} AS child LEFT JOIN {parent} AS parent"
                f" ON child.{key} = parent.{key} WHERE parent.{key} IS NULL GROUP BY child.{key}"
                f" ORDER BY row_count DESC NULLS LAST, child.{key} LIMIT {FAILING_ROWS}"
            )
            if row["orphans"]
            else None
        )
        return dg.AssetCheckResult(
            passed=share <= MAX_ORPHAN_SHARE,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                **rounded({"orphans": row["orphans"], "orphan_share": share}),
                **(failing(orphans.to_pylist(), orphans.column_names) if orphans else {}),
            },
        )

    return check
