-- Search in words over what customers wrote to support, for the engineer's role only: the texts may name anybody, and a
-- service answers with its owner's rights. So it is in the schema of the ledgers, where the analyst's role has none.
-- An embedding reads the first 512 tokens of a text, so a long text is several passages that overlap. Neither the view
-- nor the service is replaced, because filling a service costs money.
CREATE VIEW IF NOT EXISTS {{ database }}.{{ schema }}.searchable_case_texts
AS
SELECT
    cases.case_id AS event_id,
    cases.customer_id,
    customers.segment,
    cases.category,
    cases.open_timestamp AS happened_at,
    'case' AS kind,
    CAST(NULL AS VARCHAR) AS error_code,
    CAST(NULL AS VARCHAR) AS device,
    cases.case_id || '#' || CAST(places.place AS VARCHAR) AS passage_id,
    SUBSTR(cases.case_text, places.place * 1500 + 1, 1800) AS document
FROM {{ database }}.{{ schema }}.support_cases AS cases
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON cases.customer_id = customers.customer_id
INNER JOIN (
    VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13)
) AS places (place)
    ON (places.place = 0 AND LENGTH(cases.case_text) > 0) OR LENGTH(cases.case_text) > places.place * 1500 + 300;

CREATE CORTEX SEARCH SERVICE IF NOT EXISTS {{ database }}.{{ schema }}.case_texts_search -- noqa: PRS
ON document
PRIMARY KEY (passage_id)
ATTRIBUTES kind, customer_id, segment, error_code, device, happened_at
WAREHOUSE = {{ warehouse }}
TARGET_LAG = '{{ search_target_lag }}'
EMBEDDING_MODEL = 'snowflake-arctic-embed-l-v2.0'
COMMENT = 'What customers wrote to support'
AS
SELECT
    event_id,
    customer_id,
    segment,
    category,
    happened_at,
    kind,
    error_code,
    device,
    passage_id,
    document
FROM {{ database }}.{{ schema }}.searchable_case_texts;
