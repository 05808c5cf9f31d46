"""A model as a file: its format, and the checks when a file is read.

The file is a zip of `card.json` (everything but the forest) and `forest.onnx`. Both are data: reading them runs no code,
unlike pickle or joblib. The same model gives the same bytes.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from churn_assets.errors import ChurnError
from churn_assets.model.scoring import Calibration, Model

FORMAT = 1  # a file with another number is refused
WHAT_NEXT = "; restore it, or choose another model with `churn model rollback`"
_CARD, _FOREST = "card.json", "forest.onnx"
_NO_TIME = (1980, 1, 1, 0, 0, 0)


class ArtefactError(ChurnError):
    """A model's file is missing, damaged or of another format; the message says which."""


def dumps(model: Model) -> bytes:
    """The bytes of the model's file."""
    head = {
        "format": FORMAT,
        "features": model.features,
        "typical": model.typical,
        "calibration": {"method": model.calibration.method, "x": model.calibration.x, "y": model.calibration.y},
        "card": model.card,
    }
    return zipped({_CARD: json.dumps(head, sort_keys=True, indent=1).encode(), _FOREST: model.forest})


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
            forest = archive.read(_FOREST)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtefactError(f"it is not a model's file, or it is damaged ({error})") from error
    if head.get("format") != FORMAT:
        raise ArtefactError(f"it has the format {head.get('format')!r}, this version of churn_assets reads {FORMAT}")
    found = head["calibration"]
    return Model(
        features=tuple(head["features"]),
        forest=forest,
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
