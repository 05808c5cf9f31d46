"""A folder of files, on this machine or in S3, and lists of lines in it that are only appended to.

Here belongs what is the same wherever the folder is. Which folders there are is the business of those who use one. The keys,
region and address of an S3 server are those that every program takes from the environment (`AWS_*`) or its machine.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pyarrow import fs

from churn_assets.errors import ChurnError

_BUFFER_BYTES = 8 * 1024**2
_TAIL_BYTES = 64 * 1024
_FEW_FILES = 20
_LAST_OBJECTS = 8  # hosts whose clocks differ write beside each other


class FolderError(ChurnError):
    """A folder that cannot be used; the message says why."""


class Folder:
    """A folder by its path, or by an address such as s3://bucket/folder. Nothing is asked before it is used."""

    def __init__(self, given: str | Path) -> None:
        self._given = str(given)
        self.is_local = "://" not in self._given

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        # Not earlier: the library of S3 has threads, which a process that is forked from this one would lack.
        if self.is_local:
            return fs.LocalFileSystem(), str(Path(self._given).absolute())
        try:
            files, root = fs.FileSystem.from_uri(self._given)
        except (ValueError, OSError) as error:
            raise FolderError(f"{self} is no folder and no s3://bucket/folder ({error})") from error
        return files, root.rstrip("/")

    @property
    def absolute(self) -> str:
        """The absolute path, or the address."""
        return self._root if self.is_local else self._given.rstrip("/")

    @property
    def _files(self) -> Any:  # a FileSystem, whose stubs lack half of it
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self._given,)

    def __str__(self) -> str:
        return self._given

    def path(self, name: str) -> str:
        """The path of a file, for the file system."""
        return f"{self._root}/{name}"

    def sizes(self, under: str = "") -> dict[str, int]:
        """The bytes of each file in the folder, or in a folder of it, by its name, which begins with that folder's."""
        with self._explained():
            selector = fs.FileSelector(self.path(under).rstrip("/"), allow_not_found=True, recursive=True)
            found = self._files.get_file_info(selector)
            return {one.path[len(self._root) + 1 :]: one.size for one in found if one.is_file}

    def sizes_of(self, names: Sequence[str]) -> dict[str, int | OSError]:
        """The bytes of each of these files, or why they are not known: `FileNotFoundError` where there is none."""
        if self.is_local:
            return {name: _size(os.path.join(self._root, name)) for name in names}
        with self._explained():
            if len(names) > _FEW_FILES:  # a list names a thousand at a time
                folders = {name.partition("/")[0] for name in names}
                sizes = {name: size for folder in folders for name, size in self.sizes(folder).items()}
            else:
                found = self._files.get_file_info([self.path(name) for name in names])
                sizes = {name: one.size for name, one in zip(names, found, strict=True) if one.is_file}
        return {name: sizes.get(name, FileNotFoundError(self.path(name))) for name in names}

    def folders(self, under: str) -> list[str]:
        """The names of the folders in a folder of it."""
        with self._explained():
            found = self._files.get_file_info(fs.FileSelector(self.path(under), allow_not_found=True))
            return [one.path[len(self._root) + 1 :] for one in found if not one.is_file]

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._explained():
            return self._files.get_file_info([self.path(name)])[0].is_file

    @contextmanager
    def open(self, name: str) -> Generator[BinaryIO]:
        """A file, to be read; `FileNotFoundError` if there is none."""
        with self._explained(), self._files.open_input_file(self.path(name)) as source:
            yield source

    def read(self, name: str) -> bytes:
        """What a file holds; `FileNotFoundError` if there is none."""
        with self.open(name) as source:
            return source.read()

    def write(self, name: str, content: BinaryIO | bytes) -> None:
        """Write a file whole or not at all; it is on the disk when this returns."""
        source = BytesIO(content) if isinstance(content, bytes) else content
        path = self.path(name)
        unfinished = f"{path}.partial" if self.is_local else path  # S3 shows an object once it is whole
        with self._explained():
            if self.is_local:
                self._files.create_dir(path.rpartition("/")[0])
            with self._files.open_output_stream(unfinished) as target:
                shutil.copyfileobj(source, target, _BUFFER_BYTES)
            if self.is_local:
                with open(unfinished, "rb") as written:
                    os.fsync(written.fileno())
                self._files.move(unfinished, path)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, as far as they are there."""
        with self._explained():
            for name in names:
                with suppress(FileNotFoundError):
                    self._files.delete_file(self.path(name))

    def lines(self, name: str) -> "Lines":
        """A list of lines, empty if nothing was appended yet."""
        return _LinesOfFile(Path(self.path(name))) if self.is_local else _LinesOfObjects(self, name)

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Errors of S3 as one line. Those of this machine have a number, and are explained where a command ends."""
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                raise
            raise FolderError(f"{self} cannot be used: {' '.join(str(error).split())}") from error


def _size(path: str) -> int | OSError:
    try:
        return os.stat(path).st_size  # a Path for each of thousands takes longer than the look
    except OSError as error:
        return error


class Lines:
    """Lines in the order in which they were appended. One process at a time may append or delete."""

    def append(self, lines: Iterable[str]) -> None:
        """Append lines; they are on the disk when this returns."""
        raise NotImplementedError

    def read(self) -> list[str]:
        """All lines. The last one may be cut off by a loss of power."""
        raise NotImplementedError

    def tail(self) -> list[str]:
        """Some of the last lines, at least those of the last call, of which the first may be cut off."""
        raise NotImplementedError

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Delete all lines but the wanted ones."""
        raise NotImplementedError


class _LinesOfFile(Lines):
    def __init__(self, file: Path) -> None:
        self._file = file

    def append(self, lines: Iterable[str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            if file.tell() and not self._ends_with_a_line():
                file.write(b"\n")  # after a line that a loss of power cut off
            file.writelines(f"{line}\n".encode() for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[str]:
        return self._from(0)

    def tail(self) -> list[str]:
        return self._from(self._file.stat().st_size - _TAIL_BYTES if self._file.exists() else 0)

    def keep(self, wanted: Callable[[str], bool]) -> None:
        lines = self.read()
        kept = [line for line in lines if wanted(line)]
        if len(kept) < len(lines):
            fresh = self._file.with_suffix(".new")
            fresh.write_text("".join(f"{line}\n" for line in kept))
            fresh.replace(self._file)

    def _from(self, start: int) -> list[str]:
        try:
            with self._file.open("rb") as file:
                file.seek(max(0, start))
                return file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _ends_with_a_line(self) -> bool:
        with self._file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


class _LinesOfObjects(Lines):
    """Lines as the objects of a folder, because none can be appended to: those of one call in each, in a folder for the day.

    So the last ones are found without a list of all.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name

    def append(self, lines: Iterable[str]) -> None:
        content = "".join(f"{line}\n" for line in lines)
        if content:
            now = time.time_ns()
            day = time.strftime("%Y-%m-%d", time.gmtime(now / 1e9))
            self._folder.write(f"{self._name}/{day}/{now:020}-{uuid.uuid4().hex[:8]}", content.encode())

    def read(self) -> list[str]:
        return [line for name in sorted(self._folder.sizes(self._name)) for line in self._of(name)]

    def tail(self) -> list[str]:
        days = sorted(self._folder.folders(self._name))
        last = sorted(self._folder.sizes(days[-1]))[-_LAST_OBJECTS:] if days else []
        return [line for name in last for line in self._of(name)]

    def keep(self, wanted: Callable[[str], bool]) -> None:
        for name in self._folder.sizes(self._name):
            lines = self._of(name)
            kept = [line for line in lines if wanted(line)]
            if not kept:
                self._folder.delete([name])
            elif len(kept) < len(lines):
                self._folder.write(name, "".join(f"{line}\n" for line in kept).encode())

    def _of(self, name: str) -> list[str]:
        return self._folder.read(name).decode().splitlines()
