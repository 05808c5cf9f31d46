-- The average decides, so that a single score does not raise an alarm.
{{ config(
    target_lag=var('live').target_lag, refresh_key='customer_id', clock_window=var('live').window
) }}

with

recent as (
    select
        customer_id,
        scored_at,
        cast(churn_score as decimal(9, 6)) as churn_score,
        cast(coalesce(spend, 0) as decimal(18, 2)) as spend,
        coalesce(declines, 0) as declines
    from {{ source('bank', 'churn_scores_raw') }}
    where
        scored_at > {{ as_of_time() }} - interval '{{ var("live").window }}'
        and scored_at <= {{ as_of_time() }}
),

window_sums as (
    select
        customer_id,
        count(*) as score_count,
        sum(churn_score) / count(*) as avg_churn_score,
        max(churn_score) as max_churn_score,
        sum(declines) as declines,
        sum(spend) as spend,
        max(scored_at) as last_scored_at
    from recent
    group by customer_id
)

select
    customer_id,
    cast(score_count as integer) as score_count,
    cast(avg_churn_score as double) as avg_churn_score,
    cast(max_churn_score as double) as max_churn_score,
    cast(declines as integer) as declines,
    cast(spend as double) as spend,
    last_scored_at,
    case
        when avg_churn_score >= {{ var('live').critical_from }} then 'CRITICAL'
        when avg_churn_score >= {{ var('live').at_risk_from }} then 'AT_RISK'
        else 'SAFE'
    end as risk_status
from window_sums
