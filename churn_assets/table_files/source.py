"""The bytes of a user's file: which file is meant, how it is compressed and encoded, and that it stays the same while it is read.

What stands in the text is read by `delimited`. Nothing here guesses from a sample: the encoding is that of the whole file.
"""

import bz2
import codecs
import gzip
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from churn_assets.errors import ChurnError

BLOCK_BYTES = 4 * 1024 * 1024  # read at once
LINE_BYTES = 16 * 1024 * 1024  # a longer line, or a longer row between quotes, belongs to no table
_PARQUET = b"PAR1"
_MAGIC_BYTES, _HEAD_BYTES = 8, 4096

_Opener = Callable[[IO[bytes]], Any]


def _arrow(compression: str) -> _Opener:
    def opener(raw: IO[bytes]) -> Any:
        own = os.fdopen(os.dup(raw.fileno()), "rb")  # Arrow closes it
        own.seek(0)
        return pa.CompressedInputStream(pa.PythonFile(own, mode="r"), compression)

    return opener


_COMPRESSIONS: dict[bytes, tuple[str, _Opener]] = {
    b"\x1f\x8b": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)),
    b"\x28\xb5\x2f\xfd": ("zstd", _arrow("zstd")),
    b"\x04\x22\x4d\x18": ("lz4", _arrow("lz4")),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
}
_REFUSED = {
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"SQLite f": "an SQLite database; export the table as CSV or Parquet",
    b"%PDF": "a PDF; export the table as CSV or Parquet",
    b"ORC": "an ORC file; convert it to Parquet",
    b"Obj\x01": "an Avro file; convert it to Parquet",
    b"ARROW1": "an Arrow file; convert it to Parquet",
}
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is not UTF-8
_BEYOND_ASCII = re.compile("[\x80-\ud7ff\ue000-\U0010ffff]")
_NOT_IN_CP1252 = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
_CANNOT_READ = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


class FileError(ChurnError):
    """A file cannot be read; the message names it, and the line where there is one, and says why."""


@dataclass(frozen=True)
class Source:
    """A file as it was found: what it is, and which version of it was looked at."""

    path: Path
    name: str
    """The path in printable characters."""
    is_parquet: bool
    compression: str | None
    encoding: str
    """Python's name. The text is UTF-8 but for some rows if `is_damaged`."""
    is_damaged: bool
    version: tuple[int, ...]

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        """The file as it lies on the disk; `FileError` if it is not the one that was looked at, also at the end."""
        with _errors_of(self.name), self.path.open("rb") as raw:
            self._refuse_another(raw)
            yield raw
            self._refuse_another(raw)

    def blocks(self) -> Iterator[bytes]:
        """The text in UTF-8 without a byte order mark, in pieces; a damaged file's bytes are as they were."""
        with self.open() as raw:
            decoder = codecs.getincrementaldecoder(self.encoding)("strict")
            mark = True
            for block in _chunks(raw, self.compression):
                text = block if self.encoding == "utf-8" else decoder.decode(block).encode()
                yield text.removeprefix(codecs.BOM_UTF8) if mark else text
                mark = mark and not text

    def _refuse_another(self, raw: IO[bytes]) -> None:
        if _version(os.fstat(raw.fileno())) != self.version:
            raise FileError(f"{self.name} changed while it was read; load it again when it is complete")


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files that the names or patterns stand for, each once, also under two names. A name that exists is no pattern.

    `FileError` for a pattern that matches nothing.
    """
    files: dict[tuple[int, ...], Path] = {}
    for pattern in patterns:
        found = [pattern] if os.path.lexists(pattern) else sorted(glob(pattern, recursive=True))
        # `**` also matches the folders on the way.
        found = [name for name in found if not ("**" in pattern and Path(name).is_dir())]
        if not found:
            raise FileError(f"there is no file {printable(pattern)}")
        for name in found:
            try:
                known = Path(name).stat()
            except OSError as error:
                raise FileError(f"{printable(name)} cannot be read: {error.strerror}") from error
            files.setdefault((known.st_dev, known.st_ino), Path(name))
    return list(files.values())


def look(path: Path) -> Source:
    """Find out what a file is, from all of its bytes; `FileError` if it is nothing that can be read."""
    name = printable(path)
    with _errors_of(name):
        if path.is_dir():
            raise FileError(f"{name} is a folder; name its files, for example '{name}/*.csv'")
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError(f"{name} is no regular file and cannot be read twice; write its content to a file")
        with path.open("rb") as raw:
            version = _version(os.fstat(raw.fileno()))
            head = raw.read(_MAGIC_BYTES)
            if head.startswith(_PARQUET):
                return Source(path, name, True, None, "", False, version)
            raw.seek(0)
            compression = next((found for magic, (found, _) in _COMPRESSIONS.items() if head.startswith(magic)), None)
            encoding, is_damaged = _encoding(name, _chunks(raw, compression))
        return Source(path, name, False, compression, encoding, is_damaged, version)


def printable(path: Path | str) -> str:
    """A path in one line that any terminal and table takes: what is no UTF-8, and what is no character, is escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@contextmanager
def _errors_of(name: str) -> Generator[None]:
    try:
        yield
    except _CANNOT_READ as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise FileError(f"{name} cannot be read: {why or 'it ends too early'}") from error


def _version(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _chunks(raw: IO[bytes], compression: str | None) -> Iterator[bytes]:
    opener = next((opener for name, opener in _COMPRESSIONS.values() if name == compression), None)
    stream = cast("IO[bytes]", opener(raw)) if opener else raw
    while block := stream.read(BLOCK_BYTES):
        yield block


def _encoding(name: str, chunks: Iterator[bytes]) -> tuple[str, bool]:
    """The encoding of a text, and whether single bytes are against it; `FileError` if the bytes are no text."""
    first = next(chunks, b"")
    while len(first) < _HEAD_BYTES and (more := next(chunks, b"")):
        first += more
    _refuse_binary(name, first)
    encoding = next((found for mark, found in _BYTE_ORDER_MARKS.items() if first.startswith(mark)), None)
    encoding = encoding or _wide(first) or "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == "utf-8" else "strict")
    lines, since_line, beyond_ascii = 1, 0, False
    strange: dict[int, int] = {}  # by byte that is not UTF-8, the first line that has it
    chunk, is_last = first, False
    while not is_last:
        following = next(chunks, b"")
        is_last = not following
        try:
            text = decoder.decode(chunk, is_last)
        except UnicodeError as error:
            raise FileError(f"{name} is not {encoding.upper()} from line {lines} on: {error}") from error
        if not text.isascii():
            beyond_ascii = beyond_ascii or _BEYOND_ASCII.search(text, 1 if lines == 1 else 0) is not None
            for found in _NO_UTF8.finditer(text):
                byte = ord(found.group()) - 0xDC00
                if byte not in strange:
                    strange[byte] = lines + text.count("\n", 0, found.start())
        last = max(text.rfind("\n"), text.rfind("\r"))
        after = text if last < 0 else text[last:]
        size = len(after) if after.isascii() else len(after.encode(errors="surrogateescape"))
        since_line = since_line + size if last < 0 else size
        if since_line > LINE_BYTES:
            raise FileError(
                f"line {lines + text.count(chr(10))} of {name} is longer than {LINE_BYTES:,} bytes: no table"
            )
        lines += text.count("\n")
        chunk = following
    if not strange or beyond_ascii:
        return encoding, bool(strange)
    if unknown := strange.keys() & _NOT_IN_CP1252:
        line = min(strange[byte] for byte in unknown)
        raise FileError(
            f"{name} is neither UTF-8 nor Latin-1 nor cp1252: see line {line}; convert it with `iconv -t UTF-8`"
        )
    return ("cp1252" if any(byte < 0xA0 for byte in strange) else "latin-1"), False


def _refuse_binary(name: str, first: bytes) -> None:
    if b"[Content_Types].xml" in first:
        raise FileError(f"{name} is an Excel workbook; save the sheet as CSV")
    if first.startswith(_PARQUET):
        raise FileError(f"{name} is a compressed Parquet file; unpack it")
    for magic, what in _REFUSED.items():
        if first.startswith(magic):
            raise FileError(f"{name} is {what}")


def _wide(first: bytes) -> str | None:
    """UTF-16 without a byte order mark: in text, nearly every second byte is zero."""
    head = first[:_HEAD_BYTES]
    zeros = [head[place::2].count(0) for place in (0, 1)]
    if max(zeros) * 4 < len(head) or min(zeros) * 8 > len(head):
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
