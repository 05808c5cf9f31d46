"""A decoder that dies on messages that say how: a fault that nobody knows yet, in every Python process that starts later."""

from pathlib import Path

import pytest

HANG_SECONDS = 5
# The interpreter imports a `sitecustomize` that it finds on its path at its start, before any module of the project.
_SITECUSTOMIZE = f"""
import os, signal
from pathlib import Path
from churn_assets import rules
rules.DECODE_SECONDS = {HANG_SECONDS}
from churn_assets.ingestion import decoding

# A process inherits from its parent which signals are ignored and blocked.
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
whole = decoding.decode

def decode(messages, now):
    for value in messages["value"].to_pylist():
        kind, _, how = (value or b"").decode(errors="replace").partition("deadly:")[2].rstrip('"}} ').partition(" ")
        if kind == "once" and not Path(how).exists():
            Path(how).touch()
            kind = "SIGSEGV"
        if kind.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, kind))
        if kind == "raise":
            raise RuntimeError("something nobody thought of")
        while kind == "hang":
            pass
    return whole(messages, now)

decoding.decode = decode
"""


def deadly(how: str) -> bytes:
    """A message on which the decoder dies: by the signal of that name, by "raise", "hang" or "once PATH"."""
    return b'{"event_type": "deadly:%s"}' % how.encode()


@pytest.fixture
def deadly_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python processes that start from now on have the deadly decoder; this one keeps the whole one."""
    folder = tmp_path / "deadly"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
