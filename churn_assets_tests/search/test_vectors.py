import os
from pathlib import Path

import numpy as np
import pytest

from churn_assets.search import vectors

pytestmark = pytest.mark.skipif(
    not vectors.is_installed(), reason="no language model is installed (the extra `embeddings`)"
)


def test_vectors_are_those_of_the_reference():
    # From sentence-transformers 6.2.0 with torch 2.15.0 over the same files.
    emptied, fraud = vectors.vectors(["someone emptied my account", "fraud: stolen money"])

    assert emptied[:6] == pytest.approx([-0.041185, 0.020792, 0.037365, -0.009003, 0.00853, -0.026373], abs=1e-5)
    assert float(emptied @ fraud) == pytest.approx(0.375168, abs=1e-5)
    assert float(emptied @ emptied) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("text", ["", "\x00", "登录 😀", "log in " * 1000])
def test_every_text_has_a_vector(text: str):
    assert np.isfinite(vectors.vectors([text])).all()


def test_vectors_are_kept_until_the_texts_change_or_the_file_is_damaged(tmp_path: Path):
    file = tmp_path / "search" / "vectors.npz"
    first = vectors.kept_vectors(["fees"], file)
    os.utime(file, (1, 1))

    assert (vectors.kept_vectors(["fees"], file) == first).all()
    assert file.stat().st_mtime == 1
    assert (vectors.kept_vectors(["fraud"], file) != first).any()
    file.write_bytes(b"PK damaged")
    assert vectors.kept_vectors(["fees"], file) == pytest.approx(first, abs=1e-6)
    assert [one.name for one in file.parent.iterdir()] == ["vectors.npz"]
