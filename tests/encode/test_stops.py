"""Sweeps, and an encode that is stopped."""

import json
import shlex
import shutil

import pytest
from helpers.encodes import RESUME, manifest_of, some_texts, write_jsonl
from helpers.steps import last_json

from steps.common.storage import place as files
from steps.common.storage.claim import Claim
from steps.common.storage.output import Output


def test_a_sweep_over_one_output_starts_no_job(step, tiny_run, corpus, tmp_path):
    given = ("--multirun", f"run_id={tiny_run['run_id']}", f"--corpus={corpus}", "backend=torch")
    code, _, err = step("encode", *given, "backend.batch_size=16,32", f"output={tmp_path}/out")
    assert code == 1
    assert f"Give output='{tmp_path}/out-${{backend.batch_size}}'" in err and "encode: run" not in err
    assert not (tmp_path / "out").exists()


def test_a_sweep_with_an_output_for_each_job_goes_on_too(step, tiny_run, corpus, tmp_path):
    given = ("--multirun", f"run_id={tiny_run['run_id']}", f"--corpus={corpus}", "backend=torch")
    words = (*given, "backend.batch_size=16,32", f"output={tmp_path}/out-${{backend.batch_size}}")
    for resumed in (0, 35):
        code, out, err = step("encode", *words)
        assert code == 0, err
        jobs = [json.loads(line) for line in out.splitlines() if line.startswith('{"step"')]
        assert [job["encode/resumed_rows"] for job in jobs] == [resumed] * 2
        assert {job["embeddings"] for job in jobs} == {f"{tmp_path}/out-16", f"{tmp_path}/out-32"}
    assert manifest_of(tmp_path / "out-16")["plan"]["backend"]["batch_size"] == 16
    assert step("verify", f"--output={tmp_path}/out-32")[0] == 0


@pytest.mark.parametrize(
    "moment",
    [
        "the corpus is read",
        "the output is looked at",
        "the run begins",
        "the model is found",
        "the model is loaded",
        "results are logged",
    ],
)
def test_a_stop_at_any_time_says_how_to_go_on(step, tiny_run, corpus, tmp_path, monkeypatch, moment):
    from steps import encode
    from steps.common.corpus import opening
    from steps.common.launch import paths
    from steps.common.model import load as model
    from steps.common.tracking import run as tracking

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    target, name = {
        "the corpus is read": (opening, "open_corpus"),
        "the output is looked at": (paths, "open_output"),
        "the run begins": (tracking, "log_config"),
        "the model is found": (encode, "find_model"),
        "the model is loaded": (model, "load_native"),
        "results are logged": (encode, "log_data"),
    }[moment]
    given = (f"run_id={tiny_run['run_id']}", f"corpus={corpus}", f"output={tmp_path / 'out'}", "backend=torch")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, stop)
        code, _, err = step("encode", *given)
    assert code == 130
    has_run = moment not in ("the corpus is read", "the output is looked at")
    assert f"interrupted (Ctrl-C){'; the run is marked KILLED' if has_run else ''}." in err.splitlines()
    (line,) = [line for line in err.splitlines() if line.startswith(RESUME)]
    words = shlex.split(line.removeprefix(RESUME))
    assert words[:3] == ["python", "-m", "steps.encode"] and set(given) <= {
        word.replace("corpus.path", "corpus") for word in words
    }
    code, _, err = step("encode", *words[3:])
    assert code == 0, err


def test_a_sweep_that_was_stopped_goes_on_as_a_whole(step, tiny_run, corpus, tmp_path, monkeypatch):
    from steps.common.model import load as model

    def stop(*arguments):
        raise KeyboardInterrupt

    words = [f"run_id={tiny_run['run_id']}", "backend=torch", "backend.batch_size=16,32"]
    words += [f"corpus.path={corpus}", f"output={tmp_path}/out-${{backend.batch_size}}"]
    monkeypatch.setattr(model, "load_native", stop)
    code, _, err = step("encode", "--multirun", *words)
    assert code == 130
    (line,) = [line for line in err.splitlines() if line.startswith(RESUME)]
    assert shlex.split(line.removeprefix(RESUME)) == ["python", "-m", "steps.encode", "--multirun", *words]


def test_a_stop_before_mlflows_run_is_taken_over_says_to_type_the_same(step, tiny_run, corpus, tmp_path, monkeypatch):
    import mlflow

    from steps.common.corpus import opening

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    run = mlflow.MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    monkeypatch.setattr(opening, "open_corpus", stop)
    code, _, err = step("encode", f"--corpus={corpus}", f"--output={tmp_path / 'out'}")
    assert code == 130
    assert f"{RESUME}type the same mlflow run command again." in err


def test_a_stop_without_an_output_says_what_it_takes(encode, corpus, monkeypatch):
    from steps.common.corpus import opening

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "open_corpus", stop)
    code, _, err = encode(corpus, output=None)
    assert code == 130 and "Nothing to resume: with output=<folder> an encode can be resumed." in err


def test_a_changed_corpus_is_refused_with_the_file(encode, corpus):
    encode(corpus)
    write_jsonl(corpus, some_texts(36))
    code, _, err = encode(corpus)
    assert code == 1
    assert "corpus.sources.00000 corpus.jsonl was " in err and "(35 rows), is now " in err


def test_a_corpus_that_moved_is_the_same_corpus(encode, corpus, tmp_path):
    encode(corpus)
    (tmp_path / "elsewhere").mkdir()
    code, _, err = encode(shutil.move(corpus, tmp_path / "elsewhere" / "corpus.jsonl"))
    assert code == 0, err


def test_another_model_is_refused(step, encode, corpus, own_tiny_model, tmp_path):
    encode(corpus)
    with __import__("torch").no_grad():
        next(own_tiny_model.parameters()).mul_(1.01)
    own_tiny_model.save(str(tmp_path / "other"))
    _, out, _ = step("log_model", "model=local", f"--model.path={tmp_path / 'other'}")
    code, _, err = encode(corpus, run_id=last_json(out)["run_id"])
    assert code == 1
    assert "model.files was " in err and "Vectors of two models do not mix." in err


def test_the_same_model_logged_again_is_the_same_model(step, encode, corpus, tiny_model_folder):
    encode(corpus)
    _, out, _ = step("log_model", "model=local", f"--model.path={tiny_model_folder}")
    code, _, err = encode(corpus, run_id=last_json(out)["run_id"])
    assert code == 0, err


def test_other_versions_are_refused_unless_they_are_accepted(encode, corpus, monkeypatch):
    from steps.common.embeddings import plan as plans

    encode(corpus)
    monkeypatch.setattr(plans, "versions", lambda: {"torch": "9"})
    code, _, err = encode(corpus)
    assert code == 1
    assert "versions.torch was " in err and "with accept_changes=[versions]" in err
    code, _, err = encode(corpus, "accept_changes=[versions]")
    assert code == 0, err


def test_an_output_that_another_encode_writes_to_is_refused(encode, corpus, tmp_path):
    output = Output(files.locate(tmp_path / "out"), tmp_path)
    with Claim(output, "the first"):
        code, _, err = encode(corpus)
    assert code == 1
    assert "is being written by another encode (run the first, process" in err
    code, _, err = encode(corpus)
    assert code == 0, err


def test_a_run_that_died_without_a_word_is_marked_by_the_one_that_goes_on(encode, corpus, tmp_path):
    import mlflow

    from steps.common.embeddings import manifest as manifests

    _, out, _ = encode(corpus)
    plan = manifest_of(tmp_path / "out")["plan"]
    lost = mlflow.MlflowClient().create_run("0").info.run_id
    output = Output(files.locate(tmp_path / "out"), tmp_path)
    (tmp_path / "out" / "manifest.json").unlink()
    manifests.write_plan(output, manifests.PlanRecord(plan, [lost], None))
    code, out, err = encode(corpus)
    assert code == 0, err
    run = mlflow.get_run(lost)
    assert run.info.status == "KILLED"
    assert run.data.tags["error"] == f"ended without a final status; run {last_json(out)['run_id']} resumed its output"
    assert manifest_of(tmp_path / "out")["runs"] == [lost, last_json(out)["run_id"]]
