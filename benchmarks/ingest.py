"""How fast events come from a Kafka broker into the committed lake, and what a user would pick instead.

    make benchmark-ingest                 # everything, about ten minutes
    make benchmark-ingest ARGS="ours limits"
    make benchmark-ingest ARGS="mapping"  # ten columns of a mapping, from JSON and from Avro, beside the contract

Each figure is the best of `--rounds` fresh processes that read the same topic of Apache Kafka on this machine; imports are
not counted, connecting is. Compare ratios, not absolutes: machines differ, and so does one machine from hour to hour.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from time import perf_counter

import dagster as dg
import fastavro
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

from churn_assets.clock import utc_now
from churn_assets.definitions import build_defs
from churn_assets.ingestion import commit, kafka, schema_registry
from churn_assets.ingestion.backlog import ingest, lags
from churn_assets.ingestion.broker import embedded_broker
from churn_assets.ingestion.decoding import decode
from churn_assets.ingestion.kafka import Chunk, Cluster, OffsetRange, Partition
from churn_assets.ingestion.mapping.compiling import Mappings
from churn_assets.ingestion.mapping.file import parse
from churn_assets.ingestion.publisher import Publisher
from churn_assets.operations.lake import deploy
from churn_assets.settings import load_settings
from churn_assets.simulator.live import LiveBank
from churn_assets.simulator.producer import produce_at_once
from churn_assets.simulator.seeding import new_bank
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets_tests.ingestion.apache_kafka import KafkaServer
from churn_assets_tests.ingestion.schema_registry import framed, registry_server

PARTITIONS = 4
TOPIC = "events"
CONTRACT_TOPIC, MAPPED_TOPIC, AVRO_TOPIC = "contract", "mapped", "avro"
LEDGER_ROWS = (1_000_000, 10_000_000, 50_000_000)
PEERS = {"seeds": 10_000, "dlt": 400_000, "pathway": 400_000}  # and how many events each is given
SCRIPTS = {"seeds": "seeds_way.py", "dlt": "dlt_merge.py", "pathway": "pathway_dedup.py"}


def main() -> None:
    """Parse the arguments, run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=["tick", "limits", "ours", "mapping", "peers", "growth"])
    parser.add_argument("--kafka", default=".tools/kafka", help="folder of Apache Kafka's jars")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--servers", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(_run_case(options.case, options.servers, options.events)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as folder:
        if "tick" in options.groups:
            _print_tick(Path(folder) / "tick")
        if {"limits", "ours", "mapping", "peers"} & set(options.groups):
            with KafkaServer(Path(options.kafka), Path(folder)) as server:
                if {"limits", "ours", "peers"} & set(options.groups):
                    _print_speeds(server, options)
                if "mapping" in options.groups:
                    _print_mapping(server, options)
        if "growth" in options.groups:
            _print_growth(Path(folder))


def _print_speeds(server: KafkaServer, options: argparse.Namespace) -> None:
    server.create_topic(TOPIC, PARTITIONS)
    bank = LiveBank(new_bank(20_000, 30, 1, utc_now()))
    publisher = Publisher(Cluster(server.bootstrap_servers), TOPIC)
    produce_at_once(bank, publisher, options.events, utc_now, lambda _: None)
    _say(f"{options.events:,} events in {PARTITIONS} partitions of Apache Kafka on {os.cpu_count()} cores")
    cases = ["raw consume(), client's defaults", "raw consume(), as here"]
    if "limits" in options.groups:
        cases += ["parse JSON only", "insert only"]
    if "ours" in options.groups:
        cases += [
            "churn_assets, batches of 200,000",
            "churn_assets, batches of 50,000",
            "churn_assets, batches of 5,000",
        ]
    speeds: dict[str, float] = {}

    def note(case: str, run: Callable[[], dict[str, float]]) -> None:
        results = [run() for _ in range(options.rounds)]
        speeds[case] = best = max(result["events"] / result["seconds"] for result in results)
        memory = max(result.get("megabytes", 0.0) for result in results)
        _say(
            f"{case:36} {best:>12,.0f} events/s {best / speeds[cases[0]]:>8.1%} of raw consume()"
            + (f", {memory:,.0f} MB at most" if memory else "")
        )

    for case in cases:
        note(case, lambda case=case: _fresh_process(case, server.bootstrap_servers, options.events))
    if "peers" in options.groups:
        for peer, events in PEERS.items():
            note(peer, lambda peer=peer, events=events: _peer(peer, server.bootstrap_servers, events))


def _print_mapping(server: KafkaServer, options: argparse.Namespace) -> None:
    """The same accounts as messages of the contract, and as those of a bank's own topics with ten mapped fields."""
    schema = fastavro.parse_schema(AVRO_SCHEMA)

    def in_avro(number: int) -> bytes:
        stream = BytesIO()
        fastavro.schemaless_writer(stream, schema, _in_avro(number))
        return framed(1, stream.getvalue())

    for topic, message in (
        (CONTRACT_TOPIC, lambda number: json.dumps(_of_the_contract(number)).encode()),
        (MAPPED_TOPIC, lambda number: json.dumps(_of_a_bank(number)).encode()),
        (AVRO_TOPIC, in_avro),
    ):
        server.create_topic(topic, PARTITIONS)
        publisher = Publisher(Cluster(server.bootstrap_servers), topic)
        for number in range(options.events):
            publisher.send(b"%d" % (number % 5000), message(number))
            if number % 10_000 == 0:
                publisher.poll()
        publisher.flush()
    # One after the other in each round, as the machine differs from minute to minute.
    best = {topic: 0.0 for topic in (CONTRACT_TOPIC, MAPPED_TOPIC, AVRO_TOPIC)}
    with registry_server() as registry:
        registry.add(1, AVRO_SCHEMA)
        os.environ["SCHEMA_REGISTRY_URL"] = registry.address
        for _ in range(options.rounds):
            for topic, fastest in best.items():
                result = _fresh_process(f"topic {topic}", server.bootstrap_servers, options.events)
                best[topic] = max(fastest, result["events"] / result["seconds"])
    for topic, speed in best.items():
        _say(f"{topic:36} {speed:>12,.0f} events/s {speed / best[CONTRACT_TOPIC]:>8.1%} of the contract")


def _of_the_contract(number: int) -> dict[str, object]:
    return {
        "event_type": "ACCOUNT",
        "payload": {
            "account_id": f"A{number}",
            "customer_id": f"C{number % 100_000}",
            "product_code": ("CHECKING", "SAVINGS", "CREDIT_CARD")[number % 3],
            "available_balance": number + 0.5,
            "account_status": "OPEN",
            "opened_at": f"2019-{1 + number % 12:02}-{1 + number % 28:02}T09:{number % 60:02}:00Z",
            "closed_at": None,
            "updated_at": f"2026-{1 + number % 9:02}-{1 + number % 28:02}T10:{number % 60:02}:00Z",
        },
    }


def _of_a_bank(number: int) -> dict[str, object]:
    return {
        "kontonr": f"A{number}",
        "kundennr": f"C{number % 100_000}",
        "produkt": ("GIRO", "SPAR", "KK")[number % 3],
        "saldo": f"{number},50",
        "status": "A",
        "eroeffnet": f"{1 + number % 28:02}.{1 + number % 12:02}.2019",
        "geschlossen": None,
        "geaendert": f"{1 + number % 28:02}.{1 + number % 9:02}.2026 10:{number % 60:02}",
        "filiale": f"F{number % 90}",
        "waehrung": "EUR",
    }


AVRO_SCHEMA = {
    "type": "record",
    "name": "Konto",
    "fields": [
        {"name": "kontonr", "type": "string"},
        {"name": "kundennr", "type": "string"},
        {"name": "produkt", "type": {"type": "enum", "name": "Produkt", "symbols": ["GIRO", "SPAR", "KK"]}},
        {"name": "saldo", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "status", "type": "string"},
        {"name": "eroeffnet", "type": {"type": "int", "logicalType": "date"}},
        {"name": "geschlossen", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "geaendert", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "filiale", "type": "string"},
        {"name": "waehrung", "type": ["null", "string"]},
    ],
}


def _in_avro(number: int) -> dict[str, object]:
    return _of_a_bank(number) | {
        "saldo": Decimal(number) + Decimal("0.50"),
        "eroeffnet": date(2019, 1 + number % 12, 1 + number % 28),
        "geaendert": datetime(2026, 1 + number % 9, 1 + number % 28, 10, number % 60, tzinfo=UTC),
    }


MAPPING = """
mappings:
  - name: konten in Avro
    ledger: dim_accounts
    topics: avro
    format: avro
    skip: waehrung <> 'EUR'
    columns:
      account_id: kontonr
      customer_id: kundennr
      product_code: {sql: produkt, codes: produkte}
      available_balance: saldo
      account_status: {sql: status, codes: status}
      opened_at: eroeffnet
      closed_at: geschlossen
      updated_at: geaendert
  - name: konten
    ledger: dim_accounts
    topics: mapped
    decimal: ","
    timezone: Europe/Berlin
    date_format: ["%d.%m.%Y %H:%M", "%d.%m.%Y"]
    skip: waehrung <> 'EUR'
    columns:
      account_id: kontonr
      customer_id: kundennr
      product_code: {sql: produkt, codes: produkte}
      available_balance: saldo
      account_status: {sql: status, codes: status}
      opened_at: {sql: eroeffnet, date_format: "%d.%m.%Y"}
      closed_at: {sql: geschlossen, date_format: "%d.%m.%Y"}
      updated_at: geaendert
codes:
  produkte: {values: {GIRO: CHECKING, SPAR: SAVINGS, KK: CREDIT_CARD}}
  status: {values: {A: OPEN, Z: CLOSED}}
"""


def _fresh_process(case: str, servers: str, events: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--servers", servers, "--events", str(events)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peer(peer: str, servers: str, events: int) -> dict[str, float]:
    script = Path(__file__).parent / "peers" / SCRIPTS[peer]
    command = ["uv", "run", "--quiet", "--no-project", "--script", str(script), servers, TOPIC, str(events)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{peer}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _run_case(case: str, servers: str, events: int) -> dict[str, float]:
    if case.startswith("raw consume()"):
        return _raw(servers, events, {} if "defaults" in case else {"fetch.queue.backoff.ms": 5})
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(CHURN_HOME=home, KAFKA_BOOTSTRAP_SERVERS=servers, CHURN_TOPICS=TOPIC)
        lake = LakeWarehouse(settings.lake_path)
        lake.deploy()
        if case in {"parse JSON only", "insert only"}:
            return _limit(case, lake, Cluster(servers))
        mappings = None
        if case.startswith("topic "):
            settings = load_settings(CHURN_HOME=home, KAFKA_BOOTSTRAP_SERVERS=servers, CHURN_TOPICS=case.split(" ")[1])
            mappings = Mappings(parse(MAPPING.encode(), "the benchmark's"))
        else:
            kafka.INGEST_CHUNK_MESSAGES = int(case.rsplit(" ", 1)[1].replace(",", ""))
        begin = perf_counter()
        cluster = kafka.connect(settings)
        ranges = [lag.waiting for lag in lags(lake, cluster, settings.topics)]
        stored = ingest(
            lake,
            cluster,
            ranges,
            on_gap="fail",
            group="bench",
            clock=utc_now,
            report=lambda _: None,
            mappings=mappings,
            registry=schema_registry.connect(settings),
        )
        seconds = perf_counter() - begin
        rows = stored.rows.total() + stored.duplicates.total() + stored.rejected.total()
        assert rows == stored.messages == events, stored
        return {"events": events, "seconds": seconds, "megabytes": _peak_megabytes()}


def _peak_megabytes() -> float:
    """The most memory that this process had; what getrusage says includes that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def _raw(servers: str, events: int, settings: dict[str, str | int | float | bool]) -> dict[str, float]:
    """Messages to bytes to Arrow, and nothing else."""
    begin = perf_counter()
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "raw", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        | settings
    )
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
    batches: list[pa.Array] = []
    count = 0
    while count < events:
        values = [message.value() for message in consumer.consume(500, timeout=0.1)]
        count += len(values)
        batches.append(pa.array(values, pa.binary()))
    seconds = perf_counter() - begin
    consumer.close()
    return {"events": count, "seconds": seconds}


def _limit(case: str, lake: LakeWarehouse, cluster: Cluster) -> dict[str, float]:
    ranges = [OffsetRange(p, marks.low, marks.high) for p, marks in cluster.partitions(TOPIC).items() if marks]
    chunks = list(cluster.read(ranges, {}))
    begin = perf_counter()
    decoded = [decode(chunk.messages, utc_now()) for chunk in chunks]
    if case == "insert only":
        begin = perf_counter()
        for batch in decoded:
            for ledger, rows in batch.rows.items():
                columns = ", ".join(rows.column_names)
                insert = f"INSERT INTO {ledger} ({columns}, ingested_at) SELECT {columns}, now()::TIMESTAMP FROM staged"
                lake.transact(lambda tx, insert=insert: tx.execute(insert), {"staged": rows})
    return {"events": sum(chunk.messages.num_rows for chunk in chunks), "seconds": perf_counter() - begin}


def _print_tick(home: Path) -> None:
    """The time of an idle look of the Kafka sensor, as the daemon has it evaluated in the code server's process."""
    settings = load_settings(CHURN_HOME=home, KAFKA_BOOTSTRAP_SERVERS=None)
    lake = LakeWarehouse(settings.lake_path)
    deploy(settings, lake, lambda _: None)
    with embedded_broker(settings.broker_file) as cluster, dg.DagsterInstance.local_temp(str(home)) as instance:
        produce_at_once(
            LiveBank(new_bank(200, 10, 1, utc_now())),
            Publisher(cluster, "bank_transactions"),
            600,
            utc_now,
            lambda _: None,
        )
        definitions = build_defs(settings)
        definitions.resolve_job_def("ingest_events").execute_in_process(instance=instance)
        repository = definitions.get_repository_def()
        seconds: list[float] = []
        for _ in range(21):
            context = dg.build_sensor_context(
                instance=instance, repository_def=repository, resources={"warehouse": lake, "settings": settings}
            )
            begin = perf_counter()
            tick = repository.get_sensor_def("kafka_sensor").evaluate_tick(context)
            seconds.append(perf_counter() - begin)
            assert tick.skip_message == "nothing waits", tick
        _say(
            f"idle tick of the Kafka sensor {sorted(seconds)[10] * 1000:.0f} ms (median; first {seconds[0] * 1000:.0f} ms)"
        )


def _print_growth(folder: Path) -> None:
    """The time of a batch of 5,000 events over a ledger of 1, 10 and 50 million rows of half a year."""
    first: float | None = None
    for rows in LEDGER_ROWS:
        settings = load_settings(CHURN_HOME=folder / f"{rows}")
        lake = LakeWarehouse(settings.lake_path)
        deploy(settings, lake, lambda _: None)
        _fill(lake, rows)
        seconds = sorted(_batch_seconds(lake, number) for number in range(12))[6]
        first = first or seconds
        _say(f"5,000 events into {rows:>12,} rows {seconds * 1000:>8,.0f} ms {seconds / first:>6.2f} times the first")


def _fill(lake: LakeWarehouse, rows: int) -> None:
    """History as it would lie there: written in order of time, then maintained."""
    step = 1_000_000
    for start in range(0, rows, step):
        at = f"now()::TIMESTAMP - to_seconds((180 * 86400 * (1 - (number / {rows})))::BIGINT)"
        origin = "NULL AS extra_fields, now()::TIMESTAMP, NULL, NULL, NULL"
        numbers = f"FROM (SELECT unnest(range({start}, {start + step})) AS number)"
        lake.transact(
            lambda tx, at=at, origin=origin, numbers=numbers: tx.execute(
                "INSERT INTO fact_transaction_ledger SELECT 'H' || number, 'A' || (number % 50000), "
                f"{at}, 'POS', 12.5, 'CARD', 'Grocer', {origin} {numbers}"
            )
        )
    lake.maintain({"fact_transaction_ledger": "posting_date"}, utc_now())


def _batch_seconds(lake: LakeWarehouse, number: int) -> float:
    """One batch as a live stream has it: most events of today, one in fifty up to two months late."""
    size, now = 5_000, utc_now()
    events: list[bytes] = []
    for position in range(size):
        late = timedelta(days=(position * 7) % 60) if position % 50 == 0 else timedelta(seconds=position % 600)
        events.append(
            b'{"event_type":"TXN","payload":{"transaction_ref":"B%d-%d","account_id":"A%d","posting_date":"%s",'
            b'"transaction_code":"POS","amount":9.5,"channel_id":"CARD","merchant":"Grocer"}}'
            % (number, position, position, (now - late).isoformat().encode())
        )
    partition = Partition("benchmark", TOPIC, 0)
    messages = pa.table(
        [[0] * size, range(number * size, (number + 1) * size), [now] * size, events],
        schema=kafka.MESSAGE_SCHEMA,
    )
    chunk = Chunk(TOPIC, [OffsetRange(partition, number * size, (number + 1) * size)], messages)
    begin = perf_counter()
    stored = commit.store(lake, chunk, decode(messages, now), now, {})
    seconds = perf_counter() - begin
    assert stored.rows.total() == size, stored
    return seconds


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
