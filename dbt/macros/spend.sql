{#- Money that left the account: the codes in the variable money_out_codes count, a reversal is subtracted, and all other
    codes are money in and count as 0. A negative amount corrects an earlier posting with the same code. -#}
{% macro spend(transaction_code, amount) %}
    case
        when {{ transaction_code }} in ({% for code in var('money_out_codes') %}'{{ code }}'{{ ', ' if not loop.last }}{% endfor %})
            then cast({{ amount }} as decimal(18, 2))
        when {{ transaction_code }} = '{{ var("reversal_code") }}' then -cast({{ amount }} as decimal(18, 2))
        else 0
    end
{% endmacro %}
