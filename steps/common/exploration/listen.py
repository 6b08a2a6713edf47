"""The port of the page, on this machine only."""

import socket

from steps.common.errors import UserError

HOST = "127.0.0.1"


def listen(port: int | None) -> socket.socket:
    """A socket that listens on a port of HOST, or on a free one.

    Raises:
        UserError: there is no such port, or another process listens on it.
    """
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"port is {port}; expected a port from 1 to 65535, or null for a free one.")
    found = socket.socket()
    # A port that a server has just left is free.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port or 0))
        found.listen()
    except OSError as error:
        found.close()
        raise UserError(
            f"port={port} cannot be used on {HOST} ({error.strerror}). Give another one, or port=null for a free one."
        ) from None
    return found


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}/"
