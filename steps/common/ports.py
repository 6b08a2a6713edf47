"""Ports of this machine, for what is served to it alone."""

import socket

from steps.common.errors import UserError

HOST = "127.0.0.1"


def listen(port: int | None, key: str) -> socket.socket:
    """A socket that listens on a port of HOST, or on a free one; `key` is the config key of the port.

    Raises:
        UserError: there is no such port, or another process listens on it.
    """
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"{key} is {port}; expected a port from 1 to 65535, or null for a free one.")
    found = socket.socket()
    # A port that a server has just left is free.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port or 0))
        found.listen()
    except OSError as error:
        found.close()
        raise UserError(f"{key}={port} cannot be used on {HOST} ({error.strerror}). {other_port(key)}") from None
    return found


def free_port() -> int:
    """A port that nothing listens on now."""
    with listen(None, "port") as found:
        return found.getsockname()[1]


def other_port(key: str) -> str:
    """What to type where a port is taken."""
    return f"Give another one, or {key}=null for a free one."


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}/"
