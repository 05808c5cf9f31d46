"""The same events through both targets: the same ledgers, features, predictions and queue."""

import random
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from churn_assets.clock import utc_now
from churn_assets.ingestion import kafka
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.commit import broken_ranges
from churn_assets.ingestion.events import LEDGERS
from churn_assets.ingestion.publisher import Publisher
from churn_assets.retention.claims import claim
from churn_assets.retention.queue import fill_queue, raise_alerts
from churn_assets.rules import EVENTS_TOPIC, Rules
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator.live import LiveBank
from churn_assets.simulator.producer import produce_at_once
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.warehouse.protocol import Warehouse
from churn_assets.warehouse.snowflake import SnowflakeWarehouse
from churn_assets_tests.ingestion.messages import message

pytestmark = [pytest.mark.emulator, pytest.mark.snowflake]

CUSTOMERS, DAYS, EVENTS = 1500, 40, 20_000
# Which differ by when they were written, and nothing else.
OF_THE_MOMENT = {"ingested_at", "rejected_at", "stored_at", "computed_at", "updated_at", "queued_at", "left_at"}


def nonsense(luck: random.Random) -> list[bytes]:
    """Poison, retries, contradictions and late states, beside the bank's own events."""
    poison = [b"poison \xff %d" % number for number in range(40)] + [b"{}", message("TXN", amount="much")]
    retries = [
        message("TXN", transaction_ref=f"R{luck.randrange(30)}", amount=luck.choice([5.0, 6.0])) for _ in range(90)
    ]
    states = [message("USER", customer_id="C000", updated_at=f"2026-03-{luck.randrange(1, 28):02}") for _ in range(60)]
    calm = [
        message("SCORE", score_id=f"old{n}", customer_id=f"C{n}", scored_at="2026-03-01T10:00:00Z") for n in range(9)
    ]
    found = [*poison, *retries, *states, *calm]
    luck.shuffle(found)
    return found


def run(warehouse: Warehouse, settings: Settings, now: datetime) -> None:
    """What a day's runs do, once."""
    cluster = kafka.connect(settings)
    waiting = [lag.waiting for lag in lags(warehouse, cluster, settings.topics)]
    ingest(warehouse, cluster, waiting, on_gap="fail", group="parity", clock=lambda: now, report=lambda _: None)
    warehouse.refresh([table.name for table in warehouse.dynamic_tables(utc_now())], utc_now())
    warehouse.transact(lambda tx: fill_queue(tx, now))
    warehouse.transact(lambda tx: raise_alerts(tx, now))
    warehouse.transact(lambda tx: claim(tx, now.date(), now, 500, Rules().emails.control_share))


def rows(warehouse: Warehouse, table: str) -> list[str]:
    """All rows, in an order of their own, without what tells of the moment of writing."""
    found = warehouse.query(f"SELECT * FROM {table}")
    ledger_keeps = {"updated_at"} if table in LEDGERS else set[str]()
    kept = sorted(name for name in found.column_names if name not in OF_THE_MOMENT - ledger_keeps)
    return sorted(repr([_exact(row[name]) for name in kept]) for row in found.to_pylist())


def _exact(value: Any) -> Any:
    # The emulator adds up decimals as floats, which Snowflake does not.
    return round(float(value), 9) if isinstance(value, float | Decimal) else value


def test_the_same_events_give_the_same_tables_on_both(deployed: Settings, lake: LakeWarehouse, settings: Settings):
    snowflake = SnowflakeWarehouse(deployed)
    both = load_settings(CHURN_HOME=settings.home, KAFKA_BOOTSTRAP_SERVERS=None, CHURN_TOPICS=EVENTS_TOPIC)
    now = utc_now()
    bank = new_bank(CUSTOMERS, DAYS, 1, now)
    for warehouse in (lake, snowflake):
        seed(warehouse, bank, now, lambda *_: None)
        warehouse.refresh([table.name for table in warehouse.dynamic_tables(now)], now)
    with embedded_broker(both.broker_file) as cluster:
        publisher = Publisher(cluster, EVENTS_TOPIC)
        produce_at_once(LiveBank(bank), publisher, EVENTS, utc_now, lambda _: None)
        for number, event in enumerate(nonsense(random.Random(1))):
            publisher.send(str(number).encode(), event)
        publisher.flush()
        for warehouse in (lake, snowflake):
            run(warehouse, both, now)

    tables = [*LEDGERS, "event_rejects", "kafka_offsets", "ingest_ranges", "customer_day", "dyn_customer_features"]
    tables += ["dyn_churn_predictions", "churn_metrics_live", "retention_queue", "agent_intervention_log"]
    found = {table: (rows(lake, table), rows(snowflake, table)) for table in tables}
    assert {table: on_lake == on_snowflake for table, (on_lake, on_snowflake) in found.items()} == dict.fromkeys(
        tables, True
    )
    sizes = {table: len(on_lake) for table, (on_lake, _) in found.items()}
    assert sizes["event_rejects"] == 42
    assert sizes["agent_intervention_log"] > 0, "nobody is at risk"
    assert sizes["fact_transaction_ledger"] > EVENTS / 2
    assert broken_ranges(snowflake) == []
