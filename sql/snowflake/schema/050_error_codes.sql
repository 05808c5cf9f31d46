-- What the app's error codes mean, from churn_assets/search/error_codes.csv. Only rows that differ are written, because
-- each change of this table makes the search service read all errors again.
CREATE TABLE IF NOT EXISTS error_codes (
    error_code VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    description VARCHAR NOT NULL,
    words VARCHAR -- what people call it
);
MERGE INTO error_codes AS known
USING (
    SELECT * FROM (VALUES {{ error_codes }}) AS code (error_code, title, description, words)
) AS wanted
    ON known.error_code = wanted.error_code
WHEN MATCHED AND NOT (
    known.title = wanted.title
    AND known.description = wanted.description
    AND COALESCE(known.words, '') = wanted.words
) THEN
    UPDATE SET title = wanted.title, description = wanted.description, words = wanted.words
WHEN NOT MATCHED THEN
    INSERT (error_code, title, description, words)
    VALUES (wanted.error_code, wanted.title, wanted.description, wanted.words);
