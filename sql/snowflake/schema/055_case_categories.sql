-- Everyday words for the categories of support cases, from churn_assets/search/case_categories.csv; like error_codes.
CREATE TABLE IF NOT EXISTS case_categories (
    category VARCHAR NOT NULL,
    words VARCHAR NOT NULL
);
MERGE INTO case_categories AS known
USING (SELECT * FROM (VALUES {{ case_categories }}) AS category (category, words)) AS wanted
    ON known.category = wanted.category
WHEN MATCHED AND NOT (known.words = wanted.words) THEN
    UPDATE SET words = wanted.words
WHEN NOT MATCHED THEN
    INSERT (category, words) VALUES (wanted.category, wanted.words);
