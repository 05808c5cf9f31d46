-- With managed access the owner of an object cannot give it away: the grants are those of 040_grants.sql.
CREATE DATABASE IF NOT EXISTS {{ database }};
CREATE SCHEMA IF NOT EXISTS {{ database }}.{{ schema }} WITH MANAGED ACCESS;
-- What analysts see is a schema of its own, so that no grant on it can reach a ledger.
CREATE SCHEMA IF NOT EXISTS {{ database }}.{{ serving_schema }} WITH MANAGED ACCESS;
