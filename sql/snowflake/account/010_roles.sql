-- What this folder holds needs an administrator. Nothing here is for PUBLIC, which every user has.
USE ROLE {{ admin_role }};

CREATE ROLE IF NOT EXISTS {{ engineer_role }} COMMENT = 'Runs the churn pipeline: owns its tables, sees everything';
CREATE ROLE IF NOT EXISTS {{ analyst_role }} COMMENT = 'Reads the secure views on customers at risk, and nothing else';
-- The engineer can do what the analyst can, and so creates in the analyst's name what must not show more than that.
GRANT ROLE {{ analyst_role }} TO ROLE {{ engineer_role }};

-- Whoever administers the system can do what its roles can.
GRANT ROLE {{ engineer_role }} TO ROLE SYSADMIN;
GRANT ROLE {{ analyst_role }} TO ROLE SYSADMIN;
