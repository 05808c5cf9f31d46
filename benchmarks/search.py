"""What the search finds, how fast, and what a user would take instead.

    make benchmark-search                                 # a bank for quality, a million errors for speed: some minutes
    make benchmark-search ARGS="--rows 100000 quality speed"
    make benchmark-search ARGS="--rows 200000 peers"      # LanceDB and DuckDB's full text, through uv; not in `all`

Quality is that of the shipped questions over a simulated bank, hit by hit. Speed is that of the same questions over errors that
are written into a lake, from one warm process. Compare ratios, not absolutes; on a busy machine, the processor's time.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time

import tantivy

from churn_assets.search import vectors
from churn_assets.search.embedded import EmbeddedSearch
from churn_assets.search.events import Event
from churn_assets.search.hits import Filters
from churn_assets.search.index import LogIndex, Reader
from churn_assets.search.relevance import Catalogue, load_catalogue
from churn_assets.search.words import words
from churn_assets.settings import load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.lake import LakeWarehouse
from churn_assets.wiring import open_lake
from churn_assets_tests.search.quality import TOP, code_of, load_questions, quality

NOW = datetime.fromisoformat("2026-03-01T12:00:00")
CUSTOMERS, DAYS = 2_000, 60  # of the bank for quality
PEERS = {"DuckDB FTS": ("duckdb_fts.py", []), "LanceDB FTS": ("lancedb_fts.py", ["lancedb"])}
Codes = Callable[[str], list[str]]


def main() -> None:
    """Parse the arguments, run the groups and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=["quality", "speed"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as folder:
        if "quality" in options.groups:
            _print_quality(Path(folder) / "quality")
        if {"speed", "peers"} & set(options.groups):
            _print_speed(Path(folder) / "speed", options.rows, "peers" in options.groups)


def _print_quality(home: Path) -> None:
    settings = load_settings(CHURN_HOME=home)
    lake = open_lake(settings.lake_path)
    lake.deploy()
    seed(lake, new_bank(CUSTOMERS, DAYS, 1, NOW), NOW, lambda ledger, rows: None)
    index = LogIndex(settings.search_path, lake)
    index.update()
    reader = index.read()
    catalogue = load_catalogue(settings.search_path)
    events = reader.newest(Filters(), None, reader.documents)
    bare = [(event, _bare(event)) for event in events]
    ways: dict[str, Codes] = {
        "ILIKE, the whole question": _ilike(bare, whole=True),
        "ILIKE, any word, by how many": _ilike(bare, whole=False),
        "BM25 without the catalogue": _bm25(bare),
        "BM25 with titles and descriptions": _bm25([(event, _described(event, catalogue)) for event in events]),
        "BM25 with all of the catalogue": _bm25([(event, event.document(catalogue)) for event in events]),
        "churn search, words": _ours(EmbeddedSearch(index, lake, Catalogue(catalogue.entries), "DATA_ENGINEER")),
    }
    if vectors.is_installed():
        ways["churn search, words and meanings"] = _ours(EmbeddedSearch(index, lake, catalogue, "DATA_ENGINEER"))
    parts = load_questions()
    _say(f"{len(events):,} errors and cases; recall@10 and nDCG@10 of the first ten hits")
    _say(f"{'':36}" + "".join(f"{f'{part} ({len(asked)})':>20}" for part, asked in parts.items()))
    for name, way in ways.items():
        reached = [quality(asked, way) for asked in parts.values()]
        _say(f"{name:36}" + "".join(f"{one.recall:>14.3f} {one.ndcg:.3f}" for one in reached))


def _bare(event: Event) -> str:
    """What a row says by itself."""
    return event.circumstances if event.kind == "error" else f"support case {event.circumstances}"


def _described(event: Event, catalogue: Catalogue) -> str:
    return re.sub(r" In other words: .*?\.(?= |$)", "", event.document(catalogue))


def _code(event: Event) -> str:
    return event.code


def _ilike(documents: list[tuple[Event, str]], *, whole: bool) -> Codes:
    """As SQL would: the newest first of those that have the text, or of those that have the most of its words."""

    def codes(query: str) -> list[str]:
        parts = [query.lower()] if whole else re.findall(r"\w+", query.lower())
        counted = [(sum(part in text.lower() for part in parts), event) for event, text in documents]
        found = sorted(
            (pair for pair in counted if pair[0]), key=lambda pair: -pair[0]
        )  # they are newest first already
        return [_code(event) for _, event in found[:TOP]]

    return codes


def _bm25(documents: list[tuple[Event, str]]) -> Codes:
    """One document per event, by tantivy's BM25, with the same stop words and stems as ours."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    builder.add_text_field("code", stored=True, tokenizer_name="raw")
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(num_threads=1)
    stems = {text: " ".join(words(text)) for text in {text for _, text in documents}}
    for event, text in documents:
        writer.add_document(tantivy.Document(text=stems[text], code=event.code))
    writer.commit()
    index.reload()
    searcher = index.searcher()

    def codes(query: str) -> list[str]:
        terms = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "text", word)) for word in words(query)]
        hits = searcher.search(tantivy.Query.boolean_query(terms), limit=TOP).hits
        return [searcher.doc(address)["code"][0] for _, address in hits]

    return codes


def _ours(search: EmbeddedSearch) -> Codes:
    return lambda query: [code_of(hit) for hit in search.search(query, Filters(), TOP)]


def _print_speed(home: Path, rows: int, with_peers: bool) -> None:
    settings = load_settings(CHURN_HOME=home)
    lake = open_lake(settings.lake_path)
    lake.deploy()
    lake.transact(
        lambda tx: tx.execute(
            "INSERT INTO dim_customers (customer_id, full_name, segment, join_date, updated_at, ingested_at)"
            " SELECT format('C{:08d}', i), 'Ann', 'MASS', DATE '2020-01-01', now()::TIMESTAMP, now()::TIMESTAMP"
            " FROM range(20000) AS numbers (i)"
        )
    )
    _write_errors(lake, 0, rows)
    index = LogIndex(settings.search_path, lake)
    worked = process_time()
    update = index.update()
    _say(
        f"\n{rows:,} errors of 20,000 customers: built in {update.seconds:.1f} s ({process_time() - worked:.1f} s of a"
        f" processor), {update.bytes / 1e6:.0f} MB"
    )
    seconds, work = list[float](), list[float]()
    for number in range(5):
        _write_errors(lake, rows + 500 * number, 500)
        worked = process_time()
        seconds.append(index.update().seconds)
        work.append(process_time() - worked)
    _say(f"500 new rows: {median(seconds) * 1000:.0f} ms ({median(work) * 1000:.0f} ms of a processor)")
    catalogue = load_catalogue(settings.search_path)
    asked = [one.query for part in load_questions().values() for one in part]
    cases = {
        "no filter": (asked, Filters()),
        "device": (asked, Filters(device="IOS")),
        "error code and 7 days": (asked, Filters(error_code="ERR_NETWORK", since=NOW - timedelta(days=7))),
        "customer": (asked, Filters(customer_id="C00000123")),
        "newest, no words": ([""] * len(asked), Filters()),
        "newest, device and 7 days": ([""] * len(asked), Filters(device="IOS", since=NOW - timedelta(days=7))),
        "what events said": (["sensor dirty", "gateway returned 502", "timeout while waiting"] * 18, Filters()),
    }
    ways = {"words": Catalogue(catalogue.entries)}
    if vectors.is_installed():
        ways["words and meanings"] = catalogue
    for name, one in ways.items():
        search = EmbeddedSearch(index, open_lake(settings.lake_path, read_only=True), one, "DATA_ENGINEER")
        search.search("warm up", Filters())
        _say(f"\n{name:30}{'p50 ms':>10}{'p95 ms':>10}{'processor ms':>14}")
        for case, (queries, filters) in cases.items():
            _say_times(case, [_timed(search.search, query, filters) for query in queries])
    like = (
        "SELECT log_id FROM app_activity_logs WHERE error_code IS NOT NULL AND (error_code || ' ' || event_type || ' '"
        " || coalesce(device, '') || ' ' || coalesce(extra_fields, '')) ILIKE ? ORDER BY event_timestamp DESC LIMIT 20"
    )
    _say("")
    _say_times("SQL ILIKE on the lake", [_timed(lake.query, like, [f"%{query}%"]) for query in asked])
    if with_peers:
        _print_peers(home, index.read())


def _write_errors(lake: LakeWarehouse, first: int, count: int) -> None:
    """Errors spread over 180 days, of which one in twenty says something in its own words."""
    sql = f"""
        INSERT INTO app_activity_logs
            (log_id, customer_id, event_type, event_timestamp, error_code, device, extra_fields, ingested_at)
        SELECT
            format('L{{:09d}}', i), format('C{{:08d}}', hash(i) % 20000),
            ['LOGIN', 'VIEW_BALANCE', 'TRANSFER', 'PAY_BILL', 'CARD_SETTINGS'][1 + CAST(hash(i, 1) % 5 AS INTEGER)],
            TIMESTAMP '{NOW}' - to_seconds(CAST(hash(i, 2) % {180 * 86400} AS BIGINT)),
            ['ERR_AUTH_TIMEOUT', 'ERR_AUTH_OTP', 'ERR_PAYMENT_DECLINED', 'ERR_NETWORK', 'ERR_APP_CRASH',
             'ERR_LIMIT_EXCEEDED'][1 + CAST(hash(i, 3) % 6 AS INTEGER)],
            ['IOS', 'ANDROID', 'WEB'][1 + CAST(hash(i, 4) % 3 AS INTEGER)],
            CASE WHEN i % 20 = 0 THEN '{{"message": "' || ['gateway returned 502 to request ', 'sensor dirty, attempt ',
             'timeout while waiting for host '][1 + CAST(hash(i, 5) % 3 AS INTEGER)] || i || '"}}' END,
            TIMESTAMP '{NOW}'
        FROM range({first}, {first + count}) AS numbers (i)
    """
    lake.transact(lambda tx: tx.execute(sql))


def _print_peers(home: Path, reader: Reader) -> None:
    """The same documents, in what else could have been embedded."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    catalogue = load_catalogue(home)
    events = reader.newest(Filters(), None, reader.documents)
    table = pa.table(
        {
            "event_id": [event.event_id for event in events],
            "customer_id": [event.customer_id for event in events],
            "device": [event.device for event in events],
            "happened_at": [event.happened_at for event in events],
            "document": [event.document(catalogue) for event in events],
        }
    )
    pq.write_table(table, home / "documents.parquet")
    asked = "\n".join(one.query for part in load_questions().values() for one in part)
    for name, (script, packages) in PEERS.items():
        _say(f"\n{name}, one document per event:")
        path = Path(__file__).parent / "peers" / script
        uv = ["uv", "run", "--no-project", *(f"--with={package}" for package in ("pyarrow", *packages)), "python"]
        run = subprocess.run(
            [*(uv if packages else [sys.executable]), str(path), str(home)],
            input=asked,
            capture_output=True,
            text=True,
            check=False,
        )
        _say(run.stdout if run.returncode == 0 else f"failed: {run.stderr.strip().splitlines()[-1]}")


def _timed(work: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """How long it took and how long a processor worked for it."""
    started, worked = perf_counter(), process_time()
    work(*arguments)
    return perf_counter() - started, process_time() - worked


def _say_times(case: str, times: list[tuple[float, float]]) -> None:
    seconds, work = zip(*times, strict=True)
    _say(
        f"{case:30}{median(seconds) * 1000:>10.1f}{quantiles(seconds, n=20)[-1] * 1000:>10.1f}{median(work) * 1000:>14.1f}"
    )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
