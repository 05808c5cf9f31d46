-- The Streamlit app. It runs with its owner's rights, so the analyst's role creates and owns it: the policies then
-- show it what they show an analyst. Files are copied only when the app is created, so it is replaced; it holds no
-- data.
USE ROLE {{ analyst_role }};
CREATE OR REPLACE STREAMLIT {{ database }}.{{ serving_schema }}.churn_dashboard -- noqa: PRS
FROM '@{{ database }}.{{ serving_schema }}.dashboard_files/{{ app_folder }}'
MAIN_FILE = '{{ app_file }}'
QUERY_WAREHOUSE = {{ warehouse }}
TITLE = 'Customers at risk';
ALTER STREAMLIT {{ database }}.{{ serving_schema }}.churn_dashboard ADD LIVE VERSION FROM LAST; -- noqa: PRS
USE ROLE {{ engineer_role }};
