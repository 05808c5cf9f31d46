-- Such a stream begins with the next change (SHOW_INITIAL_ROWS is not for dynamic tables), so who is HIGH already would
-- never be written to. Only where nobody has ever waited.
INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)
SELECT
    predictions.customer_id,
    'prediction' AS source,
    predictions.risk_score,
    predictions.reason_codes,
    SYSDATE() AS queued_at
FROM dyn_churn_predictions AS predictions
WHERE
    predictions.risk_class = 'HIGH'
    AND NOT EXISTS (SELECT 1 FROM retention_queue);
