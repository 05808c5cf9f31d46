"""Asset checks that read whole ledgers. A run yields the checks of its own work itself."""

from collections.abc import Callable

import dagster as dg

from churn_assets.assets import pools
from churn_assets.assets.readable import FAILING_ROWS, failing, rounded
from churn_assets.ingestion.events import EVENT_TYPES, EventType
from churn_assets.model.labels import about_undated_closures, undated_closures
from churn_assets.operations.unknown_codes import DAYS, Unknown, unknown_postings, unknown_states
from churn_assets.rules import MAX_ORPHAN_SHARE, MAX_UNKNOWN_POSTINGS
from churn_assets.warehouse.protocol import Warehouse

# (ledger, its foreign key, the ledger that has it as primary key)
FOREIGN_KEYS = (
    ("dim_accounts", "customer_id", "dim_customers"),
    ("fact_transaction_ledger", "account_id", "dim_accounts"),
    ("app_activity_logs", "customer_id", "dim_customers"),
    ("support_cases", "customer_id", "dim_customers"),
    ("churn_scores_raw", "customer_id", "dim_customers"),
)


UNIQUE_CHECK, CODES_CHECK, CLOSURES_CHECK = "primary_key_is_unique", "every_code_is_known", "every_closure_has_a_time"
BLOCKING_LEDGER_CHECKS = tuple(
    dg.AssetCheckKey(dg.AssetKey(event_type.ledger), UNIQUE_CHECK) for event_type in EVENT_TYPES
)


def ledger_checks() -> list[dg.AssetChecksDefinition]:
    """Primary keys are unique and foreign keys resolve, for every ledger; the bank's rules know all codes."""
    return [
        *(_primary_key_check(event_type) for event_type in EVENT_TYPES),
        *(_foreign_key_check(*foreign_key) for foreign_key in FOREIGN_KEYS),
        _codes_check(
            "fact_transaction_ledger",
            f"A rule knows the codes of all postings of {DAYS} days but {MAX_UNKNOWN_POSTINGS:.0%} at most.",
            unknown_postings,
        ),
        _codes_check("dim_accounts", "A rule knows the states of all accounts.", unknown_states),
        _closures_check(),
    ]


def _primary_key_check(event_type: EventType) -> dg.AssetChecksDefinition:
    ledger, key = event_type.ledger, event_type.key

    @dg.asset_check(
        asset=ledger, name=UNIQUE_CHECK, description=f"No {key} occurs twice.", blocking=True, pool=pools.UPKEEP
    )
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


def _codes_check(ledger: str, description: str, look: Callable[[Warehouse], Unknown]) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=ledger, name=CODES_CHECK, description=description, pool=pools.UPKEEP)
    def check(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
        found = look(warehouse)
        return dg.AssetCheckResult(
            passed=not found.is_too_much,
            severity=dg.AssetCheckSeverity.WARN,
            description=found.in_words,
            metadata={
                **rounded({"rows": found.all_rows, "unknown_rows": found.rows, "unknown_share": found.share}),
                **failing(
                    [{"code": code, "row_count": rows} for code, rows in found.codes.items()], ["code", "row_count"]
                ),
            },
        )

    return check


def _closures_check() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="dim_accounts",
        name=CLOSURES_CHECK,
        description="Closed accounts say when they were closed.",
        pool=pools.UPKEEP,
    )
    def check(warehouse: dg.ResourceParam[Warehouse]) -> dg.AssetCheckResult:
        undated, closed = undated_closures(warehouse)
        return dg.AssetCheckResult(
            passed=not undated,
            severity=dg.AssetCheckSeverity.WARN,
            description=about_undated_closures(undated, closed),
            metadata={"closed_accounts": closed, "without_time": undated},
        )

    return check


def _foreign_key_check(ledger: str, key: str, parent: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=ledger,
        name=f"{key}_resolves",
        description=f"At most {MAX_ORPHAN_SHARE:.0%} of the rows have a {key} that {parent} does not know (yet).",
        pool=pools.UPKEEP,
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
