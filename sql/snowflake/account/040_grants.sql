-- The engineer's role creates, and so owns, the objects of the other two folders and of dbt. Future grants are for
-- objects that another role creates.
GRANT USAGE, OPERATE ON WAREHOUSE {{ warehouse }} TO ROLE {{ engineer_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ engineer_role }};
GRANT USAGE, CREATE TABLE, CREATE DYNAMIC TABLE, CREATE VIEW, CREATE STREAM, CREATE STAGE, CREATE FILE FORMAT,
CREATE FUNCTION, CREATE PROCEDURE, CREATE TASK
ON SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
GRANT USAGE, CREATE VIEW, CREATE MASKING POLICY, CREATE ROW ACCESS POLICY, CREATE STAGE, CREATE PROCEDURE
ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ engineer_role }};
GRANT CREATE CORTEX SEARCH SERVICE, CREATE SEMANTIC VIEW, CREATE AGENT -- noqa: PRS
ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ engineer_role }};
-- Of the texts that analysts do not see.
GRANT CREATE CORTEX SEARCH SERVICE ON SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
GRANT SELECT, INSERT, UPDATE, DELETE ON FUTURE TABLES IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
-- Dynamic tables have privileges of their own; MONITOR shows the history of their refreshes.
GRANT SELECT, MONITOR, OPERATE ON FUTURE DYNAMIC TABLES
IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ engineer_role }};
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ engineer_role }};

-- Tasks run as their owner, and so do calls of Cortex in its procedures. The model's functions get packages from PyPI.
GRANT EXECUTE TASK ON ACCOUNT TO ROLE {{ engineer_role }};
GRANT USE AI FUNCTIONS ON ACCOUNT TO ROLE {{ engineer_role }}; -- noqa: PRS
GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE {{ engineer_role }};
GRANT DATABASE ROLE SNOWFLAKE.PYPI_REPOSITORY_USER TO ROLE {{ engineer_role }};

-- The use of credits, for the asset daily_cost. IMPORTED PRIVILEGES on the whole SNOWFLAKE database are not needed.
GRANT DATABASE ROLE SNOWFLAKE.USAGE_VIEWER TO ROLE {{ engineer_role }};

-- A secure view reads with its owner's rights, so the analyst needs no rights on its tables.
GRANT USAGE ON WAREHOUSE {{ warehouse }} TO ROLE {{ analyst_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ analyst_role }};
GRANT USAGE ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
-- The only procedure in that schema records the dashboard's decisions about emails.
GRANT USAGE ON FUTURE PROCEDURES IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
-- Questions in words: the agent and its tools. The agent answers with the rights of the user who asks.
GRANT SELECT ON FUTURE SEMANTIC VIEWS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT USAGE ON FUTURE CORTEX SEARCH SERVICES IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT USAGE ON FUTURE AGENTS IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT DATABASE ROLE SNOWFLAKE.CORTEX_AGENT_USER TO ROLE {{ analyst_role }};
-- The dashboard runs with its owner's rights. The analyst's role owns it, so that it cannot show more than an analyst
-- may see. Without READ SESSION, the policies' functions would return NULL there, and it would show nothing.
GRANT CREATE STREAMLIT ON SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }}; -- noqa: PRS
GRANT READ ON FUTURE STAGES IN SCHEMA {{ database }}.{{ serving_schema }} TO ROLE {{ analyst_role }};
GRANT READ SESSION ON ACCOUNT TO ROLE {{ analyst_role }}; -- noqa: PRS
