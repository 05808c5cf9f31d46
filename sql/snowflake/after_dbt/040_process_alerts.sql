-- What PROCESS_ALERTS_TASK does: each transition to CRITICAL becomes a line of high_risk_history and, where the
-- customer is on the books, a place in the queue. The rule is that of churn_assets/retention/queue.py. Both statements
-- see the same stream, which moves on when they commit.
CREATE OR REPLACE PROCEDURE process_alerts()
RETURNS VARCHAR
LANGUAGE SQL
EXECUTE AS OWNER
AS
$$
BEGIN
    BEGIN TRANSACTION;
    UPDATE write_turn SET taken_at = SYSDATE();
    INSERT INTO high_risk_history
        (alert_id, customer_id, alerted_at, avg_churn_score, max_churn_score, declines, spend, model_score)
    SELECT
        UUID_STRING(), came.customer_id, SYSDATE(), came.avg_churn_score, came.max_churn_score, came.declines, came.spend,
        predictions.model_score
    FROM churn_metrics_stream AS came
    LEFT JOIN churn_metrics_stream AS was
        ON came.customer_id = was.customer_id AND was.METADATA$ACTION = 'DELETE' AND was.risk_status = 'CRITICAL'
    LEFT JOIN dyn_churn_predictions AS predictions ON came.customer_id = predictions.customer_id
    WHERE came.METADATA$ACTION = 'INSERT' AND came.risk_status = 'CRITICAL' AND was.customer_id IS NULL;

    INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)
    SELECT came.customer_id, 'alert', came.avg_churn_score, predictions.reason_codes, SYSDATE()
    FROM churn_metrics_stream AS came
    LEFT JOIN churn_metrics_stream AS was
        ON came.customer_id = was.customer_id AND was.METADATA$ACTION = 'DELETE' AND was.risk_status = 'CRITICAL'
    INNER JOIN dyn_churn_predictions AS predictions ON came.customer_id = predictions.customer_id
    LEFT JOIN retention_queue AS waiting ON came.customer_id = waiting.customer_id AND waiting.left_at IS NULL
    WHERE came.METADATA$ACTION = 'INSERT' AND came.risk_status = 'CRITICAL'
        AND was.customer_id IS NULL AND waiting.customer_id IS NULL;
    COMMIT;
    RETURN 'done';
EXCEPTION
    WHEN OTHER THEN
        ROLLBACK;
        RAISE;
END;
$$;
