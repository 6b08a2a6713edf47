"""SOCKET EXECUTABLE WORDS: do what `python WORDS` does, as a fork of the process that listens at the socket (forks.py).

A process of its own for whoever begins it: with its streams, environment and folder, its signals and its exit code.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path


def send(path: str | os.PathLike, request: dict, streams: list[int]) -> socket.socket:
    """Ask for a process with these streams; the connection tells its number, then how it ended, a line each."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    data = json.dumps(request).encode() + b"\n"
    connection.sendall(data[socket.send_fds(connection, [data], streams) :])
    return connection


def run(path: str, executable: str, words: list[str]) -> int:
    """Begin `EXECUTABLE WORDS` with this process's streams, and wait for it; returns its exit code."""
    request = {"argv": words, "cwd": str(Path.cwd()), "env": dict(os.environ), "executable": executable}
    lines = send(path, request, [0, 1, 2]).makefile("r")
    pid = int(lines.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int(lines.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
