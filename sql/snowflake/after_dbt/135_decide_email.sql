-- The dashboard's decision about a READY email: APPROVED or REJECTED, for customers of a segment that the analyst's
-- role is granted. The rule is that of churn_assets/retention/statuses.py. The procedure runs with its owner's rights,
-- because analysts cannot write to tables.
CREATE OR REPLACE PROCEDURE {{ database }}.{{ serving_schema }}.decide_email(
    intervention VARCHAR, decision VARCHAR, decided_by VARCHAR, note VARCHAR
)
RETURNS VARCHAR
LANGUAGE SQL
EXECUTE AS OWNER
AS
$$
BEGIN
    IF (decision NOT IN ('APPROVED', 'REJECTED')) THEN
        RETURN 'a decision is APPROVED or REJECTED';
    END IF;
    BEGIN TRANSACTION;
    UPDATE {{ database }}.{{ schema }}.write_turn SET taken_at = SYSDATE();
    UPDATE {{ database }}.{{ schema }}.agent_intervention_log SET status = :decision
    WHERE intervention_id = :intervention AND status = 'READY'
        AND customer_id IN (
            SELECT customers.customer_id
            FROM {{ database }}.{{ schema }}.dim_customers AS customers
            INNER JOIN {{ database }}.{{ schema }}.segment_grants AS granted
                ON granted.role_name = '{{ analyst_role }}' AND granted.segment IN (customers.segment, '*')
        );
    IF (SQLROWCOUNT = 0) THEN
        ROLLBACK;
        RETURN 'it does not wait for a decision any more';
    END IF;
    INSERT INTO {{ database }}.{{ schema }}.intervention_moves
        (intervention_id, status_from, status_to, moved_at, moved_by, note)
    SELECT :intervention, 'READY', :decision, SYSDATE(), :decided_by, :note;
    COMMIT;
    RETURN 'done';
EXCEPTION
    WHEN OTHER THEN
        ROLLBACK;
        RAISE;
END;
$$;
