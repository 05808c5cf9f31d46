-- A stream begins with the next change (SHOW_INITIAL_ROWS does not work for dynamic tables), and a recreated stream
-- misses what happened in between. So these statements queue every customer who is at risk when a stream is created:
-- the deployment runs each once per creation of the stream on the table after FROM. No customer is queued twice, or
-- within the pause after an intervention.
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
    AND predictions.customer_id NOT IN (
        SELECT waiting.customer_id FROM retention_queue AS waiting
        WHERE waiting.left_at IS NULL
    )
    AND predictions.customer_id NOT IN (
        SELECT log.customer_id FROM agent_intervention_log AS log
        WHERE log.created_at > DATEADD('day', -{{ email_pause_days }}, SYSDATE()) AND log.status != 'CANCELLED'
    );

INSERT INTO high_risk_history
(alert_id, customer_id, alerted_at, avg_churn_score, max_churn_score, declines, spend, model_score)
SELECT
    UUID_STRING() AS alert_id,
    metrics.customer_id,
    SYSDATE() AS alerted_at,
    metrics.avg_churn_score,
    metrics.max_churn_score,
    metrics.declines,
    metrics.spend,
    predictions.model_score
FROM churn_metrics_live AS metrics
LEFT JOIN dyn_churn_predictions AS predictions ON metrics.customer_id = predictions.customer_id
WHERE
    metrics.risk_status = 'CRITICAL'
    AND metrics.customer_id NOT IN (
        SELECT known.customer_id FROM high_risk_history AS known
        WHERE known.alerted_at > DATEADD('hour', -{{ alert_hours }}, SYSDATE())
    );

INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)
SELECT
    metrics.customer_id,
    'alert' AS source,
    metrics.avg_churn_score,
    predictions.reason_codes,
    SYSDATE() AS queued_at
FROM churn_metrics_live AS metrics
INNER JOIN dyn_churn_predictions AS predictions ON metrics.customer_id = predictions.customer_id
WHERE
    metrics.risk_status = 'CRITICAL'
    AND metrics.customer_id NOT IN (
        SELECT waiting.customer_id FROM retention_queue AS waiting
        WHERE waiting.left_at IS NULL
    )
    AND metrics.customer_id NOT IN (
        SELECT log.customer_id FROM agent_intervention_log AS log
        WHERE log.created_at > DATEADD('day', -{{ email_pause_days }}, SYSDATE()) AND log.status != 'CANCELLED'
    );
