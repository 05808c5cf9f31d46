"""The documents of the search benchmark in LanceDB's full-text index. Run by `benchmarks/search.py`, through uv."""

import sys
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import lancedb
import pyarrow.parquet as pq

home = Path(sys.argv[1])
documents = pq.read_table(home / "documents.parquet")
queries = sys.stdin.read().splitlines()
started = perf_counter()
table = lancedb.connect(home / "lancedb").create_table("documents", documents)
table.create_fts_index("document", use_tantivy=False, stem=True, remove_stop_words=True)
print(f"  built in {perf_counter() - started:.1f} s")  # noqa: T201
started = perf_counter()
table.add(documents.slice(0, 500))
table.optimize()
print(f"  500 new rows: {(perf_counter() - started) * 1000:.0f} ms")  # noqa: T201
for name, where in (("no filter", None), ("device", "device = 'IOS'"), ("customer", "customer_id = 'C00000123'")):
    seconds = []
    for query in queries:
        started = perf_counter()
        search = table.search(query, query_type="fts").limit(20)
        (search.where(where, prefilter=True) if where else search).to_list()
        seconds.append(perf_counter() - started)
    print(f"  {name:28}{median(seconds) * 1000:>10.1f}{quantiles(seconds, n=20)[-1] * 1000:>10.1f}")  # noqa: T201
