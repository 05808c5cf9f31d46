"""Ports and addresses of this machine that a command is about to serve on."""

import socket
from typing import Annotated, TypeAlias

import typer

from churn_assets.errors import ChurnError


class PortError(ChurnError):
    """A port cannot be used; the message names the option that chooses another."""


def _an_address(host: str) -> str:
    """The value of an option that names an address of this machine. Wrong usage if it is none."""
    try:
        socket.getaddrinfo(host.strip() or ".", None)
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(
            f"{host!r} is no address of this machine; try 127.0.0.1, or 0.0.0.0 for all"
        ) from error
    return host


Host: TypeAlias = Annotated[
    str, typer.Option(callback=_an_address, help="Address to serve on; 0.0.0.0 for other machines, too.")
]


def must_be_free(port: int, option: str) -> None:
    """`PortError` if nothing can serve on a port of 127.0.0.1 now; `option` is how the user chooses another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortError(f"port {port} cannot be used ({error.strerror}); choose another with {option}") from error
