"""The step encode on the tiny model."""

import pytest
from helpers.encodes import some_texts, write_jsonl


@pytest.fixture
def encode(step, tiny_run, tmp_path):
    """Encode a corpus into tmp_path/out, with the tiny model or that of another run; returns (exit code, stdout, stderr)."""

    def run(corpus, *more, output=tmp_path / "out", run_id=tiny_run["run_id"]):
        given = [f"--run_id={run_id}", f"--corpus={corpus}", "rows_per_part=10", "backend=torch"]
        return step("encode", *given, *([f"--output={output}"] if output else []), *more)

    return run


@pytest.fixture
def corpus(tmp_path):
    return write_jsonl(tmp_path / "corpus.jsonl", some_texts(35))


@pytest.fixture
def without_models(monkeypatch):
    """From the call on no model is loaded."""
    from steps.common.model import load as models

    def refuse(folder):
        raise AssertionError("a model was loaded")

    return lambda: monkeypatch.setattr(models, "load_native", refuse)
