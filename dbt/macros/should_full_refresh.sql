{#- Replaces dbt's own macro: the deployment names the models whose query has changed, which dbt-snowflake would leave
    unchanged. All are rebuilt in one run, so that a model is rebuilt after the models that it reads. -#}
{% macro should_full_refresh() %}
  {{ return(dbt.should_full_refresh() or model.name in var('rebuilt', [])) }}
{% endmacro %}
