"""How the launcher and its warm process talk: lines of JSON over a socket in Linux's abstract namespace.

Such a socket is not a file, so nothing is left behind when its owner is killed. But any user of the machine can connect to
it, so both sides check that the other side runs as the same user.
"""

import json
import os
import socket
import struct
from typing import Any

ANSWER_SECONDS = 5.0  # for an answer that needs no loading
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class WarmProcessGoneError(Exception):
    """No process answers under the name: it has ended, or runs on another machine or in another container."""


class Line:
    """One connection, over which both sides send lines in turn."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._connection.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send one line. Raises `WarmProcessGoneError` if the other side is gone."""
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except ConnectionError as error:
            raise WarmProcessGoneError(str(error)) from error

    def receive(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The next line from the other side. Raises `TimeoutError`, or `WarmProcessGoneError` if the connection was closed."""
        self._connection.settimeout(seconds)
        try:
            line = self._file.readline()
        except ConnectionError as error:
            raise WarmProcessGoneError(str(error)) from error
        if not line.endswith(b"\n"):  # also if the other side died within a line
            raise WarmProcessGoneError("the connection was closed")
        return json.loads(line)


def listen(name: str) -> socket.socket:
    """A socket that listens under the name."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen(128)
    return listener


def call(name: str) -> Line:
    """Connect to the process that listens under the name. Raises `WarmProcessGoneError`."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"\0{name}")
        if not is_same_user(connection):
            raise ConnectionRefusedError("another user's process listens there")
    except OSError as error:
        connection.close()
        raise WarmProcessGoneError(f"no process answers under {name}: {error}") from error
    return Line(connection)


def is_same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end runs as the same user as this one."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(peer)[1] == os.getuid()
