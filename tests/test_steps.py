"""The three steps on the tiny model, in this process, against a real sqlite store."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.steps import error_of, last_json


def write_corpus(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def test_log_model_records_a_model_that_loads_both_ways(tiny_run, tiny_model_folder):
    import mlflow
    from sentence_transformers import SentenceTransformer

    texts = ["the cat is on the house", "a red car"]
    expected = SentenceTransformer(str(tiny_model_folder), device="cpu").encode(texts)
    pyfunc = mlflow.pyfunc.load_model(tiny_run["model_uri"])
    native = mlflow.sentence_transformers.load_model(tiny_run["model_uri"])
    np.testing.assert_allclose(pyfunc.predict(texts), expected, atol=1e-6)
    np.testing.assert_allclose(native.encode(texts), expected, atol=1e-6)
    assert pyfunc.metadata.signature.inputs.to_dict() == [{"type": "string", "required": True}]
    assert pyfunc.metadata.signature.outputs.to_dict() == [
        {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": (-1, 32)}}
    ]


def test_log_model_shows_the_signature(step, tiny_model_folder):
    _, out, _ = step("log_model", "model=local", f"model.path={tiny_model_folder}")
    assert "[string (required)]" in out
    assert "Tensor('float32', (-1, 32))" in out


def test_declared_params_are_obeyed(tiny_run):
    import mlflow

    pyfunc = mlflow.pyfunc.load_model(tiny_run["model_uri"])
    assert {spec.name for spec in pyfunc.metadata.signature.params} == {
        "batch_size",
        "normalize_embeddings",
        "prompt_name",
        "prompt",
        "truncate_dim",
    }
    text = ["the cat is big"]
    cut = pyfunc.predict(text, params={"truncate_dim": 8, "normalize_embeddings": True})
    assert cut.shape == (1, 8)
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-5)
    prompted = pyfunc.predict(["the cat: the cat is big"])
    np.testing.assert_allclose(pyfunc.predict(text, params={"prompt_name": "query"}), prompted, atol=1e-6)
    np.testing.assert_allclose(pyfunc.predict(text, params={"prompt": "the cat: "}), prompted, atol=1e-6)


def test_log_model_tags_the_model_and_pins_its_requirements(tiny_run):
    import mlflow

    logged = mlflow.get_logged_model(tiny_run["model_id"])
    assert logged.tags["dimension"] == "32"
    assert logged.tags["max_seq_length"] == "64"
    assert logged.tags["pooling"] == "mean"
    assert int(logged.tags["parameters"]) > 1000
    assert len(logged.tags["weights_sha256"]) == 64
    requirements = mlflow.artifacts.load_text(f"{logged.artifact_location}/requirements.txt").splitlines()
    assert all("==" in line and "+" not in line for line in requirements)
    assert any(line.startswith("sentence-transformers==") for line in requirements)


def test_a_run_holds_its_config_its_log_and_its_lineage(tiny_run):
    import mlflow

    run = mlflow.get_run(tiny_run["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["artifact_name"] == "sbert_model"
    assert run.data.params["model.name"] == "local"
    assert run.data.tags["step"] == "log_model"
    assert run.data.tags["model_id"] == tiny_run["model_id"]
    assert mlflow.get_experiment(run.info.experiment_id).name == "Introduction to Sentence Transformers"
    artifacts = {file.path for file in mlflow.MlflowClient().list_artifacts(tiny_run["run_id"])}
    assert {"config.yaml", "log_model.log", "reference.json"} <= artifacts
    assert "artifact_name: sbert_model" in mlflow.artifacts.load_text(f"runs:/{tiny_run['run_id']}/config.yaml")


def test_the_chain_ends_in_embeddings_that_equal_the_source_model(
    step, tiny_run, tiny_model_folder, tiny_suite, tmp_path
):
    import mlflow
    from sentence_transformers import SentenceTransformer

    # An exact backend alone: which of them is fastest on this machine is not known here.
    words = [f"--run_id={tiny_run['run_id']}", f"suite.path={tiny_suite}", "candidates=[openvino/f32]"]
    code, out, err = step("validate", *words)
    assert code == 0, err
    validated = last_json(out)
    assert "first 10 entries" in out
    assert mlflow.get_logged_model(tiny_run["model_id"]).tags["validation"] == "passed"

    texts = ["the cat", "", "a big red house in the river", "x " * 200]
    code, out, err = step(
        "encode",
        f"--run_id={validated['run_id']}",
        "--corpus",
        str(write_corpus(tmp_path / "texts.txt", texts)),
        f"--output={tmp_path / 'out'}",
    )
    assert code == 0, err
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert table["id"].to_pylist() == [0, 1, 2, 3]
    assert table["text"].to_pylist() == texts
    expected = SentenceTransformer(str(tiny_model_folder), device="cpu").encode(texts)
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-6)

    encoded = mlflow.get_run(last_json(out)["run_id"])
    assert encoded.data.metrics["encode/rows"] == 4
    assert encoded.data.metrics["encode/empty_rows"] == 1
    assert encoded.data.metrics["encode/truncated_rows"] == 1
    assert encoded.data.tags["upstream_run_id"] == validated["run_id"]
    assert [given.model_id for given in encoded.inputs.model_inputs] == [tiny_run["model_id"]]
    assert {entry.tags[0].value for entry in encoded.inputs.dataset_inputs} == {"corpus", "embeddings"}


def test_metrics_of_validate_are_linked_to_model_and_suite(step, tiny_run, tiny_suite):
    import mlflow

    candidates = "candidates=[openvino/f32,openvino/bf16,openvino/int8]"
    _, out, _ = step("validate", "run_id=latest", f"suite.path={tiny_suite}", candidates)
    metrics = {metric.key: metric for metric in mlflow.get_logged_model(tiny_run["model_id"]).metrics}
    assert metrics["quality/tiny/spearman"].dataset_name == "tiny"
    assert {"parity/max_abs_diff", "latency/p50_ms", "latency/p95_ms", "serving/ok"} <= set(metrics)
    validation = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")
    assert all(set(check) == {"name", "value", "threshold", "passed"} for check in validation["checks"])


def test_the_summary_of_validate_names_its_page_and_says_nothing_twice(step, tiny_run, tiny_suite):
    import mlflow

    _, out, _ = step("validate", "run_id=latest", f"suite.path={tiny_suite}")
    assert "<h1>Validation" in mlflow.artifacts.load_text(re.search(r"^  report +(runs:/.+)", out, re.MULTILINE)[1])
    checks = last_json(out)["checks"]
    assert f"\n{checks} checks passed\n" in out and "known/" not in out and "compared with champion" not in out
    assert re.findall("^  (checks|failed|checks/.*?) ", out, re.MULTILINE) == ["checks", "failed"]
    assert last_json(out)["checks/total"] == checks


def test_a_failed_gate_fails_the_run_and_encode_refuses_the_model(step, tiny_run, tiny_suite, tmp_path):
    import mlflow

    code, out, err = step(
        "validate", f"--run_id={tiny_run['run_id']}", f"suite.path={tiny_suite}", "suite.threshold=100.5"
    )
    assert code == 1
    assert err.splitlines()[-1].startswith("error: validation failed, 1 of ")
    assert "quality/tiny/spearman" in err
    assert re.search(r"\d checks passed, 1 failed:\n\n.*\n FAIL  quality/tiny/spearman ", out)
    failed_run = last_json(out)["run_id"]
    assert mlflow.get_run(failed_run).info.status == "FAILED"
    assert mlflow.get_logged_model(tiny_run["model_id"]).tags["validation"] == "failed"
    code, _, err = step("encode", f"--run_id={failed_run}", f"--corpus={write_corpus(tmp_path / 'c.txt', ['a'])}")
    assert code == 1
    assert f"failed its validation (run {failed_run})" in err


def test_validate_passes_backends_and_encode_takes_the_fastest(step, tiny_run, tiny_suite, tmp_path):
    import mlflow

    candidates = "candidates=[openvino/f32,torch/fp16]"
    code, out, err = step("validate", f"--run_id={tiny_run['run_id']}", f"suite.path={tiny_suite}", candidates)
    assert code == 0, err
    run_id = last_json(out)["run_id"]
    trials = {t["backend"]: t for t in mlflow.artifacts.load_dict(f"runs:/{run_id}/validation.json")["backends"]}
    assert {name: trial["passed"] for name, trial in trials.items()} == {
        "torch/f32": True,
        "openvino/f32": True,
        "torch/fp16": False,
    }
    assert "fp16 is for a GPU" in trials["torch/fp16"]["reason"]
    assert mlflow.get_run(run_id).data.metrics["backends/openvino-f32/score"] == trials["openvino/f32"]["score"]
    assert "openvino/f32" in mlflow.artifacts.load_text(f"runs:/{run_id}/report.html")
    tag = json.loads(mlflow.get_logged_model(tiny_run["model_id"]).tags["validated_backends"])
    assert set(tag) == {"torch/f32", "openvino/f32"}
    assert tag["openvino/f32"]["digest"] == trials["openvino/f32"]["digest"]

    tag["openvino/f32"]["rows_per_second"] = 1e9
    mlflow.MlflowClient().set_logged_model_tags(tiny_run["model_id"], {"validated_backends": json.dumps(tag)})
    corpus = write_corpus(tmp_path / "c.txt", ["the cat", "a dog", "the cat"])
    code, out, err = step("encode", f"--run_id={run_id}", f"--corpus={corpus}", f"--output={tmp_path / 'out'}")
    assert code == 0, err
    assert "the fastest that validate has passed" in err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["backend"] == {
        "name": "openvino",
        "precision": "f32",
        "device": "cpu",
        "digest": tag["openvino/f32"]["digest"],
    }
    assert last_json(out)["encode/computed_rows"] == 2

    # What is not tried is not forgotten.
    step("validate", f"suite.path={tiny_suite}", "candidates=[]")
    again = json.loads(mlflow.get_logged_model(tiny_run["model_id"]).tags["validated_backends"])
    assert again["openvino/f32"] == tag["openvino/f32"] and set(again) == set(tag)


def test_a_failed_validation_passes_no_backend(step, tiny_run, tiny_suite):
    import mlflow

    step("validate", f"suite.path={tiny_suite}", "suite.threshold=100.5", "candidates=[]")
    assert mlflow.get_logged_model(tiny_run["model_id"]).tags["validated_backends"] == "{}"


def test_what_was_converted_is_kept_with_the_model_and_not_made_again(step, tiny_run, tmp_path):
    corpus = write_corpus(tmp_path / "c.txt", ["the cat"])
    # The fixture has converted it already.
    (kept,) = tmp_path.rglob("openvino-f32")
    shutil.rmtree(kept)
    first, second = (
        step("encode", f"--run_id={tiny_run['run_id']}", f"--corpus={corpus}", "backend=openvino")[2] for _ in range(2)
    )
    assert "converting the model (openvino-f32)" in first
    assert "converting" not in second


def test_a_precision_that_a_backend_lacks_is_one_line(step, tiny_run):
    for words, expected in (
        (["backend=torch", "backend.precision=int8"], "backend=torch computes in f32, bf16, fp16, not in int8"),
        (
            ["backend=openvino", "backend.precision=fp16"],
            "backend=openvino computes in f32, bf16, int8, not in fp16; backend=torch does",
        ),
        (["backend=onnx"], "backend"),
    ):
        code, _, err = step("encode", f"--run_id={tiny_run['run_id']}", *words)
        assert code == 1
        assert expected in err and "Traceback" not in err


def test_a_model_that_changed_after_logging_fails_parity(step, tiny_run, tiny_suite):
    import mlflow
    import torch
    from safetensors.torch import load_file, save_file

    folder = mlflow.artifacts.download_artifacts(f"models:/{tiny_run['model_id']}")
    weights = next(p for p in Path(folder).rglob("model.safetensors"))
    tensors = load_file(weights)
    name = next(name for name in tensors if "attention.output.dense.weight" in name)
    tensors[name] = torch.randn_like(tensors[name])
    save_file(tensors, weights, metadata={"format": "pt"})
    code, _, err = step("validate", f"--run_id={tiny_run['run_id']}", f"suite.path={tiny_suite}")
    assert code == 1
    assert "parity/native_vs_source" in err
    assert "parity/pyfunc_vs_native" not in err


def test_encode_warns_for_a_model_that_was_never_validated(step, tiny_run, tmp_path):
    code, _, err = step(
        "encode", f"--run_id={tiny_run['run_id']}", f"--corpus={write_corpus(tmp_path / 'c.txt', ['the cat'])}"
    )
    assert code == 0
    assert "never validated" in err


def test_a_run_is_named_by_what_it_did(step, tiny_run, tmp_path):
    import mlflow

    corpus, out = write_corpus(tmp_path / "c.txt", ["the cat", "the cat", "a red car"]), tmp_path / "out"
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("sentence_1,sentence_2\na,b\n")

    def name_of(name, *words):
        code, shown, err = step(name, *words)
        assert code == 0, err
        return mlflow.get_run(last_json(shown)["run_id"]).info.run_name

    model = f"run_id={tiny_run['run_id']}"
    assert name_of("encode", model, f"corpus={corpus}", f"output={out}") == "encode c.txt 3 rows local"
    assert name_of("verify", f"output={out}/") == "verify whole out 3 rows"
    assert name_of("index", f"embeddings={out}") == "index 3 rows exact"
    assert name_of("search", "query=a red car") == 'search "a red car"'
    assert name_of("search", f"queries={corpus}") == "search c.txt 3 questions"
    assert len(name_of("search", f"query={'car ' * 90}")) < 100
    assert name_of("paraphrases", "threshold=0.99") == "paraphrases 1 pairs of 3 rows"
    assert name_of("explore", "serve=false") == "explore 3 rows pca"
    assert name_of("similarity", model, f"pairs={pairs}") == "similarity pairs.csv 1 pairs"
    assert name_of("similarity", model, "sentence_1=a", "sentence_2=b") == 'similarity "a", "b"'


def test_embeddings_go_into_the_run_unless_output_says_where(step, tiny_run, tmp_path):
    import mlflow

    corpus = write_corpus(tmp_path / "c.txt", [f"cat {i}" for i in range(25)])
    code, out, err = step("encode", f"--run_id={tiny_run['run_id']}", f"--corpus={corpus}", "rows_per_part=10")
    assert code == 0, err
    folder = mlflow.artifacts.download_artifacts(f"runs:/{last_json(out)['run_id']}/embeddings")
    names = sorted(p.name for p in Path(folder).iterdir())
    assert names == ["digests", "manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    assert manifest["rows"] == 25
    assert manifest["model"]["model_id"] == tiny_run["model_id"]
    assert [part["first_row"] for part in manifest["parts"]] == [0, 10, 20]


def test_truncated_embeddings_of_a_normalising_model_are_unit_length(step, tiny_run, tmp_path):
    corpus = write_corpus(tmp_path / "c.txt", ["the cat", "a dog"])
    code, _, err = step(
        "encode",
        f"--run_id={tiny_run['run_id']}",
        f"--corpus={corpus}",
        f"--output={tmp_path / 'o'}",
        "embedding.truncate_dim=8",
        "embedding.dtype=float16",
        "keep_text=false",
    )
    assert code == 0, err
    table = pq.read_table(tmp_path / "o" / "part-00000.parquet")
    assert table.column_names == ["id", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: halffloat>[8]"
    np.testing.assert_allclose(
        np.linalg.norm(np.array(table["embedding"].to_pylist(), np.float32), axis=1), 1, atol=2e-3
    )


def test_a_prompt_is_put_before_every_text(step, tiny_run, tmp_path):
    import mlflow

    corpus = write_corpus(tmp_path / "c.txt", ["the dog"])
    step(
        "encode",
        f"--run_id={tiny_run['run_id']}",
        f"--corpus={corpus}",
        f"--output={tmp_path / 'o'}",
        "embedding.prompt_name=query",
    )
    expected = mlflow.sentence_transformers.load_model(tiny_run["model_uri"]).encode(["the cat: the dog"])
    table = pq.read_table(tmp_path / "o" / "part-00000.parquet")
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-6)


def test_null_texts_keep_their_row(step, tiny_run, tmp_path):
    import mlflow

    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "x", "text": "a cat"}\n{"id": "y", "text": null}\n{"id": "z"}\n')
    code, out, err = step(
        "encode",
        f"--run_id={tiny_run['run_id']}",
        f"--corpus={path}",
        "corpus.id_column=id",
        f"--output={tmp_path / 'o'}",
    )
    assert code == 0, err
    rows = pq.read_table(tmp_path / "o" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["x", "y", "z"]
    assert [row["embedding"] is None for row in rows] == [False, True, True]
    assert mlflow.get_run(last_json(out)["run_id"]).data.metrics["encode/null_rows"] == 2


def test_latest_takes_the_newest_finished_run_and_says_which(step, tiny_run, tiny_suite):
    _, _, err = step("validate", f"suite.path={tiny_suite}")
    assert f"run_id=latest is {tiny_run['run_id']}, the newest finished run of log_model" in err


def test_where_latest_finds_nothing_the_newest_run_of_another_experiment_is_named(step, tiny_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    code, _, err = step("encode", "run_id=latest")
    assert (
        code == 1 and "has no finished run of validate. Run it first (python -m steps.validate), or give run_id=" in err
    )
    code, _, err = step("validate", "run_id=latest")
    assert (
        code == 1
        and (
            f"the experiment 'other' has no finished run of log_model. The newest is {tiny_run['run_id']} in the experiment "
            f"'Introduction to Sentence Transformers': give run_id={tiny_run['run_id']}."
        )
        in err
    )


def test_a_sweep_becomes_nested_child_runs(step, tiny_run, tmp_path):
    import mlflow

    corpus = write_corpus(tmp_path / "c.txt", ["the cat", "a dog"])
    code, _, err = step(
        "encode", "--multirun", f"run_id={tiny_run['run_id']}", f"--corpus={corpus}", "backend.batch_size=1,2"
    )
    assert code == 0, err
    runs = mlflow.search_runs(
        experiment_names=["Introduction to Sentence Transformers"],
        filter_string="tags.step = 'encode'",
        output_format="list",
    )
    assert {run.data.params["backend.batch_size"] for run in runs} == {"1", "2"}
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert len(parents) == 1
    parent = mlflow.get_run(parents.pop())
    assert (parent.data.tags["step"], parent.info.status) == ("encode_sweep", "FINISHED")


def test_a_sweep_with_a_failing_job_runs_the_others_and_fails(step, tiny_run, tmp_path):
    import mlflow

    corpus = write_corpus(tmp_path / "c.txt", ["the cat"])
    code, _, err = step(
        "encode", "--multirun", f"run_id={tiny_run['run_id']}", f"--corpus={corpus}", "embedding.truncate_dim=99,8"
    )
    assert code == 1
    assert "embedding.truncate_dim is 99" in err
    statuses = {
        run.data.params["embedding.truncate_dim"]: run.info.status
        for run in mlflow.search_runs(
            search_all_experiments=True, filter_string="tags.step = 'encode'", output_format="list"
        )
    }
    assert statuses == {"99": "FAILED", "8": "FINISHED"}


@pytest.mark.parametrize(
    "name, argv, expected",
    [
        ("log_model", ["model.name=org/other"], "model.name cannot be changed for a model whose weights are installed"),
        ("log_model", ["examples=[]"], "examples has 0 entries; expected 1 or more"),
        ("log_model", ["model=hub", "model.name='${nope}'"], "model.name cannot be resolved"),
        ("encode", ["--cfg", "job", "corpus.nope=1"], "encode has no config key 'corpus.nope'"),
        ("encode", ["--help", "backend.batch_size=abc"], "backend.batch_size takes an integer, not abc"),
        ("encode", ["--cfg"], "--cfg needs a value"),
        ("encode", ["corpus.path="], "corpus.path is empty"),
        ("main", ["--corpus", "nothing.csv"], "corpus.path: there is no 'nothing.csv'"),
        ("main", ["suite=file", "suite.path=/nope.csv", "suite.threshold=1"], "suite.path: there is no '/nope.csv'"),
        ("validate", ["run_id=0123456789abcdef0123456789abcdef"], "there is no run '0123456789abcdef0123456789abcdef'"),
        ("validate", ["run_id=latest"], "has no finished run of log_model"),
        ("encode", ["run_id=latest"], "has no finished run of validate"),
        ("encode", ["--corpus", "no/such file.csv"], "Type an absolute path, for example: corpus='/"),
        ("encode", ["corpus.text_column=body"], "has no column 'body'; its columns are 'id', 'topic', 'text'"),
        ("encode", ["backend.device=cuda:7", "run_id=latest"], "has no finished run"),
        ("log_model", ["model=local", "model.path=/no/such/model"], "model.path: there is no '/no/such/model'"),
        ("log_model", ["model.weights_sha256=00"], "but model.weights_sha256 is 00"),
        ("validate", ["suite.path=/no/pairs.jsonl"], "suite.path: there is no"),
        ("encode", ["--corpus=floppy://disk/key.csv"], "there is no filesystem floppy://"),
        ("encode", ["--output=floppy://disk/out"], "there is no filesystem floppy://"),
        ("encode", ["accept_changes=[code]"], "accept_changes works only when an output is resumed"),
        (
            "encode",
            ["--output=out", "accept_changes=[model]"],
            "accept_changes: there is no 'model'; expected some of code, versions",
        ),
        (
            "encode",
            ["corpus.on_bad_row=drop"],
            "corpus.on_bad_row takes one of keep_nulls, keep_all, refuse_all, not drop",
        ),
        ("verify", ["output=/no/such/folder"], "output: there is no '/no/such/folder'"),
        ("verify", [], "output is required here: give output=<value>"),
        ("outputs", ["--model", "models:/nobody/3"], "models:/nobody/3: there is no registered model 'nobody'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(step, name, argv, expected):
    assert expected in error_of(step(name, *argv))


def test_a_run_without_a_model_is_refused(step):
    import mlflow

    mlflow.set_experiment("other")
    with mlflow.start_run() as run:
        pass
    code, _, err = step("validate", f"run_id={run.info.run_id}")
    assert code == 1
    assert f"run {run.info.run_id} holds no model (it is not a run of this project, FINISHED)" in err


def test_a_model_logged_by_a_notebook_can_be_encoded_but_not_validated(step, tiny_model_folder, tmp_path):
    import mlflow
    from sentence_transformers import SentenceTransformer

    with mlflow.start_run() as run:
        mlflow.sentence_transformers.log_model(
            SentenceTransformer(str(tiny_model_folder), device="cpu"),
            name="mine",
            pip_requirements=["sentence-transformers"],
        )
    corpus = write_corpus(tmp_path / "c.txt", ["the cat"])
    code, _, err = step("encode", f"run_id={run.info.run_id}", f"--corpus={corpus}")
    assert code == 0, err
    code, _, err = step("validate", f"run_id={run.info.run_id}")
    assert code == 1
    assert "has no reference.json" in err


def test_an_output_folder_that_holds_something_is_refused(step, tiny_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, err = step("encode", f"--run_id={tiny_run['run_id']}", f"--output={tmp_path / 'out'}")
    assert code == 1
    assert "already holds notes.txt; expected a folder that is new, empty or an output of encode" in err
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_the_reason_of_a_failure_is_a_tag_and_in_the_log_of_the_run(step, tiny_run, tmp_path):
    import mlflow

    corpus = write_corpus(tmp_path / "c.txt", ["the cat"])
    step("encode", f"--run_id={tiny_run['run_id']}", f"--corpus={corpus}", "embedding.prompt_name=nope")
    run = mlflow.search_runs(search_all_experiments=True, filter_string="tags.step = 'encode'", output_format="list")[0]
    assert run.info.status == "FAILED"
    assert "the model has no prompt 'nope'" in run.data.tags["error"]
    assert "the model has no prompt 'nope'" in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/encode.log")


def test_declared_strings_reach_the_config_as_typed(step, tiny_run, tmp_path):
    import mlflow

    name = "a b,c=d'e\"f{g}$(h)${i}Ж#.txt"
    corpus = write_corpus(tmp_path / name, ["the cat"])
    code, out, err = step(
        "encode", "--run_id", tiny_run["run_id"], "--corpus", str(corpus), "--output", str(tmp_path / "o {x} = y")
    )
    assert code == 0, err
    assert mlflow.get_run(last_json(out)["run_id"]).data.params["corpus.path"] == str(corpus)
    assert (tmp_path / "o {x} = y" / "part-00000.parquet").exists()


def test_no_folder_of_hydra_appears(step, tiny_run, tmp_path):
    from helpers.project import PROJECT

    assert not (PROJECT / "outputs").exists()
    assert not (PROJECT / "multirun").exists()
    assert not (PROJECT / "multirun.yaml").exists()


def test_an_error_nobody_foresaw_is_one_line_and_its_traceback_is_in_the_log_of_the_run(
    step, tiny_run, tmp_path, monkeypatch
):
    import mlflow

    from steps.common.embeddings import pipeline

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pipeline, "encode_corpus", broken)
    code, _, err = step("encode", f"--run_id={tiny_run['run_id']}")
    assert code == 1
    assert err.splitlines()[-1] == "error: ZeroDivisionError: a bug (set HYDRA_FULL_ERROR=1 for the traceback)"
    assert "Traceback" not in err
    run = mlflow.search_runs(search_all_experiments=True, filter_string="tags.step = 'encode'", output_format="list")[0]
    assert "Traceback" in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/encode.log")


def test_a_library_that_ends_the_process_is_an_error(step, tiny_run, monkeypatch):
    """As pyspark does, with exit code 0, where a package of it is missing: it looked as if the step had been done."""
    import mlflow

    from steps.common.embeddings import pipeline

    monkeypatch.setattr(pipeline, "encode_corpus", lambda *args, **named: sys.exit(0))
    code, _, err = step("encode", f"--run_id={tiny_run['run_id']}")
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: A library called exit(0) before the step was done. Set HYDRA_FULL_ERROR=1 to see where."
    )
    run = mlflow.search_runs(search_all_experiments=True, filter_string="tags.step = 'encode'", output_format="list")[0]
    assert run.info.status == "FAILED" and "sys.exit(0)" in mlflow.artifacts.load_text(
        f"runs:/{run.info.run_id}/encode.log"
    )


def test_a_model_whose_files_are_gone_is_one_line(step, tiny_run):
    import shutil

    import mlflow

    shutil.rmtree(mlflow.get_logged_model(tiny_run["model_id"]).artifact_location)
    code, _, err = step("encode", f"--run_id={tiny_run['run_id']}")
    assert code == 1
    assert f"error: the files of models:/{tiny_run['model_id']} cannot be read" in err
    assert "Traceback" not in err
