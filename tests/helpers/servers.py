"""Servers in processes of their own."""

import contextlib
import socket
import subprocess
import time

import psutil
import requests


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.time() + seconds
    while time.time() < end:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            if requests.get(url, timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{url} did not answer in {seconds} s")


def wait_for_server(port: int, server: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None and time.monotonic() < end, "the server does not start"
        time.sleep(0.05)


def command_of(process: psutil.Process) -> list[str]:
    """The words that began a process; none where it has ended."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
