"""What Snowflake does, by its documentation, as far as this project relies on it: an emulated account that is served over HTTP.

The connector, dagster-snowflake, dbt-snowflake and Snowpark reach it as they reach Snowflake. It is our own definition of these
semantics: what passes here is evidence about our code, and none about Snowflake. What it does not know it refuses, so that
nothing succeeds that was not thought of.

fakesnow translates queries to DuckDB, which holds the rows. Unlike there, this is not there: privileges (grants are kept and
refuse nobody), policies (kept, not enforced), schedules (nothing refreshes or starts by itself), SQL scripting, arguments of
procedures, lengths of VARCHAR, nondeterministic UPDATEs, external stages, files other than Parquet.
"""
