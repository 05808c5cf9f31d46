{#- Materialization `dynamic_table` for duckdb on a DuckLake: declares the table to the refresh engine
    (churn_assets/dynamic_tables), which fills it and keeps it fresh. dbt-snowflake has its own of the same name.

    Config options of dbt-snowflake: target_lag ('5 minutes', at least 60 seconds, or 'DOWNSTREAM': as fresh as its readers
    need), refresh_mode (AUTO, INCREMENTAL or FULL), initialize (ON_CREATE: the deployment fills it; ON_SCHEDULE: the
    scheduler) and on_configuration_change (apply, continue or fail). Our own options: refresh_key (column or list that is
    unique in the result), row_timestamp (optional: a column that the engine adds and sets to the time a row was last
    written), clock_window (required if the query reads as_of_time: for how long a row may move the result, '10 minutes')
    and changed_keys (optional: for a source whose changes cannot be traced to keys, a query of the keys that the rows in
    refresh_changes_of_<source> touch).

    An unchanged definition keeps its rows. A changed one keeps its rows until the next refresh, which is in full, unless
    its columns changed: then it starts empty. (dbt-snowflake skips a changed query unless --full-refresh.) -#}
{% materialization dynamic_table, adapter='duckdb' %}
  {%- set target_relation = this.incorporate(type='table') -%}
  {%- set name = this.identifier -%}
  {%- set definitions = this.incorporate(path={'identifier': 'dynamic_tables'}) -%}
  {%- set refresh_key = config.get('refresh_key', []) -%}
  {%- set refresh_key = [refresh_key] if refresh_key is string else refresh_key -%}
  {%- set row_timestamp = config.get('row_timestamp') -%}
  {%- set target_lag = churn_assets.checked_target_lag(config.get('target_lag')) -%}
  {%- set refresh_mode = churn_assets.checked_choice('refresh_mode', config.get('refresh_mode', 'AUTO') | upper, ['AUTO', 'INCREMENTAL', 'FULL']) -%}
  {%- set initialize = churn_assets.checked_choice('initialize', config.get('initialize', 'ON_CREATE') | upper, ['ON_CREATE', 'ON_SCHEDULE']) -%}
  {%- set on_change = churn_assets.checked_choice('on_configuration_change', config.get('on_configuration_change', 'apply') | string, ['apply', 'continue', 'fail']) -%}
  {%- set changed_keys = config.get('changed_keys', {}) -%}
  {%- set clock_window = config.get('clock_window') -%}
  {%- if clock_window or 'as_of_time' in sql -%}
    {%- do churn_assets.checked_time('clock_window', clock_window) -%}
  {%- endif -%}
  {%- if not refresh_key -%}
    {{ exceptions.raise_compiler_error("model " ~ name ~ ": a dynamic_table needs a refresh_key, the columns that are unique in its result") }}
  {%- endif -%}

  {{ run_hooks(pre_hooks) }}

  {%- set declared = run_query("select query, refresh_key, row_timestamp from " ~ definitions ~ " where name = '" ~ name ~ "'") -%}
  {%- set is_declared = declared.rows | length > 0 and load_cached_relation(this) is not none -%}
  {%- set wanted -%}
    select {% for column in get_column_schema_from_query(sql) %}{{ adapter.quote(column.name) }}{{ ", " if not loop.last }}{% endfor -%}
    {%- if row_timestamp %}, cast(null as timestamp) as {{ adapter.quote(row_timestamp) }}{% endif %} from ({{ sql }}) as query where false
  {%- endset -%}

  {%- set same_query = is_declared and declared.rows[0][0] == sql and declared.rows[0][2] == row_timestamp -%}
  {%- set same_columns = is_declared and churn_assets.column_types(wanted) == churn_assets.column_types("select * from " ~ this) -%}

  {%- set keys -%}
    map { {%- for source, query in changed_keys.items() -%}'{{ source }}': '{{ query | replace("'", "''") }}'{{ ", " if not loop.last }}{%- endfor -%} }
  {%- endset -%}
  {%- set window = "'" ~ clock_window ~ "'" if clock_window else 'null' -%}
  {%- set settled = run_query("select 1 from " ~ definitions ~ " where name = '" ~ name ~ "' and target_lag = '" ~ target_lag ~ "' and refresh_key = "
    ~ refresh_key ~ " and refresh_mode = '" ~ refresh_mode ~ "' and coalesce(changed_keys, map {}) = " ~ keys
    ~ " and clock_window is not distinct from " ~ window).rows | length > 0 -%}
  {%- set changed = same_query and same_columns and not settled -%}
  {%- if changed and on_change == 'fail' -%}
    {{ exceptions.raise_compiler_error("model " ~ name ~ ": its configuration differs from what is deployed, and on_configuration_change is 'fail'") }}
  {%- elif changed and on_change == 'continue' -%}
    {%- do exceptions.warn("model " ~ name ~ ": its configuration differs from what is deployed and stays unchanged (on_configuration_change: continue)") -%}
  {%- endif -%}

  {% call statement('main') -%}
    {%- if not same_columns %}
    drop table if exists {{ this }};
    create table {{ this }} as {{ wanted }};
    {%- endif %}
    {%- if same_query and same_columns %}
    update {{ definitions }}
    set target_lag = '{{ target_lag }}', refresh_key = {{ refresh_key }}, refresh_mode = '{{ refresh_mode }}', changed_keys = {{ keys }},
        clock_window = {{ window }}
    where name = '{{ name }}' and {{ "true" if changed and on_change == 'apply' else "false" }};
    {%- else %}
    delete from {{ definitions }} where name = '{{ name }}';
    insert into {{ definitions }} (
      name, query, refresh_key, row_timestamp, refresh_mode, changed_keys, target_lag, initialize, clock_window, declared_at
    )
    values (
      '{{ name }}', '{{ sql | replace("'", "''") }}', {{ refresh_key }},
      {{ "'" ~ row_timestamp ~ "'" if row_timestamp else 'null' }}, '{{ refresh_mode }}', {{ keys }}, '{{ target_lag }}',
      '{{ initialize }}', {{ window }}, current_timestamp at time zone 'UTC'
    );
    {%- endif %}
  {%- endcall %}

  {{ run_hooks(post_hooks) }}
  {{ adapter.commit() }}
  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{% macro checked_target_lag(target_lag) %}
  {%- if target_lag | string | upper == 'DOWNSTREAM' -%}{{ return('DOWNSTREAM') }}{%- endif -%}
  {%- if churn_assets.checked_time('target_lag', target_lag) < 60 -%}
    {{ exceptions.raise_compiler_error("model " ~ model.name ~ ": target_lag '" ~ target_lag ~ "' is below the minimum of 60 seconds") }}
  {%- endif -%}
  {{ return(target_lag) }}
{% endmacro %}

{#- The seconds in a duration such as '5 minutes'. -#}
{% macro checked_time(key, text) %}
  {%- set units = {'second': 1, 'minute': 60, 'hour': 3600, 'day': 86400} -%}
  {%- set found = modules.re.fullmatch(' *([0-9]+) +(second|minute|hour|day)s? *', text or '') -%}
  {%- if not found -%}
    {{ exceptions.raise_compiler_error("model " ~ model.name ~ ": " ~ key ~ " '" ~ text ~ "' is not a number and a unit, such as '5 minutes'") }}
  {%- endif -%}
  {{ return((found.group(1) | int) * units[found.group(2)]) }}
{% endmacro %}

{% macro checked_choice(key, value, choices) %}
  {%- if value not in choices -%}
    {{ exceptions.raise_compiler_error("model " ~ model.name ~ ": " ~ key ~ " '" ~ value ~ "' is not one of " ~ choices | join(", ")) }}
  {%- endif -%}
  {{ return(value) }}
{% endmacro %}

{% macro column_types(query) %}
  {%- set columns = [] -%}
  {%- for row in run_query("describe " ~ query).rows -%}{%- do columns.append(row[0] ~ ' ' ~ row[1]) -%}{%- endfor -%}
  {{ return(columns) }}
{% endmacro %}
