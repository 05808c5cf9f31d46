"""What the warehouse protocol's questions are in Snowflake's SQL.

So far the history of refreshes: there the tables refresh themselves, so it is all that tells of them. By documentation;
it has not met a live account.
"""

# The columns of `PastRefresh`; the parameter is the time after which. The lag before a refresh is how far the one before it
# had fallen behind: DATA_TIMESTAMP is the time up to which base tables are shown. Rows that were rewritten unchanged
# (numCopiedRows) count as nothing. https://docs.snowflake.com/en/sql-reference/functions/dynamic_table_refresh_history
PAST_REFRESHES = """
    SELECT
        LOWER(name) AS name,
        refresh_action AS action,
        CONVERT_TIMEZONE('UTC', refresh_start_time)::TIMESTAMP_NTZ AS started_at,
        DATEDIFF('millisecond', refresh_start_time, refresh_end_time) / 1000 AS duration_seconds,
        COALESCE(statistics:numInsertedRows::INTEGER, 0) AS rows_inserted,
        0 AS rows_updated,
        COALESCE(statistics:numDeletedRows::INTEGER, 0) AS rows_deleted,
        LAG(data_timestamp) OVER (PARTITION BY name ORDER BY data_timestamp) AS shown_before,
        COALESCE(DATEDIFF('millisecond', shown_before, data_timestamp) / 1000, 0) AS lag_seconds_before
    FROM TABLE(INFORMATION_SCHEMA.DYNAMIC_TABLE_REFRESH_HISTORY(RESULT_LIMIT => 10000))
    WHERE state = 'SUCCEEDED' AND schema_name = CURRENT_SCHEMA()
    QUALIFY started_at > %s
    ORDER BY started_at
"""
