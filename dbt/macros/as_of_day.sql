{#- The last day of the rolling windows (UTC). On the lake the refresh engine sets it. On Snowflake it comes from the clock,
    which a dynamic table may only read in WHERE, HAVING and QUALIFY. The clock is converted to UTC, because Snowflake
    refreshes in the account's time zone, whatever the session's is. -#}
{% macro as_of_day() %}{{ return(adapter.dispatch('as_of_day')()) }}{% endmacro %}

{% macro default__as_of_day() %}cast(convert_timezone('UTC', current_timestamp) as date){% endmacro %}

{% macro duckdb__as_of_day() %}cast(getvariable('as_of_day') as date){% endmacro %}
