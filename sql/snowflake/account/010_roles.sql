-- What this folder holds needs an administrator. Nothing here is for PUBLIC, which every user has.
USE ROLE {{ admin_role }};

CREATE ROLE IF NOT EXISTS {{ engineer_role }} COMMENT = 'Runs the churn pipeline: owns its tables, sees everything';
CREATE ROLE IF NOT EXISTS {{ analyst_role }} COMMENT = 'Reads the secure views on customers at risk, and nothing else';

-- Whoever administers the system can do what its roles can.
GRANT ROLE {{ engineer_role }} TO ROLE SYSADMIN;
GRANT ROLE {{ analyst_role }} TO ROLE SYSADMIN;
