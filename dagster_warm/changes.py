"""Which files the definitions were loaded from, and whether any of them has changed since.

Besides modules, every file that is opened for reading while the definitions load counts (a manifest, a YAML file). Files
installed in the Python environment do not count.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

_opened: set[str] | None = None
_hooked = False


@contextmanager
def recorded_files() -> Generator[set[str]]:
    """The files that are opened for reading within the block; the set is complete when the block ends."""
    global _opened, _hooked  # noqa: PLW0603  # an audit hook belongs to the process and cannot be removed
    if not _hooked:
        sys.addaudithook(_record)
        _hooked = True
    _opened = set()
    try:
        yield _opened
    finally:
        _opened = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is None or event != "open":
        return
    path, _, flags = arguments
    if isinstance(path, str) and isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY:
        _opened.add(os.path.abspath(path))


Fingerprint = dict[str, tuple[int, int] | None]


def fingerprint(opened: set[str]) -> Fingerprint:
    """Time and size of the opened files, of all module files, and of their folders, which change when files are added."""
    modules = {
        os.path.abspath(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }
    sources = {path for path in modules | opened if _is_source(path)}
    folders = {os.path.dirname(path) for path in modules & sources}
    return {path: _stamp(path) for path in sources | folders}


def has_changed(before: Fingerprint) -> bool:
    """Whether any of the files has changed."""
    return any(_stamp(path) != stamp for path, stamp in before.items())


def _is_source(path: str) -> bool:
    installed = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev")
    return not path.endswith(".pyc") and not any(path.startswith(f"{folder}/") for folder in installed)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
