-- Where the files of the Streamlit app lie until CREATE STREAMLIT copies them. The deployment puts them there
-- (churn_assets/dashboard/files.py) before the statements of after_dbt.
CREATE STAGE IF NOT EXISTS {{ database }}.{{ serving_schema }}.dashboard_files
    ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')
    COMMENT = 'Files of the Streamlit app';
