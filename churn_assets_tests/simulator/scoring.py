"""The rule of the score, applied to simulated ledgers or events."""

from datetime import date, datetime

import duckdb
import pandas as pd
import pyarrow as pa

from churn_assets.ingestion.events import EVENT_TYPES
from churn_assets.rules import EVENTS_TOPIC
from churn_assets.simulator.bank import Bank
from churn_assets.simulator.live import Event

# The others are what other systems make of these.
BANK_EVENTS = [event_type for event_type in EVENT_TYPES if event_type.topic == EVENTS_TOPIC]

Ledgers = dict[str, pa.Table]

# The rule of the score, in percent points so that the sums are exact; HIGH from 70, MEDIUM from 40.
SCORES = """
with owners as (
    select distinct customer_id from dim_accounts
    where opened_at < $as_of and (closed_at is null or closed_at >= $as_of)
),
postings as (
    select customer_id, posting_date as happened_at, transaction_code, amount
    from fact_transaction_ledger join dim_accounts using (account_id)
    where posting_date >= $as_of - interval 30 day and posting_date < $as_of
),
actions as (
    select customer_id, event_timestamp as happened_at, error_code
    from app_activity_logs
    where event_timestamp >= $as_of - interval 30 day and event_timestamp < $as_of
),
wires as (select customer_id, sum(amount) as amount from postings where transaction_code = 'WIRE_OUT' group by all),
errors as (select customer_id, count(error_code) as errors from actions group by all),
cases as (
    select customer_id, count(*) as cases, avg(sentiment_score) as sentiment
    from support_cases
    where open_timestamp >= $as_of - interval 30 day and open_timestamp < $as_of
    group by all
),
activity as (
    select customer_id, count(distinct happened_at::date) as active_days
    from (select customer_id, happened_at from postings union all select customer_id, happened_at from actions)
    group by all
)
select
    customer_id,
    coalesce(active_days, 0) as active_days,
    25 * (coalesce(amount, 0) > 5000)::int + 20 * (coalesce(cases, 0) > 2)::int
    + 20 * (coalesce(sentiment, 0.5) < 0.4)::int + 15 * (coalesce(errors, 0) > 5)::int
    + 20 * (coalesce(active_days, 0) < 5)::int as score
from owners
left join wires using (customer_id)
left join errors using (customer_id)
left join cases using (customer_id)
left join activity using (customer_id)
"""


def collect(bank: Bank) -> Ledgers:
    chunks: dict[str, list[pa.Table]] = {}
    for ledger, rows in bank.history():
        chunks.setdefault(ledger, []).append(rows)
    return {ledger: pa.concat_tables(tables) for ledger, tables in chunks.items()}


def as_ledgers(events: list[Event]) -> Ledgers:
    """Return events as rows; of an account, the latest state only."""
    tables: Ledgers = {}
    for event_type in BANK_EVENTS:
        rows = [event.payload for event in events if event.event_type == event_type.name]
        frame = pd.DataFrame(rows, columns=pd.Index([field.name for field in event_type.fields]))
        for field in event_type.fields:
            if field.type == "TIMESTAMP":
                frame[field.name] = pd.to_datetime(frame[field.name], format="ISO8601").dt.tz_localize(None)
        if event_type.is_dimension:
            frame = frame.drop_duplicates(event_type.key, keep="last")
        tables[event_type.ledger] = pa.Table.from_pandas(frame, preserve_index=False)
    return tables


def scores(ledgers: Ledgers, as_of: datetime | date) -> pd.DataFrame:
    with duckdb.connect() as connection:
        for event_type in BANK_EVENTS:
            connection.register(event_type.ledger, ledgers[event_type.ledger])
        return connection.execute(SCORES, {"as_of": as_of}).df()
