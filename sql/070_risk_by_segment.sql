-- Counts of customers at risk by segment over time, for the risk trend. Each time has rows for all segments or for
-- none.
CREATE TABLE IF NOT EXISTS risk_by_segment (
    counted_at TIMESTAMP NOT NULL,
    segment VARCHAR NOT NULL,
    customer_count BIGINT NOT NULL,
    high_count BIGINT NOT NULL,
    medium_count BIGINT NOT NULL,
    average_risk_score DOUBLE NOT NULL
);
