-- The engineer creates, and so owns, what the other two folders and dbt make. Future grants are for what another role
-- makes.
GRANT USAGE, OPERATE ON WAREHOUSE {{ warehouse }} TO ROLE {{ engineer_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ engineer_role }};
GRANT USAGE, CREATE TABLE, CREATE DYNAMIC TABLE, CREATE VIEW, CREATE STREAM, CREATE STAGE, CREATE FILE FORMAT,
CREATE FUNCTION, CREATE PROCEDURE, CREATE TASK
ON SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
GRANT USAGE, CREATE VIEW, CREATE MASKING POLICY, CREATE ROW ACCESS POLICY, CREATE STAGE, CREATE PROCEDURE
ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ engineer_role }};
GRANT CREATE CORTEX SEARCH SERVICE, CREATE SEMANTIC VIEW, CREATE AGENT -- noqa: PRS
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
GRANT DATABASE ROLE SNOWFLAKE.PYPI_REPOSITORY_USER TO ROLE {{ engineer_role }};

-- What credits went into, for the asset daily_cost. The whole of SNOWFLAKE (IMPORTED PRIVILEGES) is not needed.
GRANT DATABASE ROLE SNOWFLAKE.USAGE_VIEWER TO ROLE {{ engineer_role }};

-- A secure view reads with its owner's rights, so the analyst needs none on the tables beneath.
GRANT USAGE ON WAREHOUSE {{ warehouse }} TO ROLE {{ analyst_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ analyst_role }};
GRANT USAGE ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
-- The dashboard's decisions about emails, the only procedure there.
GRANT USAGE ON FUTURE PROCEDURES IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
-- Questions in words: the agent, and what it asks. It answers with the rights of who asks.
GRANT SELECT ON FUTURE SEMANTIC VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT USAGE ON FUTURE CORTEX SEARCH SERVICES IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT USAGE ON FUTURE AGENTS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT DATABASE ROLE SNOWFLAKE.CORTEX_AGENT_USER TO ROLE {{ analyst_role }};
-- The dashboard runs with its owner's rights. The analyst's role owns it, so that it cannot show more than the analyst
-- may see; without READ SESSION the policies' functions would be NULL in it, and it would show nothing.
GRANT CREATE STREAMLIT ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT READ ON FUTURE STAGES IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
GRANT READ SESSION ON ACCOUNT TO ROLE {{ analyst_role }}; -- noqa: PRS
