{#- The champion's probability of leaving and its reasons in words for a row of dyn_customer_features, by functions of the
    warehouse. `artefact` names the model, so that the result depends only on the arguments; NULL gives NULL. -#}
{% macro model_score(artefact) %}predict_churn({{ artefact }}, {{ var('model_features') | join(', ') }}){% endmacro %}

{% macro model_reasons(artefact) %}churn_reasons({{ artefact }}, {{ var('model_features') | join(', ') }}){% endmacro %}

{#- The score that decides the risk class: heuristic or model. -#}
{% macro score_source() %}
    {%- set source = env_var('CHURN_SCORE_SOURCE', 'heuristic') -%}
    {{ return(churn_assets.checked_choice('CHURN_SCORE_SOURCE', source, ['heuristic', 'model'])) }}
{% endmacro %}

{#- These macros read the columns churn_score, model_score and rule_reasons. While no model serves, the rules decide. -#}
{% macro risk_score() -%}
    {{ 'coalesce(model_score, churn_score)' if score_source() == 'model' else 'churn_score' }}
{%- endmacro %}

{% macro risk_class() -%}
    case
    {%- if score_source() == 'model' %}
        when model_score >= {{ var('model').high_from }} then 'HIGH'
        when model_score >= {{ var('model').medium_from }} then 'MEDIUM'
        when model_score is not null then 'LOW'
    {%- endif %}
        when churn_score >= {{ var('risk').high_from }} then 'HIGH'
        when churn_score >= {{ var('risk').medium_from }} then 'MEDIUM'
        else 'LOW'
    end
{%- endmacro %}

{#- The model's reasons are computed only for MEDIUM and HIGH, because they cost about fifteen scorings each. -#}
{% macro risk_reasons(artefact) -%}
    {%- if score_source() == 'model' -%}
        case
            when model_score >= {{ var('model').medium_from }} then {{ model_reasons(artefact) }}
            when model_score is null then substr(rule_reasons, 3)
        end
    {%- else -%}
        substr(rule_reasons, 3)
    {%- endif -%}
{%- endmacro %}
