-- The transactions of customers, without account numbers.
CREATE OR REPLACE SECURE VIEW {{ database }}.{{ serving_schema }}.customer_transactions (
    transaction_ref,
    customer_id,
    segment,
    posting_date,
    transaction_code,
    amount,
    channel_id,
    merchant
)
WITH ROW ACCESS POLICY {{ database }}.{{ serving_schema }}.granted_segments ON (segment)
COPY GRANTS
AS
SELECT
    ledger.transaction_ref,
    accounts.customer_id,
    customers.segment,
    ledger.posting_date,
    ledger.transaction_code,
    ledger.amount,
    ledger.channel_id,
    ledger.merchant
FROM {{ database }}.{{ schema }}.fact_transaction_ledger AS ledger
INNER JOIN {{ database }}.{{ schema }}.dim_accounts AS accounts ON ledger.account_id = accounts.account_id
INNER JOIN {{ database }}.{{ schema }}.dim_customers AS customers ON accounts.customer_id = customers.customer_id;
