-- Postings with their customer. Amounts become exact decimals, so that sums do not depend on the order of adding.
with

ledger as (
    select * from {{ source('bank', 'fact_transaction_ledger') }}
),

accounts as (
    select * from {{ source('bank', 'dim_accounts') }}
)

select
    ledger.transaction_ref,
    accounts.customer_id,
    cast(ledger.posting_date as date) as event_day,
    {{ spend('ledger.transaction_code', 'ledger.amount') }} as spend,
    case
        when {{ has_code('ledger.transaction_code', var('codes').wire_out) }} then cast(ledger.amount as decimal(18, 2))
        else 0
    end as wire_out
from ledger
inner join accounts on ledger.account_id = accounts.account_id
