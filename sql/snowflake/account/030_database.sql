-- With managed access, the owner of an object cannot grant it to others: only the grants of 040_grants.sql apply.
CREATE DATABASE IF NOT EXISTS {{ database }};
CREATE SCHEMA IF NOT EXISTS {{ database }}.{{ schema }} WITH MANAGED ACCESS;
-- What analysts see has its own schema, so that no grant on it can reach a ledger.
CREATE SCHEMA IF NOT EXISTS {{ database }}.{{ serving_schema }} WITH MANAGED ACCESS;
