"""Spark, for the tests of its engine."""

import pytest
from helpers import spark as sparks
from helpers.encodes import some_texts, write_jsonl
from helpers.forks import SOCKET


@pytest.fixture(scope="session", autouse=True)
def quick_starts(all_forks):
    """JVMs that live for seconds: compiling what they run as well as they can costs them more than it gains.

    Their Python workers begin with torch and mlflow imported.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        patch.setenv(SOCKET, all_forks.socket)
        yield


@pytest.fixture(scope="module")
def session(s3):
    """The active session of this process, on two cores; the tests of a module share it.

    Its workers have the environment that it is begun with, and so the credentials of the object store.
    """
    with sparks.session() as made:
        yield made


@pytest.fixture
def encode(step, tiny_run, tmp_path):
    """Encode a corpus into a folder of tmp_path, or a URI; returns (exit code, stdout, stderr)."""

    def run(corpus, output, *more):
        given = [f"--run_id={tiny_run['run_id']}", f"--corpus={corpus}"]
        # A table has no parts.
        given += [] if str(output).startswith("table:") else ["rows_per_part=10"]
        return step("encode", *given, f"--output={output if ':' in str(output) else tmp_path / output}", *more)

    return run


@pytest.fixture
def corpus(tmp_path):
    """Two files, 37 rows; some texts are null, some repeat, one is long."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [*some_texts(30), None, "the cat " * 60, *some_texts(5)]
    write_jsonl(folder / "a.jsonl", texts[:20], key=list(range(20)))
    write_jsonl(folder / "b.jsonl", texts[20:], key=list(range(20, 37)))
    return folder
