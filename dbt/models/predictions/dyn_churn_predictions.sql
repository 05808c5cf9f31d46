-- Both scores stand side by side; CHURN_SCORE_SOURCE says which of them makes the class.
{{ config(
    target_lag=var('features').target_lag, refresh_key='customer_id', row_timestamp='computed_at',
    changed_keys={'churn_champion': 'select customer_id from dyn_customer_features'},
    meta={'score_source': score_source(), 'rules': var('rules', {})}
) }}

with

features as (
    select
        *,
        'churn' as serves
    from {{ ref('dyn_customer_features') }}
),

scored as (
    select
        features.*,
        champion.version as model_version,
        champion.artefact,
        {{ sum_of_risk_weights() }} as churn_score,
        {{ list_of_risk_reasons() }} as rule_reasons,
        {{ model_score('champion.artefact') }} as model_score
    from features
    left join {{ source('model', 'churn_champion') }} as champion on features.serves = champion.serves
)

select
    customer_id,
    cast(churn_score as double) as churn_score,
    cast(model_score as double) as model_score,
    model_version,
    cast({{ risk_score() }} as double) as risk_score,
    {{ risk_class() }} as risk_class,
    nullif({{ risk_reasons('artefact') }}, '') as reason_codes
from scored
