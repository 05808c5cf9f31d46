-- The schema of the tables of sql/*.sql and of all other unqualified names. TIMESTAMP means UTC without a time zone.
USE ROLE {{ engineer_role }};
USE WAREHOUSE {{ warehouse }};
USE SCHEMA {{ database }}.{{ schema }};
ALTER SESSION SET TIMEZONE = 'UTC';
ALTER SESSION SET TIMESTAMP_TYPE_MAPPING = 'TIMESTAMP_NTZ';
