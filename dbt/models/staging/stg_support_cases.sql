select
    case_id,
    customer_id,
    cast(open_timestamp as date) as event_day,
    cast(sentiment_score as decimal(9, 6)) as sentiment
from {{ source('bank', 'support_cases') }}
