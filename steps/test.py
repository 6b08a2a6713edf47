"""test: run the project's tests inside its environment. `pytest_args` is split as a shell splits words.

mlflow run . -e test -P pytest_args="-k corpus"
python -m pytest

A test whose process crashes or hangs fails alone: what was not run because of it is run in new processes.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from steps.common.project import PROJECT

# Each process begins with a half of the tests, in their order, and takes over from the other when it is done.
# `-P pytest_args="-n 0"` turns it off. A process that crashes ends the round: pytest-xdist 3.8.0 would start another and
# then wait for ever (its issue 1323).
PARALLEL = ("-n", "2", "--dist", "worksteal", "--max-worker-restart", "0")

# File that pytest, given `-p steps.test`, notes every test in, a line each: its result, and its name.
JOURNAL = "TESTS_JOURNAL"
# File of the names of the tests that were run already; pytest leaves them out.
DONE = "TESTS_DONE"

# pytest's exit code where every test is left out.
NO_TESTS = 5


def read_journal(lines: Iterable[str]) -> tuple[set[str], set[str]]:
    """The tests that ended, and those of them whose process crashed.

    Where the tests run in pytest's own process (`-n 0`), a crash is a test that has started in a session without an end.
    """
    noted: dict[str, set[str]] = {"started": set(), "ended": set(), "crashed": set(), "finished": set()}
    for line in lines:
        event, _, name = line.rstrip("\n").partition(" ")
        noted[event].add(name)
    crashed = noted["crashed"] if noted["finished"] else noted["crashed"] | (noted["started"] - noted["ended"])
    return noted["ended"] | crashed, crashed


def make_environment(folder: Path) -> dict[str, str]:
    """The environment of the tests' processes, of which there are more than cores.

    Args:
        folder: for files of this run.
    """
    # A thread of torch that waits for another gives its core away, which that other may be waiting for.
    env = {"OMP_WAIT_POLICY": "passive"} | os.environ
    if env.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Else every process compiles torch and mlflow again, which is half the time that importing them takes.
        env |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    return env


def run_tests(words: list[str], folder: Path) -> int:
    """Run pytest until every test was run or pytest stopped of its own will; returns its exit code, 1 after a crash.

    Args:
        folder: for files of this run.
    """
    done: set[str] = set()
    crashed: set[str] = set()
    codes: list[int] = []
    while True:
        journal, names = folder / f"journal-{len(codes)}", folder / "done"
        journal.touch()
        names.write_text("\n".join(done), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", *PARALLEL, "-p", "steps.test", *words]
        env = make_environment(folder) | {JOURNAL: str(journal), DONE: str(names)}
        code = subprocess.run(command, cwd=PROJECT, env=env).returncode
        codes.append(0 if codes and code == NO_TESTS else code)
        ended, fallen = read_journal(journal.read_text(encoding="utf-8").splitlines())
        if not fallen:
            break
        done |= ended
        crashed |= fallen
        print(f"\n{', '.join(sorted(fallen))} ended its process; going on with the tests that were not run", flush=True)
    for name in sorted(crashed):
        print(f"CRASHED {name}")
    return 1 if crashed else max(codes)


class Journal:
    """Notes the result of every test at once: a crash leaves no time for it."""

    def __init__(self, path: Path):
        self._path = path

    def _note(self, event: str, name: str = "") -> None:
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(f"{event} {name}\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._note("started", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # pytest-xdist reports the test during which a worker went away with a `when` of its own.
        if report.when == "???":
            self._note("crashed", report.nodeid)
        elif report.when == "teardown":
            self._note("ended", report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._note("finished")


def pytest_configure(config: pytest.Config) -> None:
    # pytest-xdist's workers tell the process that started them, which notes it.
    if JOURNAL in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Journal(Path(os.environ[JOURNAL])))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DONE in os.environ:
        done = set(Path(os.environ[DONE]).read_text(encoding="utf-8").split("\n"))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pytest_args", default="")
    given = parser.parse_args()
    try:
        words = shlex.split(given.pytest_args)
    except ValueError as error:
        sys.exit(f"error: pytest_args is split as a shell splits words, and {given.pytest_args!r} cannot be: {error}.")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run_tests(words, Path(folder)))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
