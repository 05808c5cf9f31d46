{#- The heuristic score over the columns of dyn_customer_features; the rules are risk.rules of churn.toml. -#}
{% macro sum_of_risk_weights() %}
    {%- for rule in var('risk').rules -%}
        case when {{ rule.feature }} {{ rule.operator }} {{ rule.threshold }} then {{ rule.weight }} else 0.00 end
        {{- ' + ' if not loop.last }}
    {%- endfor -%}
{% endmacro %}

{#- The reasons of the rules that hold, each with a leading semicolon and space. -#}
{% macro list_of_risk_reasons() %}
    {%- for rule in var('risk').rules -%}
        case when {{ rule.feature }} {{ rule.operator }} {{ rule.threshold }} then '; {{ rule.reason | replace("'", "''") }}' else '' end
        {{- ' || ' if not loop.last }}
    {%- endfor -%}
{% endmacro %}
