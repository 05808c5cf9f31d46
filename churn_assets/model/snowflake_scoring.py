"""The code of Snowflake's PREDICT_CHURN and CHURN_REASONS, the counterpart of `serving` for the lake.

It was written from the documentation and has not run in a live account. This module gives a vectorized function its rows
and models; what it computes is in `by_digest`. `snowflake_functions` registers it and lists the available packages.

A model is read from its stage when a row names it, not from the function's imports. Imports are part of the function, and a
dynamic table can no longer be refreshed incrementally after a function that it calls was replaced.
https://docs.snowflake.com/en/user-guide/dynamic-tables/supported-queries
https://docs.snowflake.com/en/developer-guide/udf/python/udf-python-batch
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from snowflake.snowpark.files import SnowflakeFile

from churn_assets.errors import ModelFileError
from churn_assets.model.by_digest import answers, servable
from churn_assets.model.reasons import reasons
from churn_assets.model.scoring import Floats, Model, score_matrix


def predictor(stage: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The handler of PREDICT_CHURN over the models in a stage.

    It takes columns by position, the digest and then FEATURES in order, and returns probabilities, with NaN for NULL.
    """
    return _vectorized(stage, score_matrix, "float64")


def explainer(stage: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The handler of CHURN_REASONS; it takes the same columns."""
    return _vectorized(stage, reasons, "string")


def staged_model(stage: str, digest: str) -> Model:
    """The model whose file has a digest; `ArtefactError` if the stage has no usable one."""

    def read(name: str) -> bytes:
        place = f"{stage}/{name}"
        try:
            # The caller chooses the digest and so can name any file that the function's owner can read. Its content
            # is not revealed unless it is a model with that digest.
            with SnowflakeFile.open(place, "rb", require_scoped_url=False) as file:
                return bytes(file.readall())
        except Exception as error:  # Snowflake does not document the error for a missing file
            raise ModelFileError(f"the model's file {place} cannot be read ({error})") from error

    return servable(read, digest)


def _vectorized(stage: str, of_rows: Callable[[Model, Floats], Any], dtype: str) -> Callable[[pd.DataFrame], pd.Series]:
    models = cache(partial(staged_model, stage))  # as long as the process lives

    def handler(frame: pd.DataFrame) -> pd.Series:
        digests = frame.iloc[:, 0].to_numpy(object, na_value=None)  # type: ignore[call-overload]
        features = frame.iloc[:, 1:].to_numpy(np.float32, na_value=np.nan)
        return pd.Series(answers(models, of_rows, digests, features), dtype=dtype)

    handler._sf_vectorized_input = pd.DataFrame  # type: ignore[attr-defined]
    return handler
