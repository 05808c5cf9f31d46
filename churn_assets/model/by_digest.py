"""Scores rows with models, where each row names its model by the digest of the model's file.

This is what `predict_churn` and `churn_reasons` do in every warehouse. How columns arrive and where the files are is in
`serving` for the lake and in `snowflake_scoring` for Snowflake. The result depends only on the arguments. A NULL digest
gives NULL: there is no champion. So does a row with a missing or infinite feature; a check of the predictions finds it.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from churn_assets.errors import ModelFileError
from churn_assets.model.artefact import WHAT_NEXT, ArtefactError, file_name, opened
from churn_assets.model.scoring import Floats, Model
from churn_assets.rules import FEATURES

PREDICT, REASONS = "predict_churn", "churn_reasons"
Objects: TypeAlias = npt.NDArray[np.object_]


def answers(
    models: Callable[[str], Model], of_rows: Callable[[Model, Floats], Any], digests: Objects, features: Floats
) -> Objects:
    """For each row, the result of `of_rows` with its model, or None; `features` are float32, rows by FEATURES."""
    result = np.full(len(features), None, dtype=object)
    known = np.isfinite(features).all(axis=1)
    for digest in {digest for digest in digests if digest is not None}:
        wanted = known & (digests == digest)
        if wanted.any():
            result[wanted] = of_rows(models(digest), features[wanted])
    return result


def servable(read: Callable[[str], bytes], digest: str) -> Model:
    """The model with a digest; `ArtefactError` if its file is unusable or it was trained on other features.

    `read` gives the content of a file by its name, or raises `ModelFileError`.
    """
    name = file_name(digest)
    try:
        content = read(name)
    except ModelFileError as error:
        raise ArtefactError(f"{error}{WHAT_NEXT}") from error
    return of_live_features(opened(content, digest, name), digest)


def of_live_features(model: Model, digest: str) -> Model:
    """The same model; `ArtefactError` if it was trained on other features."""
    if model.features != FEATURES:
        raise ArtefactError(
            f"the model {digest[:12]} was trained on {', '.join(model.features)}, the live features are"
            f" {', '.join(FEATURES)}; train another one with `churn model train`"
        )
    return model
