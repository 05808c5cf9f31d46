-- Both scores stand side by side; CHURN_SCORE_SOURCE says which of them makes the class. Without a champion the rules do.
{{ config(
    target_lag=var('features_target_lag'), refresh_key='customer_id', row_timestamp='computed_at',
    changed_keys={'churn_champion': 'select customer_id from dyn_customer_features'}
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
    {% if score_source() == 'model' -%}
    cast(coalesce(model_score, churn_score) as double) as risk_score,
    case
        when model_score >= {{ var('model_high_from') }} then 'HIGH'
        when model_score >= {{ var('model_medium_from') }} then 'MEDIUM'
        when model_score is not null then 'LOW'
        when churn_score >= {{ var('high_from') }} then 'HIGH'
        when churn_score >= {{ var('medium_from') }} then 'MEDIUM'
        else 'LOW'
    end as risk_class,
    nullif(case
        when model_score >= {{ var('model_medium_from') }} then {{ model_reasons('artefact') }}
        when model_score is null then substr(rule_reasons, 3)
    end, '') as reason_codes
    {%- else -%}
    cast(churn_score as double) as risk_score,
    case
        when churn_score >= {{ var('high_from') }} then 'HIGH'
        when churn_score >= {{ var('medium_from') }} then 'MEDIUM'
        else 'LOW'
    end as risk_class,
    nullif(substr(rule_reasons, 3), '') as reason_codes
    {%- endif %}
from scored
