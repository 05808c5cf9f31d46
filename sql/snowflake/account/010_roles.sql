-- The statements of this folder need an administrator. They grant nothing to PUBLIC, which every user has.
USE ROLE {{ admin_role }};

CREATE ROLE IF NOT EXISTS {{ engineer_role }} COMMENT = 'Runs the churn pipeline: owns its tables, sees everything';
CREATE ROLE IF NOT EXISTS {{ analyst_role }} COMMENT = 'Reads the secure views on customers at risk, and nothing else';
-- The engineer's role includes the analyst's, so it can create, as the analyst, objects that must not show more.
GRANT ROLE {{ analyst_role }} TO ROLE {{ engineer_role }};

-- System administrators can do what these roles can.
GRANT ROLE {{ engineer_role }} TO ROLE SYSADMIN;
GRANT ROLE {{ analyst_role }} TO ROLE SYSADMIN;
