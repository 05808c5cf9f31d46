"""Ports of this machine that a command is about to serve on."""

import socket

from churn_assets.errors import ChurnError


class PortError(ChurnError):
    """A port cannot be used; the message names the option that chooses another."""


def must_be_free(port: int, option: str) -> None:
    """`PortError` if nothing can serve on a port of 127.0.0.1 now; `option` is how the user chooses another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortError(f"port {port} cannot be used ({error.strerror}); choose another with {option}") from error
