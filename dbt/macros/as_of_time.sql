{#- The end of windows of minutes (UTC). On the lake the refresh engine sets it. On Snowflake it comes from the clock, which
    a dynamic table may only read in WHERE, HAVING and QUALIFY. -#}
{% macro as_of_time() %}{{ return(adapter.dispatch('as_of_time')()) }}{% endmacro %}

{% macro default__as_of_time() %}cast(convert_timezone('UTC', current_timestamp) as timestamp_ntz){% endmacro %}

{% macro duckdb__as_of_time() %}cast(getvariable('as_of_time') as timestamp){% endmacro %}
