-- Snowflake reads what is committed, so two transactions that look for customers at once would find the same ones. Each
-- that reads before it writes therefore updates this one row first, and waits until it may: they take turns.
CREATE TABLE IF NOT EXISTS write_turn (taken_at TIMESTAMP);
INSERT INTO write_turn (taken_at)
SELECT SYSDATE() AS taken_at
WHERE NOT EXISTS (SELECT 1 FROM write_turn);
