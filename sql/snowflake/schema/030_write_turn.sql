-- Snowflake reads what is committed, so two concurrent transactions that look for customers would find the same ones.
-- So every transaction that reads before it writes first updates this one row, and waits for its lock: they take
-- turns.
CREATE TABLE IF NOT EXISTS write_turn (taken_at TIMESTAMP);
INSERT INTO write_turn (taken_at)
SELECT SYSDATE() AS taken_at
WHERE NOT EXISTS (SELECT 1 FROM write_turn);
