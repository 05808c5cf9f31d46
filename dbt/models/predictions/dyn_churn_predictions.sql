{{ config(target_lag=var('features_target_lag'), refresh_key='customer_id', row_timestamp='computed_at') }}

with

scored as (
    select
        customer_id,
        {{ sum_of_risk_weights() }} as churn_score,
        {{ list_of_risk_reasons() }} as reasons
    from {{ ref('dyn_customer_features') }}
)

select
    customer_id,
    cast(churn_score as double) as churn_score,
    case
        when churn_score >= {{ var('high_from') }} then 'HIGH'
        when churn_score >= {{ var('medium_from') }} then 'MEDIUM'
        else 'LOW'
    end as risk_class,
    nullif(substr(reasons, 3), '') as reason_codes
from scored
