{#- The day on which a customer left by labels.column of churn.toml; NULL if there is none.
    `_left_on` of churn_assets/model/labels.py says the same in Python. -#}
{% macro left_on(extra_fields) -%}
    {%- set day = "json_extract_path_text(" ~ extra_fields ~ ", '" ~ var('labels').column ~ "')" -%}
    case when {{ day }} like '____-__-__%' then try_cast(substr({{ day }}, 1, 10) as date) end
{%- endmacro %}
