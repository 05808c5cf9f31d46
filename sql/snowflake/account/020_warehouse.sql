-- Not CREATE OR ALTER: it would take back the size that somebody has since given it.
CREATE WAREHOUSE IF NOT EXISTS {{ warehouse }}
    WAREHOUSE_SIZE = XSMALL
    AUTO_SUSPEND = 60
    AUTO_RESUME = TRUE
    INITIALLY_SUSPENDED = TRUE
    COMMENT = 'Refreshes, tasks and queries of the churn pipeline';
