-- How many customers of each segment were at risk, over time.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.risk_trend (
    segment,
    counted_at,
    customer_count,
    high_count,
    medium_count,
    average_risk_score
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    counted.segment,
    counted.counted_at,
    counted.customer_count,
    counted.high_count,
    counted.medium_count,
    counted.average_risk_score
FROM {{ database }}.{{ schema }}.risk_by_segment AS counted;
