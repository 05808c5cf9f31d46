"""Made-up customers whose chance to leave is known, as rows of the training set; faster than a simulated bank."""

from datetime import date, timedelta

import numpy as np
import pandas as pd

from churn_assets.rules import FEATURES
from churn_assets.warehouse.lake import LakeWarehouse

FIRST = date(2026, 1, 4)
FEW = 12  # cut-offs: as few as can be trained on, validated and tested


def training_rows(customers: int = 2_000, weeks: int = FEW, seed: int = 0) -> pd.DataFrame:
    """Customers at weekly cut-offs. A hidden trouble drives cases, errors, wires and sentiment."""
    rng = np.random.default_rng(seed)
    parts = list[pd.DataFrame]()
    for week in range(weeks):
        trouble = rng.beta(0.5, 2.5, customers)
        cases = rng.poisson(4 * trouble)
        active = rng.binomial(30, 0.65 - 0.3 * trouble)
        chance = 0.02 + 0.8 * trouble**2
        parts.append(
            pd.DataFrame(
                {
                    "customer_id": [f"C{number:05}" for number in range(customers)],
                    "cut_off": FIRST + timedelta(weeks=week),
                    "total_spend_30d": np.round(rng.lognormal(7, 1, customers), 2),
                    "wire_out_30d": np.round(
                        rng.lognormal(6, 1.5, customers) * (rng.random(customers) < 0.3 + trouble / 2), 2
                    ),
                    "txn_count_30d": rng.poisson(0.9 * active),
                    "error_count_30d": rng.poisson(1 + 6 * trouble),
                    "support_cases_30d": cases,
                    "avg_sentiment": np.where(cases > 0, rng.uniform(0.2, 0.9, customers) * (1.1 - trouble), 0.5),
                    "active_days_30d": active,
                    "has_left": rng.random(customers) < chance,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def fill(lake: LakeWarehouse, rows: pd.DataFrame) -> None:
    """Make these rows the training set."""
    import pyarrow as pa

    def write(tx):
        tx.execute("DELETE FROM churn_training_set")
        tx.execute(
            f"INSERT INTO churn_training_set (customer_id, cut_off, {', '.join(FEATURES)}, has_left, made_at)"
            f" SELECT customer_id, cut_off, {', '.join(FEATURES)}, has_left, TIMESTAMP '2026-06-01' FROM made"
        )

    lake.transact(write, {"made": pa.Table.from_pandas(rows, preserve_index=False)})


def put_features(lake: LakeWarehouse, rows: pd.DataFrame) -> None:
    """Make these the live features: one row per customer, with the features."""
    import pyarrow as pa

    def write(tx):
        tx.execute("DELETE FROM dyn_customer_features WHERE customer_id IN (SELECT customer_id FROM made)")
        tx.execute(
            f"INSERT INTO dyn_customer_features (customer_id, {', '.join(FEATURES)})"
            f" SELECT customer_id, {', '.join(FEATURES)} FROM made"
        )

    lake.transact(write, {"made": pa.Table.from_pandas(rows[["customer_id", *FEATURES]], preserve_index=False)})
