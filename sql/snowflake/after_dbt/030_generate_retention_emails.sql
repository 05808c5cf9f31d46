-- What TASK_GENERATE_EMAILS does: stream to queue, queue to claims, a draft for each claim. The rules are those of
-- churn_assets/retention/queue.py and claims.py; the numbers come from settings.py.
--
-- Reading the stream moves its position past everything in it, so all of it is stored before 50 are taken. A claim is
-- committed before Cortex is asked, so nobody is written to twice, whatever dies. Drafts stay CLAIMED: the text checks
-- are Python's, and what they have not passed never leaves. A run of Dagster's checks each draft: READY or CANCELLED
-- where the tasks drive, its writer's first answer where Dagster does. For whom Cortex failed, Dagster writes then.
CREATE OR REPLACE PROCEDURE generate_retention_emails()
RETURNS VARCHAR
LANGUAGE SQL
EXECUTE AS OWNER
AS
$$
BEGIN
    LET started TIMESTAMP_NTZ := (SELECT SYSDATE());
    LET today DATE := (SELECT :started::DATE);
    LET drafts INTEGER := 0;
    -- Of texts that were stored today, and of drafts that are yet to be checked.
    LET spent INTEGER := (
        SELECT COALESCE(SUM(log.prompt_tokens + log.completion_tokens), 0)
        FROM agent_intervention_log AS log
        LEFT JOIN (
            SELECT DISTINCT intervention_id FROM intervention_moves
            WHERE status_from = 'CLAIMED' AND moved_at >= :today
        ) AS stored ON log.intervention_id = stored.intervention_id
        WHERE stored.intervention_id IS NOT NULL OR (log.status = 'CLAIMED' AND log.partition_day = :today)
    );
    BEGIN
        BEGIN TRANSACTION;
        UPDATE write_turn SET taken_at = SYSDATE();
        INSERT INTO retention_queue (customer_id, source, churn_score, reason_codes, queued_at)
        SELECT came.customer_id, 'prediction', came.risk_score, came.reason_codes, :started
        FROM stream_high_risk_customers AS came
        LEFT JOIN stream_high_risk_customers AS was
            ON came.customer_id = was.customer_id AND was.METADATA$ACTION = 'DELETE' AND was.risk_class = 'HIGH'
        LEFT JOIN retention_queue AS waiting ON came.customer_id = waiting.customer_id AND waiting.left_at IS NULL
        WHERE came.METADATA$ACTION = 'INSERT' AND came.risk_class = 'HIGH'
            AND was.customer_id IS NULL AND waiting.customer_id IS NULL;

        LET room INTEGER := (
            SELECT
                GREATEST(
                    LEAST(
                        {{ emails_per_run }} - COUNT_IF(status = 'CLAIMED' AND writer IS NULL),
                        IFF(:spent < {{ tokens_per_day }}, {{ emails_per_day }} - COUNT(*), 0)
                    ),
                    0
                )
            FROM agent_intervention_log
            WHERE partition_day = :today AND status NOT IN ('CONTROL', 'CANCELLED')
        );
        INSERT INTO agent_intervention_log
            (intervention_id, customer_id, churn_score, created_at, status, source, reason_codes, partition_day)
        SELECT
            UUID_STRING(
                {{ uuid_namespace }},
                'churn_assets/intervention/' || queue.customer_id || '/' || TO_CHAR(:today, 'YYYY-MM-DD')
            ),
            queue.customer_id,
            IFF(queue.source = 'alert', queue.churn_score, predictions.risk_score) AS score,
            :started,
            IFF({{ is_control }}, 'CONTROL', 'CLAIMED'),
            queue.source,
            predictions.reason_codes,
            :today
        FROM retention_queue AS queue
        INNER JOIN dyn_churn_predictions AS predictions
            ON queue.customer_id = predictions.customer_id AND (predictions.risk_class = 'HIGH' OR queue.source = 'alert')
        INNER JOIN dim_customers AS customers
            ON queue.customer_id = customers.customer_id AND COALESCE(customers.email_consent, TRUE)
        WHERE queue.left_at IS NULL
            AND (queue.source = 'prediction' OR queue.queued_at >= DATEADD('hour', -{{ alert_hours }}, :started))
            AND queue.customer_id NOT IN (
                SELECT customer_id FROM suppressions
                WHERE lifted_at IS NULL AND (suppressed_until IS NULL OR suppressed_until > :started)
            )
            AND queue.customer_id NOT IN (
                SELECT customer_id FROM agent_intervention_log
                WHERE (created_at > DATEADD('day', -{{ email_pause_days }}, :started) AND status <> 'CANCELLED')
                    OR partition_day = :today
            )
        QUALIFY ROW_NUMBER() OVER (ORDER BY score DESC, queue.queued_at, queue.customer_id) <= :room;
        INSERT INTO intervention_moves (intervention_id, status_from, status_to, moved_at, moved_by, note)
        SELECT log.intervention_id, NULL, log.status, :started, 'run', 'TASK_GENERATE_EMAILS'
        FROM agent_intervention_log AS log
        WHERE log.created_at = :started;
        UPDATE retention_queue SET left_at = :started, left_reason = 'intervention'
        FROM agent_intervention_log AS log
        WHERE retention_queue.customer_id = log.customer_id AND retention_queue.left_at IS NULL AND log.created_at = :started;
        UPDATE high_risk_history SET intervention_id = log.intervention_id
        FROM agent_intervention_log AS log
        WHERE high_risk_history.customer_id = log.customer_id AND high_risk_history.intervention_id IS NULL
            AND high_risk_history.alerted_at > DATEADD('hour', -{{ alert_hours }}, :started)
            AND log.created_at = :started;
        COMMIT;
    EXCEPTION
        WHEN OTHER THEN
            ROLLBACK;
            RAISE;
    END;

    LET owed CURSOR FOR
        SELECT log.intervention_id, customers.full_name, customers.segment, log.reason_codes
        FROM agent_intervention_log AS log
        INNER JOIN dim_customers AS customers ON log.customer_id = customers.customer_id
        WHERE log.status = 'CLAIMED' AND log.partition_day = SYSDATE()::DATE
            AND log.writer IS NULL AND log.failed_attempts IS NULL
        ORDER BY log.churn_score DESC
        LIMIT {{ emails_per_run }};
    FOR claim IN owed DO
        IF (spent >= {{ tokens_per_day }}) THEN
            BREAK;
        END IF;
        LET id VARCHAR := claim.intervention_id;
        LET full_name VARCHAR := claim.full_name;
        LET segment VARCHAR := claim.segment;
        LET reason_codes VARCHAR := claim.reason_codes;
        LET answer VARIANT := NULL;
        CALL generate_retention_email(:full_name, :segment, :reason_codes) INTO :answer;
        LET error VARCHAR := (SELECT LEFT(GET(:answer, 'error')::VARCHAR, 200));
        -- The details come as an object, or as JSON in a text.
        LET details VARIANT := (SELECT TRY_PARSE_JSON(GET(:answer, 'value')::VARCHAR));
        UPDATE agent_intervention_log SET
            generated_email = TRIM(GET_PATH(:details, 'choices[0].messages')::VARCHAR),
            writer = IFF(:error IS NULL, 'cortex', NULL),
            model = {{ writer_model }},
            prompt_version = {{ prompt_version }},
            prompt_tokens = GET_PATH(:details, 'usage.prompt_tokens')::BIGINT,
            completion_tokens = GET_PATH(:details, 'usage.completion_tokens')::BIGINT,
            writer_error = :error,
            failed_attempts = IFF(:error IS NULL, NULL, 1)
        WHERE intervention_id = :id AND status = 'CLAIMED';
        drafts := drafts + 1;
        spent := spent + COALESCE(
            (SELECT prompt_tokens + completion_tokens FROM agent_intervention_log WHERE intervention_id = :id), 0
        );
    END FOR;
    RETURN drafts || ' answers';
END;
$$;
