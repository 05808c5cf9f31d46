-- A customer is on the bank's books while at least one account is open. Who has left by the rule of churn.toml is not
-- scored.
{{ config(target_lag=var('features').target_lag, refresh_key='customer_id') }}

with

open_accounts as (
    select
        customer_id,
        count(*) as open_account_count
    from {{ source('bank', 'dim_accounts') }}
    where not {{ has_code('account_status', var('codes').account_closed) }}
    group by customer_id
),

{% if var('labels').churn == 'silent' -%}
heard_of as (
    select
        customer_id,
        count(*) as heard_day_count
    from {{ ref('customer_day') }}
    where
        event_day > {{ as_of_day() }} - {{ var('labels').days }}
        and event_day <= {{ as_of_day() }}
    group by customer_id
),

{% endif -%}
{% if var('labels').churn == 'event' -%}
departures as (
    select
        customer_id,
        min(cast(event_timestamp as date)) as left_on
    from {{ source('bank', 'app_activity_logs') }}
    where event_type = '{{ var('labels').event }}'
    group by customer_id
),

{% endif -%}
window_days as (
    select *
    from {{ ref('customer_day') }}
    where
        event_day > {{ as_of_day() }} - {{ var('features').window_days }}
        and event_day <= {{ as_of_day() }}
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
    cast(coalesce(window_sums.avg_sentiment, {{ var('features').neutral_sentiment }}) as double) as avg_sentiment,
    cast(coalesce(window_sums.active_days_30d, 0) as integer) as active_days_30d
from {{ source('bank', 'dim_customers') }} as customers
inner join open_accounts on customers.customer_id = open_accounts.customer_id
{% if var('labels').churn == 'silent' -%}
inner join heard_of on customers.customer_id = heard_of.customer_id
{% endif -%}
left join window_sums on customers.customer_id = window_sums.customer_id
{% if var('labels').churn == 'event' -%}
left join departures on customers.customer_id = departures.customer_id
where coalesce(departures.left_on > {{ as_of_day() }}, true)
{% endif -%}
{% if var('labels').churn == 'column' -%}
where coalesce({{ left_on('customers.extra_fields') }} > {{ as_of_day() }}, true)
{% endif -%}
