select
    log_id,
    customer_id,
    cast(event_timestamp as date) as event_day,
    case when error_code is null then 0 else 1 end as is_error
from {{ source('bank', 'app_activity_logs') }}
