-- The engineer creates, and so owns, what the other two folders and dbt make. Future grants are for what another role
-- makes.
GRANT USAGE, OPERATE ON WAREHOUSE {{ warehouse }} TO ROLE {{ engineer_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ engineer_role }};
GRANT USAGE, CREATE TABLE, CREATE DYNAMIC TABLE, CREATE STREAM, CREATE STAGE, CREATE FILE FORMAT, CREATE FUNCTION,
CREATE PROCEDURE, CREATE TASK
ON SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
GRANT USAGE, CREATE VIEW, CREATE MASKING POLICY, CREATE ROW ACCESS POLICY
ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ engineer_role }};
GRANT SELECT, INSERT, UPDATE, DELETE ON FUTURE TABLES IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
-- Dynamic tables have privileges of their own; MONITOR shows the history of their refreshes.
GRANT SELECT, MONITOR, OPERATE ON FUTURE DYNAMIC TABLES
IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ engineer_role }};

-- Tasks run as their owner; so do calls of Cortex within its procedures; PyPI is where the model's functions get
-- packages.
GRANT EXECUTE TASK ON ACCOUNT TO ROLE {{ engineer_role }};
GRANT USE AI FUNCTIONS ON ACCOUNT TO ROLE {{ engineer_role }}; -- noqa: PRS
GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE {{ engineer_role }};
GRANT DATABASE ROLE SNOWFLAKE.SNOWPARK.PYPI_REPOSITORY_USER TO ROLE {{ engineer_role }}; -- noqa: PRS

-- A secure view reads with its owner's rights, so the analyst needs none on the tables beneath.
GRANT USAGE ON WAREHOUSE {{ warehouse }} TO ROLE {{ analyst_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ analyst_role }};
GRANT USAGE ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
