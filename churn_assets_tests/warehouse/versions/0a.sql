-- The tables on 2026-11-22: no incremental refresh, one score, emails without moves.
CREATE TABLE agent_intervention_log(intervention_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, churn_score DOUBLE NOT NULL, generated_email VARCHAR, created_at TIMESTAMP NOT NULL, status VARCHAR NOT NULL, reason_codes VARCHAR, writer VARCHAR, partition_day DATE NOT NULL);
CREATE TABLE app_activity_logs(log_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, event_type VARCHAR NOT NULL, event_timestamp TIMESTAMP NOT NULL, error_code VARCHAR, device VARCHAR, extra_fields VARCHAR, ingested_at TIMESTAMP NOT NULL, kafka_topic VARCHAR, kafka_partition INTEGER, kafka_offset BIGINT);
CREATE TABLE customer_day(customer_id VARCHAR, event_day DATE, spend DECIMAL(18,2), wire_out DECIMAL(18,2), txn_count INTEGER, log_count INTEGER, error_count INTEGER, case_count INTEGER, rated_case_count INTEGER, sentiment_sum DECIMAL(18,6));
CREATE TABLE dim_accounts(account_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, product_code VARCHAR NOT NULL, available_balance DOUBLE, account_status VARCHAR NOT NULL, opened_at TIMESTAMP, closed_at TIMESTAMP, updated_at TIMESTAMP NOT NULL, extra_fields VARCHAR, ingested_at TIMESTAMP NOT NULL, kafka_topic VARCHAR, kafka_partition INTEGER, kafka_offset BIGINT);
CREATE TABLE dim_customers(customer_id VARCHAR NOT NULL, full_name VARCHAR NOT NULL, email VARCHAR, segment VARCHAR NOT NULL, join_date DATE NOT NULL, risk_profile_score DOUBLE, updated_at TIMESTAMP NOT NULL, extra_fields VARCHAR, ingested_at TIMESTAMP NOT NULL, kafka_topic VARCHAR, kafka_partition INTEGER, kafka_offset BIGINT);
CREATE TABLE dyn_churn_predictions(customer_id VARCHAR, churn_score DOUBLE, risk_class VARCHAR, reason_codes VARCHAR, computed_at TIMESTAMP);
CREATE TABLE dyn_customer_features(customer_id VARCHAR, total_spend_30d DOUBLE, wire_out_30d DOUBLE, txn_count_30d INTEGER, error_count_30d INTEGER, support_cases_30d INTEGER, avg_sentiment DOUBLE, active_days_30d INTEGER);
CREATE TABLE dynamic_table_refresh_history("name" VARCHAR NOT NULL, refresh_action VARCHAR NOT NULL, reason VARCHAR, started_at TIMESTAMP NOT NULL, duration_seconds DOUBLE NOT NULL, rows_inserted BIGINT NOT NULL, rows_updated BIGINT NOT NULL, rows_deleted BIGINT NOT NULL, lag_seconds_before DOUBLE NOT NULL, "position" BIGINT NOT NULL, base_position BIGINT NOT NULL, as_of_day DATE NOT NULL);
CREATE TABLE dynamic_tables("name" VARCHAR NOT NULL, query VARCHAR NOT NULL, refresh_key VARCHAR[] NOT NULL, row_timestamp VARCHAR, target_lag VARCHAR NOT NULL, declared_at TIMESTAMP NOT NULL, "position" BIGINT, base_position BIGINT, as_of_day DATE, refreshed_at TIMESTAMP, refresh_action VARCHAR);
CREATE TABLE event_rejects(epoch VARCHAR NOT NULL, kafka_topic VARCHAR NOT NULL, kafka_partition INTEGER NOT NULL, kafka_offset BIGINT NOT NULL, kafka_time TIMESTAMP, reason VARCHAR NOT NULL, original BLOB, rejected_at TIMESTAMP NOT NULL, replayed_at TIMESTAMP);
CREATE TABLE fact_transaction_ledger(transaction_ref VARCHAR NOT NULL, account_id VARCHAR NOT NULL, posting_date TIMESTAMP NOT NULL, transaction_code VARCHAR NOT NULL, amount DOUBLE NOT NULL, channel_id VARCHAR, merchant VARCHAR, extra_fields VARCHAR, ingested_at TIMESTAMP NOT NULL, kafka_topic VARCHAR, kafka_partition INTEGER, kafka_offset BIGINT);
CREATE TABLE ingest_commits(commits BIGINT NOT NULL);
CREATE TABLE ingest_ranges(epoch VARCHAR NOT NULL, topic VARCHAR NOT NULL, kafka_partition INTEGER NOT NULL, start_offset BIGINT NOT NULL, end_offset BIGINT NOT NULL, outcome VARCHAR NOT NULL, stored_at TIMESTAMP NOT NULL);
CREATE TABLE kafka_offsets(epoch VARCHAR NOT NULL, topic VARCHAR NOT NULL, kafka_partition INTEGER NOT NULL, committed_offset BIGINT NOT NULL, updated_at TIMESTAMP NOT NULL);
CREATE TABLE retention_queue(customer_id VARCHAR NOT NULL, churn_score DOUBLE NOT NULL, queued_at TIMESTAMP NOT NULL, left_at TIMESTAMP, left_reason VARCHAR);
CREATE TABLE simulated_bank(parameters VARCHAR NOT NULL, chunks_loaded BIGINT NOT NULL, is_complete BOOLEAN NOT NULL);
CREATE TABLE streams("name" VARCHAR NOT NULL, table_name VARCHAR NOT NULL, "position" BIGINT);
CREATE TABLE support_cases(case_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, open_timestamp TIMESTAMP NOT NULL, category VARCHAR NOT NULL, sentiment_score DOUBLE, extra_fields VARCHAR, ingested_at TIMESTAMP NOT NULL, kafka_topic VARCHAR, kafka_partition INTEGER, kafka_offset BIGINT);
INSERT INTO dynamic_tables (name, query, refresh_key, row_timestamp, target_lag, declared_at) VALUES ('customer_day', '-- Each fact is summed on its own before the three are joined, so that no row multiplies another.


with

 __dbt__cte__stg_transactions as (
-- Postings with their customer. Amounts become exact decimals, so that sums do not depend on the order of adding.
with

ledger as (
    select * from "lake"."main"."fact_transaction_ledger"
),

accounts as (
    select * from "lake"."main"."dim_accounts"
)

select
    ledger.transaction_ref,
    accounts.customer_id,
    cast(ledger.posting_date as date) as event_day,
    
    case
        when ledger.transaction_code in (''POS'', ''ATM'', ''BILL_PAY'', ''WIRE_OUT'', ''FEE'')
            then cast(ledger.amount as decimal(18, 2))
        when ledger.transaction_code = ''REVERSAL'' then -cast(ledger.amount as decimal(18, 2))
        else 0
    end
 as spend,
    case
        when ledger.transaction_code = ''WIRE_OUT'' then cast(ledger.amount as decimal(18, 2)) else 0
    end as wire_out
from ledger
inner join accounts on ledger.account_id = accounts.account_id
),  __dbt__cte__stg_app_activity as (
select
    log_id,
    customer_id,
    cast(event_timestamp as date) as event_day,
    case when error_code is null then 0 else 1 end as is_error
from "lake"."main"."app_activity_logs"
),  __dbt__cte__stg_support_cases as (
select
    case_id,
    customer_id,
    cast(open_timestamp as date) as event_day,
    cast(sentiment_score as decimal(9, 6)) as sentiment
from "lake"."main"."support_cases"
), transactions as (
    select
        customer_id,
        event_day,
        sum(spend) as spend,
        sum(wire_out) as wire_out,
        count(*) as txn_count
    from __dbt__cte__stg_transactions
    group by customer_id, event_day
),

activity as (
    select
        customer_id,
        event_day,
        count(*) as log_count,
        sum(is_error) as error_count
    from __dbt__cte__stg_app_activity
    group by customer_id, event_day
),

cases as (
    select
        customer_id,
        event_day,
        count(*) as case_count,
        count(sentiment) as rated_case_count,
        sum(sentiment) as sentiment_sum
    from __dbt__cte__stg_support_cases
    group by customer_id, event_day
),

customer_days as (
    select
        customer_id,
        event_day
    from transactions
    union distinct
    select
        customer_id,
        event_day
    from activity
    union distinct
    select
        customer_id,
        event_day
    from cases
)

select
    customer_days.customer_id,
    customer_days.event_day,
    cast(coalesce(transactions.spend, 0) as decimal(18, 2)) as spend,
    cast(coalesce(transactions.wire_out, 0) as decimal(18, 2)) as wire_out,
    cast(coalesce(transactions.txn_count, 0) as integer) as txn_count,
    cast(coalesce(activity.log_count, 0) as integer) as log_count,
    cast(coalesce(activity.error_count, 0) as integer) as error_count,
    cast(coalesce(cases.case_count, 0) as integer) as case_count,
    cast(coalesce(cases.rated_case_count, 0) as integer) as rated_case_count,
    cast(coalesce(cases.sentiment_sum, 0) as decimal(18, 6)) as sentiment_sum
from customer_days
left join transactions
    on customer_days.customer_id = transactions.customer_id and customer_days.event_day = transactions.event_day
left join activity
    on customer_days.customer_id = activity.customer_id and customer_days.event_day = activity.event_day
left join cases
    on customer_days.customer_id = cases.customer_id and customer_days.event_day = cases.event_day', ['customer_id', 'event_day'], NULL, '5 minutes', '2026-11-30 13:33:01.437004');
INSERT INTO dynamic_tables (name, query, refresh_key, row_timestamp, target_lag, declared_at) VALUES ('dyn_customer_features', '-- A customer is on the bank''s books while at least one account is open; who has left is not scored.


with

open_accounts as (
    select
        customer_id,
        count(*) as open_account_count
    from "lake"."main"."dim_accounts"
    where account_status != ''CLOSED''
    group by customer_id
),

window_days as (
    select *
    from "lake"."main"."customer_day"
    where
        event_day > cast(getvariable(''as_of_day'') as date) - 30
        and event_day <= cast(getvariable(''as_of_day'') as date)
),

window_sums as (
    select
        customer_id,
        sum(spend) as total_spend_30d,
        sum(wire_out) as wire_out_30d,
        sum(txn_count) as txn_count_30d,
        sum(error_count) as error_count_30d,
        sum(case_count) as support_cases_30d,
        sum(sentiment_sum) / nullif(sum(rated_case_count), 0) as avg_sentiment,
        sum(case when txn_count + log_count > 0 then 1 else 0 end) as active_days_30d
    from window_days
    group by customer_id
)

select
    customers.customer_id,
    cast(coalesce(window_sums.total_spend_30d, 0) as double) as total_spend_30d,
    cast(coalesce(window_sums.wire_out_30d, 0) as double) as wire_out_30d,
    cast(coalesce(window_sums.txn_count_30d, 0) as integer) as txn_count_30d,
    cast(coalesce(window_sums.error_count_30d, 0) as integer) as error_count_30d,
    cast(coalesce(window_sums.support_cases_30d, 0) as integer) as support_cases_30d,
    cast(coalesce(window_sums.avg_sentiment, 0.5) as double) as avg_sentiment,
    cast(coalesce(window_sums.active_days_30d, 0) as integer) as active_days_30d
from "lake"."main"."dim_customers" as customers
inner join open_accounts on customers.customer_id = open_accounts.customer_id
left join window_sums on customers.customer_id = window_sums.customer_id', ['customer_id'], NULL, '5 minutes', '2026-11-30 13:33:01.621992');
INSERT INTO dynamic_tables (name, query, refresh_key, row_timestamp, target_lag, declared_at) VALUES ('dyn_churn_predictions', '

with

scored as (
    select
        customer_id,
        case when wire_out_30d > 5000 then 0.25 else 0.00 end + case when support_cases_30d > 2 then 0.2 else 0.00 end + case when avg_sentiment < 0.4 then 0.2 else 0.00 end + case when error_count_30d > 5 then 0.15 else 0.00 end + case when active_days_30d < 5 then 0.2 else 0.00 end as churn_score,
        case when wire_out_30d > 5000 then ''; large wires out'' else '''' end || case when support_cases_30d > 2 then ''; many support cases'' else '''' end || case when avg_sentiment < 0.4 then ''; unhappy with support'' else '''' end || case when error_count_30d > 5 then ''; many app errors'' else '''' end || case when active_days_30d < 5 then ''; rarely active'' else '''' end as reasons
    from "lake"."main"."dyn_customer_features"
)

select
    customer_id,
    cast(churn_score as double) as churn_score,
    case
        when churn_score >= 0.7 then ''HIGH''
        when churn_score >= 0.4 then ''MEDIUM''
        else ''LOW''
    end as risk_class,
    nullif(substr(reasons, 3), '''') as reason_codes
from scored', ['customer_id'], 'computed_at', '5 minutes', '2026-11-30 13:33:02.190011');
INSERT INTO streams (name, table_name) VALUES ('stream_high_risk_customers', 'dyn_churn_predictions');
