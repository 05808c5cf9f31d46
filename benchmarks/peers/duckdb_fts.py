"""The documents of the search benchmark in DuckDB's full-text extension. Run by `benchmarks/search.py`, in our environment.

The extension is not among those that come as wheels with the project; where it cannot be loaded, that is the answer.
"""

import sys
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import duckdb

home = Path(sys.argv[1])
queries = sys.stdin.read().splitlines()
connection = duckdb.connect(str(home / "fts.duckdb"))
connection.execute("LOAD fts")
started = perf_counter()
connection.execute(f"CREATE TABLE documents AS FROM '{home}/documents.parquet'")
connection.execute("PRAGMA create_fts_index('documents', 'event_id', 'document')")
print(f"  built in {perf_counter() - started:.1f} s; it is built anew for new rows")  # noqa: T201
for name, where in (("no filter", "true"), ("device", "device = 'IOS'"), ("customer", "customer_id = 'C00000123'")):
    seconds = []
    for query in queries:
        started = perf_counter()
        connection.execute(
            "SELECT event_id FROM (SELECT *, fts_main_documents.match_bm25(event_id, ?) AS score FROM documents)"
            f" WHERE score IS NOT NULL AND {where} ORDER BY score DESC, happened_at DESC LIMIT 20",
            [query],
        ).fetchall()
        seconds.append(perf_counter() - started)
    print(f"  {name:28}{median(seconds) * 1000:>10.1f}{quantiles(seconds, n=20)[-1] * 1000:>10.1f}")  # noqa: T201
