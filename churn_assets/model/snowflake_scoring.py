"""What runs within Snowflake's PREDICT_CHURN and CHURN_REASONS, as `serving` does within the lake's.

By documentation only: it has not met a live account. Here belongs how a vectorized function gets rows and models; what it says
of them is in `by_digest`. `snowflake_functions` registers it, and lists the packages that there are.

A model is read from its stage when a row names it, not from the function's imports: these are part of the function, and a
dynamic table cannot be refreshed incrementally any more once a function that it calls was replaced.
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

    It takes columns by position, the digest and then FEATURES in order, and gives probabilities; NULL is NaN there.
    """
    return _vectorized(stage, score_matrix, "float64")


def explainer(stage: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The handler of CHURN_REASONS; it takes the same columns."""
    return _vectorized(stage, reasons, "string")


def staged_model(stage: str, digest: str) -> Model:
    """The model whose file has a digest, or `ArtefactError` where the stage has none that can be used."""

    def read(name: str) -> bytes:
        place = f"{stage}/{name}"
        try:
            # The digest comes from whoever calls the function, who may so name any file that its owner can read; of its
            # content nothing is told unless it is a model with that digest.
            with SnowflakeFile.open(place, "rb", require_scoped_url=False) as file:
                return bytes(file.readall())
        except Exception as error:  # what Snowflake raises where there is no such file is not documented
            raise ModelFileError(f"the model's file {place} cannot be read ({error})") from error

    return servable(read, digest)


def _vectorized(stage: str, of_rows: Callable[[Model, Floats], Any], dtype: str) -> Callable[[pd.DataFrame], pd.Series]:
    models = cache(partial(staged_model, stage))  # for as long as the process lives

    def handler(frame: pd.DataFrame) -> pd.Series:
        digests = frame.iloc[:, 0].to_numpy(object, na_value=None)  # type: ignore[call-overload]
        features = frame.iloc[:, 1:].to_numpy(np.float32, na_value=np.nan)
        return pd.Series(answers(models, of_rows, digests, features), dtype=dtype)

    handler._sf_vectorized_input = pd.DataFrame  # type: ignore[attr-defined]
    return handler
