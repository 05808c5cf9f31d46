"""How fast customers are scored, and what a user would write instead: scikit-learn, called plainly.

    make benchmark-scoring                            # 100,000 customers, about two minutes
    make benchmark-scoring ARGS="--customers 300000 --rounds 3"

First the functions, from a DataFrame to probabilities, of a forest: `score`, scikit-learn, ONNX Runtime and, where they are
installed, tl2cgen and treelite, which compile the forest with gcc. Then `score` and the exact Shapley values of every family,
on one thread. Then the whole refresh of the predictions over features that lie in the
lake: after a promotion, when everybody is scored anew, and after the features of some have changed. The peer does that with
pandas, scikit-learn on one thread in batches of 1,000 rows, and one transaction; a second one gives scikit-learn all rows at
once. They hold their model in memory, do not look which one serves and give no reasons. Where some have changed the peer scores
everybody again, which is what one does who does not know who has; another one is handed their ids.

Customers are rows of a simulated bank's training set: 5,000 customers on the Sundays of 300 days. All ways take turns, the best
of the rounds counts, and all have to agree. Compare ratios, not absolutes: machines differ, and so does one machine from hour
to hour.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
import pyarrow as pa

from churn_assets.clock import utc_now
from churn_assets.configuration import rules
from churn_assets.model import families, registry, serving, training, training_set
from churn_assets.model.gate import Gate, Verdict
from churn_assets.model.metrics import Measure
from churn_assets.model.scoring import Family, Floats, Model, matrix_of, score
from churn_assets.operations.lake import deploy
from churn_assets.rules import FEATURES
from churn_assets.settings import Settings, load_settings
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.warehouse.protocol import Transaction
from churn_assets.wiring import open_lake

BANK_CUSTOMERS, BANK_DAYS, SEED = 5_000, 300, 1
BATCH = 1_000  # rows that plain scikit-learn gets at once
PLAIN = f"scikit-learn, 1 thread, batches of {BATCH:,}"
REPEATED = 20  # times a round, of what takes milliseconds
SAME = 1e-3  # no two probabilities may differ more: some ways add in 32 bits, and the calibration is steep in places
# Tables: ours and the peers'.
OURS, EVERYBODY, AT_ONCE, TOLD = "dyn_churn_predictions", "peer", "peer_all_at_once", "peer_told_the_ids"
COLUMNS = "customer_id, churn_score, model_score, model_version, risk_score, risk_class, computed_at"
PASSED = Gate("the benchmark", Measure(0, (0, 0)), Verdict(True, "not asked"), Verdict(True, "not asked"))

Votes: TypeAlias = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Candidate:
    """A forest, the one of scikit-learn's that it was made of, and all families on the same rows."""

    model: Model
    forest: Any
    families: Mapping[Family, Model]


@dataclass(frozen=True)
class Measured:
    """The best seconds of one way, and those of its functions in that round."""

    seconds: float
    inside: Mapping[str, float]


def main() -> None:
    """Measure the functions, then the refreshes, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--changed", type=int, default=1_000, help="customers whose features change")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    _say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, best of {options.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as name:
        folder = Path(name)
        rows = _training_rows(folder / "bank")
        candidates = [_candidate(rows, seed) for seed in (0, 1)]
        customers = _drawn(rows, options.customers, SEED)
        changes = [_drawn(rows, options.changed, SEED + number) for number in range(1, options.rounds + 1)]
        _print_functions(_ways(candidates[0], folder), customers, customers.head(options.changed), options.rounds)
        _print_families(candidates[0].families, customers, customers.head(options.changed), options.rounds)
        for source in ("heuristic", "model"):
            settings = load_settings(CHURN_HOME=folder / source, CHURN_SCORE_SOURCE=source)
            _print_refreshes(settings, candidates, customers, changes)


def _training_rows(home: Path) -> pd.DataFrame:
    settings, now = load_settings(CHURN_HOME=home), utc_now()
    lake = open_lake(settings.lake_path)
    deploy(settings, lake, lambda _: None)
    seed(lake, new_bank(BANK_CUSTOMERS, BANK_DAYS, SEED, now), now, lambda ledger, rows: None)
    lake.refresh(["customer_day", "dyn_customer_features"], now)
    sql = lake.query("SELECT query FROM dynamic_tables WHERE name = 'dyn_customer_features'")["query"][0].as_py()
    training_set.extend(lake, sql, now, lambda _: None)
    return training_set.read(lake).sort_values(["cut_off", "customer_id"], ignore_index=True)


def _candidate(rows: pd.DataFrame, seed: int) -> Candidate:
    known, validation, _ = training.parts_of(rows).values()
    forest = families.fit("forest", matrix_of(known, FEATURES), known["has_left"].to_numpy(bool), seed)
    models = {family: model for family, (model, _) in training.fit(known, validation, FEATURES, seed).items()}
    return Candidate(models["forest"], forest, models)


def _drawn(rows: pd.DataFrame, number: int, seed: int) -> pd.DataFrame:
    drawn = rows.sample(number, replace=number > len(rows), random_state=seed)
    return drawn[list(FEATURES)].reset_index(drop=True)


# The functions.


def _print_functions(
    ways: Mapping[str, Callable[[pd.DataFrame], Floats]], many: pd.DataFrame, few: pd.DataFrame, rounds: int
) -> None:
    best: dict[tuple[str, int], float] = {}
    apart = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for frame, times in ((many, 1), (few, REPEATED)):
            plain = ways[PLAIN](frame)
            for name, way in ways.items():
                apart[name] = max(apart[name], float(np.abs(way(frame) - plain).max()))
                for _ in range(times):
                    begin = perf_counter()
                    way(frame)
                    seconds = perf_counter() - begin
                    best[name, len(frame)] = min(best.get((name, len(frame)), seconds), seconds)
    _say(f"\n{'from a DataFrame to probabilities':40}{len(many):>10,} customers           {len(few):>8,} customers")
    for name in ways:
        slow, fast = best[name, len(many)], best[name, len(few)]
        _say(
            f"{name:40}{len(many) / slow:>12,.0f}/s {best[PLAIN, len(many)] / slow:>6.2f} times"
            f"{fast * 1000:>10.2f} ms {best[PLAIN, len(few)] / fast:>6.2f} times"
        )
        assert apart[name] <= SAME, (name, apart[name])
    _say(f"no two probabilities for the same customer differ by more than {max(apart.values()):.0e}")


def _print_families(models: Mapping[Family, Model], many: pd.DataFrame, few: pd.DataFrame, rounds: int) -> None:
    _say(f"\n{'family':40}{len(many):>10,} scored   {len(few):>8,} with Shapley values")
    for family, model in models.items():
        scored, explained = float("inf"), float("inf")
        for _ in range(rounds):
            begin = perf_counter()
            score(model, many)
            middle = perf_counter()
            model.contributions(matrix_of(few, FEATURES))
            scored, explained = min(scored, middle - begin), min(explained, perf_counter() - middle)
        _say(f"{family:40}{len(many) / scored:>12,.0f}/s {len(few) / explained:>16,.0f}/s")


def _ways(candidate: Candidate, folder: Path) -> dict[str, Callable[[pd.DataFrame], Floats]]:
    model, forest = candidate.model, candidate.forest
    others: dict[str, Votes] = {
        PLAIN: partial(_in_batches, forest),
        "scikit-learn, 1 thread, all at once": partial(_at_once, forest),
        "scikit-learn, 2 threads, all at once": partial(_at_once, copy(forest).set_params(n_jobs=2)),
        "ONNX Runtime, 1 thread": _onnx(model, 1),
        "ONNX Runtime, 2 threads": _onnx(model, 2),
        **_compiled(forest, folder),
    }
    return {
        "churn_assets": partial(score, model),
        **{
            name: lambda frame, votes=votes: model.calibration("forest", votes(matrix_of(frame, FEATURES)))
            for name, votes in others.items()
        },
    }


def _at_once(forest: Any, matrix: Floats) -> Floats:
    return forest.predict_proba(matrix)[:, 1]


def _in_batches(forest: Any, matrix: Floats) -> Floats:
    batches = (matrix[start : start + BATCH] for start in range(0, len(matrix), BATCH))
    return np.concatenate([_at_once(forest, batch) for batch in batches])


def _onnx(model: Model, threads: int) -> Votes:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(model.learned, options, providers=["CPUExecutionProvider"])
    outputs, entry = [session.get_outputs()[0].name], session.get_inputs()[0].name
    return lambda matrix: session.run(outputs, {entry: matrix})[0][:, 0].astype(np.float64)


def _compiled(forest: Any, folder: Path) -> dict[str, Votes]:
    try:
        import tl2cgen  # type: ignore[import-not-found]  # noqa: PLC0415
        import treelite  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        _say("no compiled forest: tl2cgen and treelite are not installed")
        return {}
    library, begin = str(folder / "forest.so"), perf_counter()
    tl2cgen.export_lib(treelite.sklearn.import_model(forest), toolchain="gcc", libpath=library)
    _say(f"tl2cgen took {perf_counter() - begin:.0f} s to compile the forest")

    def votes(predictor: Any, matrix: Floats) -> Floats:
        return predictor.predict(tl2cgen.DMatrix(matrix)).reshape(len(matrix), -1)[:, 1]

    return {
        "tl2cgen, 1 thread": partial(votes, tl2cgen.Predictor(library, nthread=1)),
        "tl2cgen, 2 threads": partial(votes, tl2cgen.Predictor(library, nthread=2)),
    }


# The refreshes.


def _print_refreshes(
    settings: Settings, candidates: Sequence[Candidate], customers: pd.DataFrame, changes: Sequence[pd.DataFrame]
) -> None:
    with _looking_inside() as inside:
        bank = _Bank(settings, candidates, customers)
        everybody = _best(
            bank,
            inside,
            [bank.promote_the_other] * len(changes),
            {
                OURS: bank.refresh,
                EVERYBODY: partial(bank.replace_all, EVERYBODY, _in_batches),
                AT_ONCE: partial(bank.replace_all, AT_ONCE, _at_once),
            },
        )
        bank.tidy()
        some = _best(
            bank,
            inside,
            [partial(bank.change, features) for features in changes],
            {
                OURS: bank.refresh,
                EVERYBODY: partial(bank.replace_all, EVERYBODY, _in_batches),
                TOLD: partial(bank.replace_changed, TOLD),
            },
        )
    _say(f"\n{f'the {settings.score_source} makes the class':51}seconds  of the peer's  in scoring  in reasons")
    for what, results in ((f"{len(customers):,} customers", everybody), (f"{len(changes[0]):,} changed", some)):
        for name, found in results.items():
            ours = results[OURS].seconds
            ratio = "" if name == OURS else f"{found.seconds / ours:.2f} times"
            inside_it = "".join(f"{seconds * 1000:>9.1f} ms" for seconds in found.inside.values())
            _say(f"{what:20}{name:30}{found.seconds:>8.3f}{ratio:>15}{inside_it}")
    _say(f"no two probabilities for the same customer differ by more than {bank.apart:.0e}")


@contextmanager
def _looking_inside() -> Generator[dict[str, float]]:
    """The seconds within the functions that a lake calls, of lakes that are opened meanwhile."""
    inside: dict[str, float] = {}

    def timed(function: Callable[[Model, Floats], Any]) -> Callable[[Model, Floats], Any]:
        def call(model: Model, features: Floats) -> Any:
            begin = perf_counter()
            result = function(model, features)
            inside[function.__name__] = inside.get(function.__name__, 0.0) + perf_counter() - begin
            return result

        return call

    with (
        patch.object(serving, "score_matrix", timed(serving.score_matrix)),
        patch.object(serving, "reasons", timed(serving.reasons)),
    ):
        yield inside


def _best(
    bank: "_Bank",
    inside: dict[str, float],
    changes: Sequence[Callable[[], None]],
    ways: Mapping[str, Callable[[], None]],
) -> dict[str, Measured]:
    """By table, how long it takes to show a change: the best of all, in each of which another way is the first."""
    best: dict[str, Measured] = {}
    tables = list(ways)
    for number, change in enumerate(changes):
        change()
        first = number % len(tables)
        for table in tables[first:] + tables[:first]:
            inside.clear()
            begin = perf_counter()
            ways[table]()
            seconds = perf_counter() - begin
            if table not in best or seconds < best[table].seconds:
                best[table] = Measured(seconds, dict(inside))
        for table in tables:
            bank.compare(table)
    return {table: best[table] for table in tables}


class _Bank:
    """Customers and models in a lake of their own, with our predictions and, in tables beside them, the peers'."""

    def __init__(self, settings: Settings, candidates: Sequence[Candidate], customers: pd.DataFrame) -> None:
        self.apart = 0.0
        self._lake, self._source = open_lake(settings.lake_path), settings.score_source
        deploy(settings, self._lake, lambda _: None)
        self._ids = np.array([f"C{number:08}" for number in range(len(customers))])
        self._rng, self._changed = np.random.default_rng(SEED), self._ids
        self._set(self._ids, customers)
        self._candidates = {
            registry.register(self._lake, candidate.model, PASSED, utc_now()): candidate for candidate in candidates
        }
        self._champion = 0
        for _ in candidates:  # the first scoring by a model pays for reading its file
            self.promote_the_other()
            self.refresh()
        for table in (EVERYBODY, AT_ONCE, TOLD):
            self._lake.transact(
                lambda tx, table=table: tx.execute(f"CREATE TABLE {table} AS SELECT {COLUMNS} FROM {OURS}")
            )

    def promote_the_other(self) -> None:
        """Let another model serve than the one that does."""
        self._champion = next(version for version in self._candidates if version != self._champion)
        registry.promote(self._lake, self._champion, utc_now(), "benchmark", "its turn")

    def change(self, features: pd.DataFrame) -> None:
        """Give as many customers other features."""
        self._changed = self._rng.choice(self._ids, len(features), replace=False)
        self._set(self._changed, features)

    def tidy(self) -> None:
        """What the hourly maintenance does; and the peer that was not asked until now catches up."""
        self.replace_all(TOLD, _in_batches)
        self._lake.maintain({}, utc_now())

    def refresh(self) -> None:
        """Our way."""
        (result,) = self._lake.refresh([OURS], utc_now())
        assert result.action == "INCREMENTAL", result

    def replace_all(self, table: str, votes: Callable[[Any, Floats], Floats]) -> None:
        """The peer's way: score everybody."""
        self._replace(table, self._lake.query("FROM dyn_customer_features").to_pandas(), votes, "")

    def replace_changed(self, table: str) -> None:
        """The way of a peer that knows who has changed."""
        features = self._lake.query(
            "FROM dyn_customer_features WHERE customer_id IN (SELECT unnest(?))", [self._changed.tolist()]
        )
        which = "WHERE customer_id IN (SELECT customer_id FROM scored)"
        self._replace(table, features.to_pandas(), _in_batches, which)

    def compare(self, table: str) -> None:
        """Fail where a table does not say of everybody what our predictions say."""
        found = self._lake.query(
            "SELECT count(*) AS customers, max(abs(ours.model_score - theirs.model_score)) AS apart, count(*) FILTER ("
            "ours.risk_class <> theirs.risk_class OR ours.model_version <> theirs.model_version"
            " OR abs(ours.churn_score - theirs.churn_score) > ? OR abs(ours.risk_score - theirs.risk_score) > ?"
            f") AS others FROM {OURS} AS ours INNER JOIN {table} AS theirs USING (customer_id)",
            [SAME, SAME],
        ).to_pylist()[0]
        assert (found["customers"], found["others"]) == (len(self._ids), 0), (table, found)
        self.apart = max(self.apart, found["apart"])
        assert self.apart <= SAME, (table, found)

    def _set(self, ids: npt.NDArray[np.str_], features: pd.DataFrame) -> None:
        staged = pa.table({"customer_id": ids, **{name: features[name] for name in FEATURES}})
        names = ", ".join(staged.column_names)

        def write(tx: Transaction) -> None:
            tx.execute("DELETE FROM dyn_customer_features WHERE customer_id IN (SELECT customer_id FROM staged)")
            tx.execute(f"INSERT INTO dyn_customer_features ({names}) SELECT {names} FROM staged")

        self._lake.transact(write, {"staged": staged})

    def _replace(self, table: str, features: pd.DataFrame, votes: Callable[[Any, Floats], Floats], which: str) -> None:
        candidate = self._candidates[self._champion]
        heuristic = training.heuristic(features)
        model = candidate.model.calibration("forest", votes(candidate.forest, matrix_of(features, FEATURES)))
        score, high, medium = (
            (model, rules().model.high_from, rules().model.medium_from)
            if self._source == "model"
            else (heuristic, rules().risk.high_from, rules().risk.medium_from)
        )
        columns = {
            "customer_id": features["customer_id"],
            "churn_score": heuristic,
            "model_score": model,
            "model_version": np.full(len(features), self._champion),
            "risk_score": score,
            "risk_class": np.select([score >= high, score >= medium], ["HIGH", "MEDIUM"], "LOW"),
            "computed_at": np.full(len(features), np.datetime64(utc_now(), "us")),
        }
        scored = pa.table(columns)

        def write(tx: Transaction) -> None:
            tx.execute(f"DELETE FROM {table} {which}")
            tx.execute(f"INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM scored")

        self._lake.transact(write, {"scored": scored})


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
