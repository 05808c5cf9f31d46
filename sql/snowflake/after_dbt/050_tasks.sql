-- Tasks that the streams trigger. They are created suspended, because Dagster does the same work, and only one may.
-- With CHURN_DRIVER=native the deployment resumes them, and Dagster leaves the streams alone. Their work is in
-- procedures, so that a new version does not change a running task.
CREATE TASK IF NOT EXISTS task_generate_emails
    WAREHOUSE = {{ warehouse }}
    USER_TASK_TIMEOUT_MS = 1800000
    SUSPEND_TASK_AFTER_NUM_FAILURES = 3
    USER_TASK_MINIMUM_TRIGGER_INTERVAL_IN_SECONDS = 30
WHEN
    SYSTEM$STREAM_HAS_DATA('{{ database }}.{{ schema }}.STREAM_HIGH_RISK_CUSTOMERS')
AS
CALL generate_retention_emails();

CREATE TASK IF NOT EXISTS process_alerts_task
    WAREHOUSE = {{ warehouse }}
    USER_TASK_TIMEOUT_MS = 300000
    SUSPEND_TASK_AFTER_NUM_FAILURES = 3
    USER_TASK_MINIMUM_TRIGGER_INTERVAL_IN_SECONDS = 10
WHEN
    SYSTEM$STREAM_HAS_DATA('{{ database }}.{{ schema }}.CHURN_METRICS_STREAM')
AS
CALL process_alerts();
