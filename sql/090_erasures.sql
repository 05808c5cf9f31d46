-- Erasures of customers, without saying of whom. finished_at is NULL until the files hold nothing of the customer
-- either; `churn erase` goes on where one was interrupted.
CREATE TABLE IF NOT EXISTS erasures (
    erasure_id VARCHAR NOT NULL,
    erased_at TIMESTAMP NOT NULL,
    erased_by VARCHAR NOT NULL,
    rows_deleted BIGINT NOT NULL,
    rejects_blanked BIGINT NOT NULL,
    finished_at TIMESTAMP
);

-- One line for each `churn correct` that changed rows, in the transaction that changed them.
CREATE TABLE IF NOT EXISTS corrections (
    corrected_at TIMESTAMP NOT NULL,
    corrected_by VARCHAR NOT NULL,
    ledger VARCHAR NOT NULL,
    file VARCHAR NOT NULL,
    rows_replaced BIGINT NOT NULL,
    rows_deleted BIGINT NOT NULL,
    rows_before BIGINT NOT NULL,
    rows_after BIGINT NOT NULL
);
