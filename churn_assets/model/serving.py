"""The champion within the lake's SQL: `predict_churn` and `churn_reasons`, as `PREDICT_CHURN` is within Snowflake's.

Here belongs what DuckDB needs to call the pure functions of `scoring` and `reasons`. Both take the digest of the model's file,
so that the result follows from the arguments alone, and a digest that is NULL gives NULL: there is no champion. So does a row
with a missing or infinite feature; a check of the predictions finds it.
"""

from collections.abc import Callable
from functools import cache, partial
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from churn_assets.model.artefact import ArtefactError, load
from churn_assets.model.reasons import reasons
from churn_assets.model.scoring import Floats, Model, score_matrix
from churn_assets.settings import FEATURES

PREDICT, REASONS = "predict_churn", "churn_reasons"


def servable(folder: Path, name: str) -> Model:
    """The model of the file with a digest, or `ArtefactError` where it cannot say anything of the live features."""
    model = load(folder, name)
    if model.features != FEATURES:
        raise ArtefactError(
            f"the model {name[:12]} was trained on {', '.join(model.features)}, the live features are {', '.join(FEATURES)};"
            " train another one with `churn model train`"
        )
    return model


def register(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Give a connection the two functions over the models whose files lie in `folder`."""

    champion = cache(partial(servable, folder))

    for function, of_rows, result in (
        (PREDICT, score_matrix, pa.float64()),
        (REASONS, reasons, pa.string()),
    ):
        connection.create_function(
            function,
            _over_arrow(champion, of_rows, result),
            ["VARCHAR", *["DOUBLE"] * len(FEATURES)],  # type: ignore[list-item]
            "DOUBLE" if result == pa.float64() else "VARCHAR",  # type: ignore[arg-type]
            type="arrow",  # type: ignore[arg-type]
            null_handling="special",  # type: ignore[arg-type]
        )


def _over_arrow(
    champion: Callable[[str], Model], of_rows: Callable[[Model, Floats], Any], type_: pa.DataType
) -> Callable[..., pa.Array]:
    """A function of columns: the digests, then the features in order."""

    def call(*columns: pa.ChunkedArray) -> pa.Array:
        digests, *values = columns
        features = np.column_stack([column.to_numpy() for column in values]).astype(np.float32)
        result = np.full(len(features), None, dtype=object)
        known = np.isfinite(features).all(axis=1)
        names = digests.to_numpy()
        for name in {name for name in names if name is not None}:
            wanted = known & (names == name)
            if wanted.any():
                result[wanted] = of_rows(champion(name), features[wanted])
        return pa.array(result, type_)

    # DuckDB counts the parameters of the function that it is given.
    names = ["digest", *FEATURES]
    call.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in names])  # type: ignore[attr-defined]
    return call
