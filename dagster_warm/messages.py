"""How the launcher and its warm process talk: lines of JSON over a socket in Linux's abstract namespace.

Such a socket is no file, so nothing is left of it when its owner is killed. In exchange anybody on the machine may call
it: both sides make sure that the other one is of the same user.
"""

import json
import os
import socket
import struct
from typing import Any

ANSWER_SECONDS = 5.0  # for an answer to what needs no loading
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class WarmProcessGoneError(Exception):
    """Nobody answers under the name: the process has ended, or is one of another machine or container."""


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
        """Send one line. Raises `WarmProcessGoneError` where nobody takes it."""
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except ConnectionError as error:
            raise WarmProcessGoneError(str(error)) from error

    def receive(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The other side's next line. Raises `TimeoutError`, or `WarmProcessGoneError` where there is none."""
        self._connection.settimeout(seconds)
        try:
            line = self._file.readline()
        except ConnectionError as error:
            raise WarmProcessGoneError(str(error)) from error
        if not line.endswith(b"\n"):  # also where the other side died within a line
            raise WarmProcessGoneError("the connection was closed")
        return json.loads(line)


def listen(name: str) -> socket.socket:
    """A socket that takes calls under the name."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen(128)
    return listener


def call(name: str) -> Line:
    """Call who listens under the name. Raises `WarmProcessGoneError`."""
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
    """Whether the process at the other end is of this process's user."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(peer)[1] == os.getuid()
