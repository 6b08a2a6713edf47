"""Processes of their own for the tests, begun without the ten to twenty seconds that importing torch and mlflow takes.

`Forks.start` does what `subprocess.Popen([sys.executable, *words])` does: one process has imported what the steps need,
has computed nothing, and forks itself for each command. What runs there runs as __main__, with arguments, environment,
folder and output of its own, ends as Python ends, and can be killed. What a start imports is not seen this way.

`python`, `mlflow` and `uvicorn` of `Forks.programs` do so too, for what the tests do not begin themselves: as_fork.py.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.as_fork import send

PROJECT = Path(__file__).resolve().parents[2]
PRELOADED = (
    *("torch", "sentence_transformers", "mlflow", "pyarrow.parquet", "scipy.stats"),
    *("mlflow.store.tracking.sqlalchemy_store", "flask", "fastapi"),
)
# What every step imports first; of HEAVY in test_processes.py it imports nothing.
LIGHT = ("steps.common.launch.process",)
# Names the socket in the environment of what is begun by others than the tests.
SOCKET = "TESTS_FORKS"
# Programs of this environment that are modules of Python, and the words that run them.
PROGRAMS = {"python": "", "mlflow": "-m mlflow", "uvicorn": "-m uvicorn"}


class Fork:
    """A running command: the part of subprocess.Popen that the tests use."""

    def __init__(self, words: list[str], connection: socket.socket, folder: Path):
        self.args, self.returncode = words, None
        self._lines, self._folder = connection.makefile("r"), folder
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; where a signal ended the process, the signal's number, negative."""
        if self.returncode is None:
            if not select.select([self._lines], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._lines.readline())
            self._lines.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def read(self, name: str = "out") -> str:
        """What it has written so far, to stdout or as `err` to stderr."""
        path = self._folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and to stderr, once it has ended."""
        self.wait(timeout)
        return self.read("out"), self.read("err")


class Forks:
    """Begins commands; the first one begins the process that is forked, which has imported the modules preloaded."""

    def __init__(self, folder: Path, preloaded: Sequence[str] = PRELOADED):
        self._folder, self._socket, self._preloaded = folder, Path(tempfile.mkdtemp()) / "forks", preloaded
        self._server: subprocess.Popen | None = None
        self._begun: list[Fork] = []

    def start(self, *words: str | Path, cwd: Path = PROJECT, env: Mapping[str, str] | None = None) -> Fork:
        """Begin `python WORDS`, which is `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`."""
        self._begin()
        folder, argv = Path(tempfile.mkdtemp(dir=self._folder)), [str(word) for word in words]
        request = {"argv": argv, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        with Path(os.devnull).open() as nothing, (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            connection = send(self._socket, request, [stream.fileno() for stream in (nothing, out, err)])
        self._begun.append(Fork(argv, connection, folder))
        return self._begun[-1]

    def run(self, *words: str | Path, timeout: float = 300, **given) -> subprocess.CompletedProcess:
        fork = self.start(*words, **given)
        out, err = fork.communicate(timeout)
        return subprocess.CompletedProcess(fork.args, fork.returncode, out, err)

    def end_all(self) -> None:
        """Kill what a test has left running."""
        for fork in self._begun:
            fork.kill()
        self._begun.clear()

    def close(self) -> None:
        self.end_all()
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    @property
    def socket(self) -> str:
        """Where the process listens that has imported the modules."""
        self._begin()
        return str(self._socket)

    @property
    def programs(self) -> Path:
        """A folder of programs that begin as forks, to stand first on a PATH."""
        self._begin()
        folder = self._folder / "programs"
        if not folder.exists():
            folder.mkdir()
            for name, words in PROGRAMS.items():
                program = folder / name
                client = Path(__file__).with_name("as_fork.py")
                start = shlex.join([sys.executable, "-S", "-E", str(client), str(self._socket), str(folder / "python")])
                program.write_text(f'#!/bin/sh\nexec {start} {words} "$@"\n')
                program.chmod(0o755)
        return folder

    def _begin(self) -> None:
        if self._server is not None:
            return
        log = self._folder / "forks.log"
        with log.open("wb") as stream:
            server = subprocess.Popen(
                [sys.executable, "-m", "helpers.forks", self._socket, *self._preloaded],
                cwd=PROJECT,
                # Texts have other hashes there than in the tests.
                env=os.environ | {"PYTHONPATH": str(PROJECT / "tests"), "PYTHONHASHSEED": "random"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        end = time.monotonic() + 300
        while not self._socket.exists():
            assert server.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.02)
        self._server = server


def serve(path: str, *preloaded: str) -> dict:
    """Fork for every request that arrives at a socket; returns the request, in the process that is forked for it."""
    for name in preloaded:
        importlib.import_module(name)
    # A collection in a fork would look through all of it, and copy the pages it is in.
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    # The path is there from the moment on at which somebody listens.
    listener.bind(f"{path}.new")
    listener.listen(16)
    Path(f"{path}.new").rename(path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return keep(connection)
        connection.close()


def keep(connection: socket.socket) -> dict:
    """Fork once more, tell the process and how it ended, and return the request in that process alone."""
    data, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        connection.close()
        return json.loads(data) | {"streams": streams}
    connection.sendall(f"{pid}\n".encode())
    threading.Thread(target=end_with, args=(connection, pid), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def end_with(connection: socket.socket, pid: int) -> None:
    """Kill a process, and what it has begun in its group, when the one that asked for it has gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def become(request: dict) -> None:
    """Turn this process into the one that was asked for: its environment, folder, output and signals."""
    # A group that can be killed.
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(request["env"])
    if "executable" in request:
        # Begun by as_fork.py, in another checkout perhaps.
        sys.executable = request["executable"]
        sys.path = [path for path in sys.path if Path(path) not in (PROJECT, PROJECT / "tests")]
        sys.path.insert(0, request["cwd"])
    sys.path[1:1] = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path
    ]
    os.chdir(request["cwd"])
    for number, stream in enumerate(request["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    # As in a terminal: a shell that begins the tests in the background has SIGINT ignored, and children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_as_main(argv: list[str]) -> None:
    """Do what `python ARGV` does."""
    first, *more = argv
    if first == "-m":
        sys.argv = more
        runpy.run_module(more[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *more[1:]]
        exec(more[0], {"__name__": "__main__"})
    else:
        sys.argv = argv
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    wanted = serve(*sys.argv[1:])
    become(wanted)
    run_as_main(wanted["argv"])
