"""A model as a file: its format, and the checks when a file is read.

The file is a zip of `card.json` (everything but trees) and, if the model has trees, `trees.onnx`. Both are data: reading them
runs no code, unlike pickle or joblib. The same model gives the same bytes.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from typing import Any

from churn_assets.errors import ChurnError
from churn_assets.model.scoring import Calibration, Line, Model

FORMAT = 2  # what is written
_FORESTS = 1  # the format of version 0.2, which knew forests only; it is read, too
WHAT_NEXT = "; restore it, or choose another model with `churn model rollback`"
_CARD, _TREES, _FOREST = "card.json", "trees.onnx", "forest.onnx"
_NO_TIME = (1980, 1, 1, 0, 0, 0)


class ArtefactError(ChurnError):
    """A model's file is missing, damaged or of another format; the message says which."""


def dumps(model: Model) -> bytes:
    """The bytes of the model's file."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "features": model.features,
        "family": model.family,
        "typical": model.typical,
        "calibration": {"method": model.calibration.method, "x": model.calibration.x, "y": model.calibration.y},
        "card": model.card,
    }
    trees: dict[str, bytes] = {}
    if isinstance(model.learned, Line):
        head["line"] = asdict(model.learned)
    else:
        trees[_TREES] = model.learned
    return zipped({_CARD: json.dumps(head, sort_keys=True, indent=1).encode(), **trees})


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of contents by name; the same contents in the same order give the same bytes."""
    stored = BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), content, zipfile.ZIP_DEFLATED)
    return stored.getvalue()


def digest(content: bytes) -> str:
    """The name of a file by its content: the SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


def loads(content: bytes) -> Model:
    """The model of a file's bytes, or `ArtefactError`."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            head: dict[str, Any] = json.loads(archive.read(_CARD))
            if (format_ := head.get("format")) not in (FORMAT, _FORESTS):
                raise ArtefactError(
                    f"it has the format {format_!r}, this version of churn_assets reads {_FORESTS} and {FORMAT}"
                )
            line = head.get("line")
            learned = (
                Line(line["intercept"], tuple(line["coefficients"]))
                if line
                else archive.read(_FOREST if format_ == _FORESTS else _TREES)
            )
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtefactError(f"it is not a model's file, or it is damaged ({error})") from error
    found = head["calibration"]
    return Model(
        features=tuple(head["features"]),
        family=head.get("family", "forest"),
        learned=learned,
        calibration=Calibration(found["method"], tuple(found["x"]), tuple(found["y"])),
        typical=tuple(head["typical"]),
        card=head["card"],
    )


def opened(content: bytes, name: str, place: str) -> Model:
    """The model in a file's content; `ArtefactError` if the content does not match the digest `name`. `place` is for errors."""
    if digest(content) != name:
        raise ArtefactError(f"the model's file {place} is damaged: its content is not what was stored{WHAT_NEXT}")
    try:
        return loads(content)
    except ArtefactError as error:
        raise ArtefactError(f"the model's file {place}: {error}{WHAT_NEXT}") from error


def file_name(name: str) -> str:
    """The name of the file with a digest."""
    return f"{name}.model"
