-- Each fact is summed on its own before the three are joined, so that no row multiplies another.
{{ config(target_lag='DOWNSTREAM', refresh_key=['customer_id', 'event_day']) }}

with

transactions as (
    select
        customer_id,
        event_day,
        sum(spend) as spend,
        sum(wire_out) as wire_out,
        count(*) as txn_count
    from {{ ref('stg_transactions') }}
    group by customer_id, event_day
),

activity as (
    select
        customer_id,
        event_day,
        count(*) as log_count,
        sum(is_error) as error_count
    from {{ ref('stg_app_activity') }}
    group by customer_id, event_day
),

cases as (
    select
        customer_id,
        event_day,
        count(*) as case_count,
        count(sentiment) as rated_case_count,
        sum(sentiment) as sentiment_sum
    from {{ ref('stg_support_cases') }}
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
    on customer_days.customer_id = cases.customer_id and customer_days.event_day = cases.event_day
