"""A real `mlflow models serve` on loopback: start it, wait until it answers, stop it."""

import contextlib
import ctypes
import functools
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from steps.common.errors import UserError, clip
from steps.common.ports import HOST, free_port, other_port
from steps.common.project import child_path

logger = logging.getLogger("steps")

# Seconds one request may take, and a server to end after SIGTERM.
REQUEST_TIMEOUT = 60.0

STOP_TIMEOUT = 10.0

# prctl(2): the signal a process gets when the one that started it dies.
PR_SET_PDEATHSIG = 1


@dataclass
class Server:
    """A scoring server: a process of mlflow's CLI, and below it the one that answers."""

    process: subprocess.Popen
    port: int
    log: Path
    started: float

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def client(self) -> httpx.Client:
        # No proxy of the environment: the server is on this machine.
        return httpx.Client(base_url=self.url, timeout=REQUEST_TIMEOUT, trust_env=False)

    def wait(self, seconds: float) -> str | None:
        """Wait until it answers /ping; returns the reason if it does not, else None.

        Raises:
            UserError: another process took its port meanwhile.
        """
        end = self.started + seconds
        with self.client() as client:
            while self.process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    # Another server may answer on this port; then ours has ended.
                    if client.get("/ping").status_code == 200 and self.process.poll() is None:
                        logger.info("serving on %s", self.url)
                        return None
                if time.monotonic() > end:
                    return f"no answer to /ping in {seconds:g} s. {self._last_words()}"
                time.sleep(0.1)
        line = self._last_words()
        if "address already in use" in line:
            raise UserError(
                f"serving.port={self.port} was taken while the server started. {other_port('serving.port')}"
            )
        return f"it ended with exit code {self.process.returncode}. {line}"

    def _last_words(self) -> str:
        return find_error(self.log.read_text(errors="replace")) or "its log is empty"

    def stop(self) -> None:
        """End both processes, the child first, so that its parent can collect it and no zombie is left."""
        if self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                family = psutil.Process(self.process.pid)
                for process in family.children(recursive=True) or [family]:
                    process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.Error):
                    for process in psutil.Process(self.process.pid).children(recursive=True):
                        process.kill()
        with contextlib.suppress(ProcessLookupError):
            # It was started as the leader of a group of its own.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def find_error(output: str) -> str:
    """The last error in the output of a process that mlflow has started, else its last line; empty where it has none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # mlflow's own errors say only that the process failed.
    errors = [
        line
        for line in lines
        if re.search(r"^[\w.]*(Error|Exception|NotFound)\b|address already in use", line)
        and not re.search(r"non zero return|mlflow\.exceptions|ShellCommand", line)
    ]
    return clip((errors or lines or [""])[-1], 300)


@contextlib.contextmanager
def serve(folder: Path, port: int | None) -> Iterator[Server]:
    """Start `mlflow models serve` of a model in a folder, in this environment; it is stopped when the block ends.

    Returns at once: `Server.wait` waits until it answers.
    """
    chosen = port or free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(Path(folder).absolute())]
    command += ["--host", HOST, "--port", str(chosen), "--env-manager", "local"]
    # It looks for `uvicorn` on the PATH, which need not be this environment's.
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                command,
                cwd=scratch,
                env=os.environ | {"PATH": child_path()},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                # Ctrl-C in a terminal goes to the whole group; the server is ours to stop.
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )
        server = Server(process, chosen, log, time.monotonic())
        try:
            yield server
        finally:
            server.stop()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> Callable[[], None] | None:
    """A call for the child process that ends it when this process is killed (Linux only, as in mlflow itself)."""
    if not sys.platform.startswith("linux"):
        return None
    # Looked up here: between fork and exec only the call itself is safe.
    prctl = _libc().prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
