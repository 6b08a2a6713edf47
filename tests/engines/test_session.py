"""What is missing for Spark, said in seconds and without it."""

import sys
import time

import pytest
from helpers.servers import free_port

from steps.common.engines import session
from steps.common.engines.spark import explain
from steps.common.errors import UserError


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Make the java that JAVA_HOME names say what it is."""

    def make(said: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "java").write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        (tmp_path / "bin" / "java").chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    return make


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "11.0.2" 2019-01-15', "11"),
        ('java version "1.8.0_392"', "8"),
        ("no java", "an unknown version"),
    ],
)
def test_a_java_that_is_too_old_is_named_with_what_to_install(java, said, version):
    java(said)
    with pytest.raises(
        UserError, match=f"needs Java 17 or newer; .*/bin/java is {version}.*apt-get install openjdk-17"
    ):
        session._find_java()


@pytest.mark.parametrize("said", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "25" 2025-09-16'])
def test_a_java_of_17_or_newer_will_do(java, said):
    java(said)
    session._find_java()


def test_a_machine_without_java_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no java in PATH. Install Java 17 or newer"):
        session._find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match="bin/java cannot be run.*Install Java 17"):
        session._find_java()


def test_a_master_that_does_not_answer_is_an_error_in_seconds():
    start, port = time.monotonic(), free_port()
    with pytest.raises(UserError, match=f"127.0.0.1:{port}: Connection refused; 127.0.0.1:{port}"):
        session._check_reachable(f"spark://127.0.0.1:{port},127.0.0.1:{port}")
    with pytest.raises(UserError, match="cannot be reached"):
        session._check_reachable("sc://no-such-host.invalid/;token=a")
    assert time.monotonic() - start < 30
    session._check_reachable("local[2]")
    session._check_reachable("yarn")


def test_without_pyspark_a_step_says_what_to_install(step, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    code, _, err = step("encode", "engine=spark", f"output={tmp_path / 'out'}")
    assert code == 1 and "error: engine=spark needs pyspark, which is not installed here. Type: " in err
    assert "pip install" in err and "-r spark.txt" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["engine=spark"], "engine=spark needs output="),
        (["engine.master=local[2]"], "engine.master has no effect with engine.name=local"),
        (["engine=sparc"], "there is no engine 'sparc' in conf/engine/. Did you mean 'spark'?"),
        (["corpus=table:a", "output=table:b"], "expected engine=spark corpus=table:<name> output=table:<name>"),
        (["engine=spark", "corpus=table:a", "output=out"], "expected engine=spark corpus=table:<name>"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_anything_starts(step, words, line):
    code, _, err = step("encode", *words)
    assert code == 1 and line in err, err


def test_of_what_spark_says_the_line_of_the_worker_is_kept():
    python = 'An exception was thrown from the Python worker:\nTraceback (most recent call last):\n  File "x"\n'
    assert (
        str(explain(Exception(f"{python}steps.common.errors.UserError: the model is gone.\n"))) == "the model is gone."
    )
    assert "failed: ModuleNotFoundError: No module named 'torch'" in str(
        explain(Exception(f"{python}ModuleNotFoundError: No module named 'torch'\n"))
    )
    java = "An error occurred.\n: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 failed 4 times, most recent failure: "
    lost = "Lost task 0.3 in stage 4.0 (TID 13) (host executor 1): "
    assert "failed: ExecutorLostFailure (executor 1 exited)" in str(
        explain(Exception(f"{java}{lost}ExecutorLostFailure (executor 1 exited)\n\tat x\n"))
    )
    assert "out of memory" in str(explain(Exception(f"{java}{lost}Python worker exited unexpectedly (crashed)")))
