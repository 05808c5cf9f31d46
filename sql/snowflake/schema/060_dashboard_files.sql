-- The stage for the files of the Streamlit app, from which CREATE STREAMLIT copies them. The deployment uploads them
-- (churn_assets/dashboard/files.py) before the statements of after_dbt.
CREATE STAGE IF NOT EXISTS {{ database }}.{{ serving_schema }}.dashboard_files
    ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')
    COMMENT = 'Files of the Streamlit app';
