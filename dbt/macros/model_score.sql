{#- What the champion says of a row of dyn_customer_features, by functions that the warehouse has: the probability to leave, and
    the reasons in words. `artefact` names the model, so that the result follows from the arguments; NULL gives NULL. -#}
{% macro model_score(artefact) %}predict_churn({{ artefact }}, {{ var('features') | join(', ') }}){% endmacro %}

{% macro model_reasons(artefact) %}churn_reasons({{ artefact }}, {{ var('features') | join(', ') }}){% endmacro %}

{#- Which score decides the risk class: heuristic or model. -#}
{% macro score_source() %}
    {%- set source = env_var('CHURN_SCORE_SOURCE', 'heuristic') -%}
    {{ return(churn_assets.checked_choice('CHURN_SCORE_SOURCE', source, ['heuristic', 'model'])) }}
{% endmacro %}
