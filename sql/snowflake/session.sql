-- Where the tables of sql/*.sql and all other unqualified names belong, and what TIMESTAMP means there: UTC, no time
-- zone.
USE ROLE {{ engineer_role }};
USE WAREHOUSE {{ warehouse }};
USE SCHEMA {{ database }}.{{ schema }};
ALTER SESSION SET TIMEZONE = 'UTC';
ALTER SESSION SET TIMESTAMP_TYPE_MAPPING = 'TIMESTAMP_NTZ';
