"""The trend of risk: count the customers at risk in each segment, and keep the counts for later comparison.

The predictions show only the present, and time travel reaches back only a day.
"""

from datetime import datetime

from churn_assets.warehouse.protocol import Transaction, Warehouse

_COUNT = """
INSERT INTO risk_by_segment (counted_at, segment, customer_count, high_count, medium_count, average_risk_score)
SELECT
    CAST(? AS TIMESTAMP),
    customers.segment,
    count(*),
    sum(CASE WHEN predictions.risk_class = 'HIGH' THEN 1 ELSE 0 END),
    sum(CASE WHEN predictions.risk_class = 'MEDIUM' THEN 1 ELSE 0 END),
    avg(predictions.risk_score)
FROM dyn_churn_predictions AS predictions
INNER JOIN dim_customers AS customers ON predictions.customer_id = customers.customer_id
GROUP BY customers.segment
"""


def count_risk(warehouse: Warehouse, now: datetime) -> int:
    """Record how many customers of each segment are at risk at `now` (UTC); return the number of segments."""

    def count(tx: Transaction) -> int:
        return tx.execute(_COUNT, [now])

    return warehouse.transact(count)
