{#- Money that left the account: money out and wires out count, a reversal is subtracted, and all other codes are money in and
    count as 0. A negative amount corrects an earlier posting with the same code. -#}
{% macro spend(transaction_code, amount) %}
    {%- set codes = var('codes') -%}
    case
        when {{ has_code(transaction_code, codes.money_out + codes.wire_out) }} then cast({{ amount }} as decimal(18, 2))
        when {{ has_code(transaction_code, codes.reversal) }} then -cast({{ amount }} as decimal(18, 2))
        else 0
    end
{% endmacro %}

{#- Whether a column has one of these codes, as `has_code` of churn_assets/warehouse/codes.py says it in Python. -#}
{% macro has_code(column, codes) -%}
    {%- if codes -%}
        upper(trim({{ column }})) in (
        {%- for code in codes %}upper('{{ code | replace("'", "''") }}'){{ ', ' if not loop.last }}{% endfor -%}
        )
    {%- else -%}
        false
    {%- endif -%}
{%- endmacro %}
