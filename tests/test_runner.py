"""steps.test: a test whose process goes away fails alone."""

import os
import re
import subprocess
import sys

import pytest
from helpers.project import PROJECT

from steps.test import read_journal

CRASHES = """
import os, time
def test_before(): pass
def test_that_crashes(): {crash}
def test_after(): pass
def test_that_fails(): assert False
"""
BESIDE = """
import time
import pytest
@pytest.mark.parametrize("number", range(3))
def test_beside(number): time.sleep(0.2)
"""

# What a folder of its own needs for a watchdog like the project's.
WATCHDOG = """
[pytest]
faulthandler_timeout = 1
faulthandler_exit_on_timeout = true
"""


# No plugins but the one that is needed: each of the dozen processes would import them all.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "xdist.plugin",
}


@pytest.mark.parametrize(
    "crash, processes",
    [("os._exit(0)", "2"), ("time.sleep(1000)", "2"), ("os.abort()", "0"), ("time.sleep(1000)", "0")],
)
def test_a_test_that_crashes_or_hangs_fails_alone(tmp_path, crash, processes):
    (tmp_path / "pytest.ini").write_text(WATCHDOG)
    (tmp_path / "test_a.py").write_text(CRASHES.format(crash=crash))
    (tmp_path / "test_b.py").write_text(BESIDE)
    words = f"-v -n {processes} -c {tmp_path}/pytest.ini --rootdir {tmp_path} {tmp_path}"
    done = subprocess.run(
        [sys.executable, "-m", "steps.test", f"--pytest_args={words}"],
        cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "CRASHED test_a.py::test_that_crashes"
    counts = re.findall(r"(\d+) passed", done.stdout)
    # Without pytest-xdist a crash leaves no summary of what went before it.
    assert sum(map(int, counts)) == (5 if processes == "2" else 4)
    for name in ("a.py::test_before", "a.py::test_after", *(f"b.py::test_beside[{n}]" for n in range(3))):
        assert f"test_{name}" in done.stdout
    assert re.search(r"^FAILED .*test_that_fails", done.stdout, re.MULTILINE)


def test_tests_that_pass_run_once_and_the_exit_code_is_pytests(tmp_path):
    (tmp_path / "test_b.py").write_text(BESIDE)
    for words, code in ((f"-n 0 {tmp_path}", 0), (f"-n 0 -k nothing {tmp_path}", 5)):
        done = subprocess.run(
            [sys.executable, "-m", "steps.test", f"--pytest_args=--rootdir {tmp_path} {words}"],
            cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout.count("test session starts") <= 1


@pytest.mark.parametrize(
    "lines, ended, crashed",
    [
        (["started a", "ended a", "finished "], {"a"}, set()),
        (["started a", "ended a", "started b"], {"a", "b"}, {"b"}),
        # Another worker was in the middle of c.
        (["started a", "started c", "crashed a", "finished "], {"a"}, {"a"}),
        # -x, or Ctrl-C.
        (["started a", "ended a", "started b", "finished "], {"a"}, set()),
        (["started a[x y]"], {"a[x y]"}, {"a[x y]"}),
        ([], set(), set()),
    ],
)
def test_a_crash_is_known_from_the_journal(lines, ended, crashed):
    assert read_journal(lines) == (ended, crashed)
