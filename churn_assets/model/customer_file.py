"""Reads and checks a user's own table of customers as rows to train on. The training is in `training`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from churn_assets.errors import ChurnError

CUSTOMER = "customer_id"
_YES, _NO = {"1", "true", "yes", "y", "churned", "left"}, {"0", "false", "no", "n", "stayed", "retained"}


class CustomerFileError(ChurnError):
    """The file cannot be read or does not say who left; the message says what is expected."""


@dataclass(frozen=True)
class CustomerRows:
    """Rows for `training.cross_validate`, the columns used as features, and the columns that are not used."""

    frame: pd.DataFrame
    features: list[str]
    ignored: list[str]


def read_customers(file: Path, label: str, ignore: Sequence[str] = ()) -> CustomerRows:
    """Read Parquet or CSV with one row per customer (or several, with a column customer_id).

    `label` names the column that says who left: 1 and 0, true and false or yes and no. Every other column of numbers becomes
    a feature, unless it is in `ignore`; columns of other types are left out.
    """
    table = _read(file)
    if unknown := [name for name in (label, *ignore) if name not in table.columns]:
        raise CustomerFileError(f"{file} has no column {unknown[0]}; it has {', '.join(map(str, table.columns))}")
    left = table[label].astype("string").str.strip().str.lower().str.removesuffix(".0")
    if strange := sorted(set(left.dropna()) - _YES - _NO):
        raise CustomerFileError(
            f"the column {label} must say who left by 1 and 0, true and false or yes and no, not {strange[0]!r}"
        )
    if left.isna().any():
        raise CustomerFileError(f"the column {label} is empty in {left.isna().sum()} rows; leave these out")
    others = table.drop(columns=[label, *ignore])
    features = [str(name) for name in others.select_dtypes(["number", "bool"]).columns if name != CUSTOMER]
    if not features:
        raise CustomerFileError(f"{file} has no column of numbers beside {label} to learn from")
    frame = others[features].astype("float64")
    frame[CUSTOMER] = table[CUSTOMER] if CUSTOMER in table.columns else range(len(table))
    return CustomerRows(
        frame.assign(has_left=left.isin(_YES).to_numpy(bool), cut_off=0),
        features,
        [str(name) for name in others.columns if name not in features and name != CUSTOMER],
    )


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else pd.read_csv(file)
    except (OSError, ValueError) as error:  # errors of pandas and pyarrow are ValueErrors
        raise CustomerFileError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
