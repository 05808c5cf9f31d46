"""The functions `predict_churn` and `churn_reasons` for the lake's SQL, the counterparts of those in Snowflake.

This module holds what DuckDB needs to call them; what they compute is in `by_digest`.
"""

from collections.abc import Callable
from functools import cache, partial
from inspect import Parameter, Signature
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from churn_assets.model.by_digest import PREDICT, REASONS, answers, servable
from churn_assets.model.reasons import reasons
from churn_assets.model.scoring import Floats, Model, score_matrix
from churn_assets.rules import FEATURES


def register(connection: duckdb.DuckDBPyConnection, read: Callable[[str], bytes]) -> None:
    """Give a connection the two functions; `read` gives the content of a model's file."""
    models = cache(partial(servable, read))
    for function, of_rows, type_, sql_type in (
        (PREDICT, score_matrix, pa.float64(), "DOUBLE"),
        (REASONS, reasons, pa.string(), "VARCHAR"),
    ):
        connection.create_function(
            function,
            _over_arrow(models, of_rows, type_),
            ["VARCHAR", *["DOUBLE"] * len(FEATURES)],  # type: ignore[list-item]
            sql_type,  # type: ignore[arg-type]
            type="arrow",  # type: ignore[arg-type]
            null_handling="special",  # type: ignore[arg-type]
        )


def _over_arrow(
    models: Callable[[str], Model], of_rows: Callable[[Model, Floats], Any], type_: pa.DataType
) -> Callable[..., pa.Array]:
    """A function of columns: the digests, then the features in order."""

    def call(*columns: pa.ChunkedArray) -> pa.Array:
        digests, *values = columns
        features = np.column_stack([column.to_numpy() for column in values]).astype(np.float32)
        return pa.array(answers(models, of_rows, digests.to_numpy(), features), type_)

    # DuckDB counts the parameters of the function.
    names = ["digest", *FEATURES]
    call.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in names])  # type: ignore[attr-defined]
    return call
