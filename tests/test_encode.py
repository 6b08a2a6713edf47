"""The step encode and its check, verify, on the tiny model: outputs that go on, bad rows, long texts, other stores."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import last_json

from steps.common.storage import place as files
from steps.common.storage.claim import Claim
from steps.common.storage.output import Output
from steps.common.storage.stream import sha256

WORDS = [
    "the",
    "cat",
    "is",
    "on",
    "the",
    "house",
    "and",
    "a",
    "big",
    "red",
    "dog",
    "in",
    "the",
    "sky",
    "of",
    "blue",
    "stone",
]


def some_texts(count):
    return [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(1 + i % 9)) + f" {i}" for i in range(count)]


def write_jsonl(path, texts, **columns):
    rows = [{"text": text} | {name: values[i] for name, values in columns.items()} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def encode(step, tiny_run, tmp_path):
    """Encode a corpus into tmp_path/out; returns (exit code, stdout, stderr)."""

    def run(corpus, *more, output=tmp_path / "out"):
        given = [f"--run_id={tiny_run['run_id']}", f"--corpus={corpus}", "rows_per_part=10", "backend=torch"]
        return step("encode", *given, *([f"--output={output}"] if output else []), *more)

    return run


@pytest.fixture
def corpus(tmp_path):
    return write_jsonl(tmp_path / "corpus.jsonl", some_texts(35))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_an_output_is_its_parts_and_its_manifest(encode, corpus, tmp_path):
    code, out, err = encode(corpus)
    assert code == 0, err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".manifest.json", "manifest.json", *(f"part-0000{i}.parquet" for i in range(4))]
    manifest = manifest_of(tmp_path / "out")
    assert manifest["plan"]["corpus"]["sources"] == {"00000 corpus.jsonl": f"{sha256(files.locate(corpus))} (35 rows)"}
    assert manifest["parts"][1]["source"] == {
        "first": {"file": str(corpus), "row": 10},
        "last": {"file": str(corpus), "row": 19},
    }
    assert manifest["runs"] == [last_json(out)["run_id"]]
    assert {"name", "precision", "digest", "device"} <= set(manifest["plan"]["backend"])
    assert len(manifest["plan"]["model"]["files"]) == 64


def test_the_same_command_on_a_whole_output_computes_nothing(encode, corpus, tmp_path, monkeypatch):
    import mlflow

    from steps.common.backends.torch import TorchBackend

    _, first, _ = encode(corpus)
    before = content(tmp_path / "out")

    def never(self, tokens, batches, on_rows):
        assert not batches
        raise AssertionError("computed")

    embed = TorchBackend.embed
    monkeypatch.setattr(
        TorchBackend,
        "embed",
        lambda self, tokens, on_rows=None: (
            never(self, tokens, [], on_rows) if len(tokens) > 10 else embed(self, tokens, on_rows)
        ),
    )
    code, out, err = encode(corpus)
    assert code == 0, err
    assert content(tmp_path / "out") == before
    assert manifest_of(tmp_path / "out")["runs"] == [last_json(first)["run_id"], last_json(out)["run_id"]]
    assert not (tmp_path / "out" / ".encode").exists()
    metrics = mlflow.get_run(last_json(out)["run_id"]).data.metrics
    assert (metrics["encode/rows"], metrics["encode/resumed_rows"]) == (35, 35)


@pytest.mark.parametrize(
    "change, difference",
    [
        (["embedding.normalize=true"], "embedding.normalize was False, is now True"),
        (["rows_per_part=11"], "rows_per_part was 10, is now 11"),
        (["corpus.long_text=chunk"], "corpus.long_text was truncate, is now chunk"),
        (["embedding.prompt_name=query"], "embedding.prompt_name was None, is now query"),
        (["backend=openvino"], "backend.name was torch, is now openvino"),
        (["corpus.id_column=text"], "corpus.id_column was None, is now text"),
    ],
)
def test_an_output_that_was_begun_with_something_else_is_refused(encode, corpus, tmp_path, change, difference):
    encode(corpus)
    before = content(tmp_path / "out")
    code, _, err = encode(corpus, *change)
    assert code == 1
    assert "with other settings" in err and difference in err
    assert content(tmp_path / "out") == before
    assert manifest_of(tmp_path / "out")["rows"] == 35


def test_a_plan_that_no_part_was_made_by_gives_way_to_another(encode, corpus, tmp_path, monkeypatch):
    from steps.common.embeddings import pipeline
    from steps.common.errors import UserError

    def fails(*arguments, **options):
        raise UserError("no part was made")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "encode_corpus", fails)
        code, _, err = encode(corpus, "embedding.truncate_dim=8")
    assert code == 1 and "no part was made" in err
    code, out, err = encode(corpus, "embedding.truncate_dim=9")
    assert code == 0, err
    assert len(manifest_of(tmp_path / "out")["runs"]) == 2


def test_an_encode_that_goes_on_reads_the_missing_parts_of_its_corpus_and_no_more(
    encode, corpus, tmp_path, monkeypatch
):
    from steps.common.corpus.readers import jsonl
    from steps.common.embeddings import pipeline
    from steps.common.errors import UserError

    def stop_after_one(job, backend, output, **more):
        pipeline.make_part(job, 0, backend, output)
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "encode_corpus", stop_after_one)
        assert encode(corpus)[0] == 1
    rows, read = [], jsonl.FORMAT.read

    def counting(request):
        for chunk in read(request):
            rows.append(len(chunk))
            yield chunk

    monkeypatch.setattr(jsonl.FORMAT, "read", counting)
    code, out, err = encode(corpus)
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 10
    assert sum(rows) == 25


def interrupt(folder):
    """Make a whole output one that was stopped before its manifest was written."""
    from steps.common.embeddings import manifest as manifests

    output = Output(files.locate(folder), folder / ".encode")
    record = manifests.restore(output)
    (folder / "manifest.json").unlink()
    manifests.write_plan(output, record)


@pytest.fixture
def without_models(monkeypatch):
    """From the call on no model is loaded."""
    from steps.common.model import load as models

    def refuse(folder):
        raise AssertionError("a model was loaded")

    return lambda: monkeypatch.setattr(models, "load_native", refuse)


@pytest.mark.parametrize("state", ["whole", "interrupted"])
def test_what_an_output_was_begun_with_is_compared_before_the_run_begins(
    encode, corpus, tmp_path, without_models, state
):
    assert encode(corpus)[0] == 0
    if state == "interrupted":
        interrupt(tmp_path / "out")
    without_models()
    for change, difference in (
        ("embedding.dtype=int8", "embedding.dtype was float32, is now int8"),
        ("corpus.on_bad_row=keep_all", "corpus.on_bad_row was keep_nulls, is now keep_all"),
        ("backend=openvino", "backend.name was torch, is now openvino"),
        ("backend.precision=bf16", "backend.precision was f32, is now bf16"),
        ("backend.batch_tokens=99", "backend.batch_tokens was None, is now 99"),
        ("keep_text=false", "keep_text was True, is now False"),
    ):
        code, _, err = encode(corpus, change)
        assert code == 1
        assert "with other settings" in err and difference in err
        assert "encode: run" not in err


@pytest.mark.parametrize(
    "words, message",
    [
        (["embedding.truncate_dim=33"], "embedding.truncate_dim is 33, but the model has 32 dimensions. Give 32 or less."),
        (["embedding.prompt_name=passage"], "the model has no prompt 'passage'; embedding.prompt_name is one of query"),
        (["embedding.task=query"], "the model has no route 'query'; embedding.task is null."),
        (["corpus.long_text=chunk", "corpus.chunk_overlap=62"], "corpus.chunk_overlap is 62; expected less than 62"),
        (
            ["corpus.long_text=chunk", "corpus.chunk_overlap=59", "embedding.prompt_name=query"],
            "corpus.chunk_overlap is 59; expected less than 59",
        ),
        (["backend.precision=fp16"], "backend=torch backend.precision=fp16 cannot be used: fp16 is for a GPU"),
        (["backend=auto", "backend.precision=fp16", "backend.device=cpu"], "no backend can compute with this model here"),
        (["backend=openvino", "backend.precision=fp16"], "backend=openvino computes in f32, bf16, int8, not in fp16"),
        (["backend.device=cuda:7"], "backend.device=cuda:7 is not on this machine"),
    ],
)  # fmt: skip
def test_what_the_model_or_the_machine_does_not_have_is_found_before_the_model_is_loaded(
    encode, corpus, tmp_path, without_models, words, message
):
    without_models()
    code, _, err = encode(corpus, *words)
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


def test_the_greatest_overlap_is_accepted(encode, corpus):
    assert encode(corpus, "corpus.long_text=chunk", "corpus.chunk_overlap=61")[0] == 0


# what decides the result


def write_partitions(folder, **texts):
    for value, rows in texts.items():
        (folder / f"lang={value}").mkdir(parents=True)
        write_jsonl(folder / f"lang={value}" / "part.jsonl", rows)
    return folder


def test_a_partition_that_was_renamed_is_another_corpus(step, encode, tmp_path):
    folder = write_partitions(tmp_path / "corpus", de=some_texts(12), en=some_texts(12))
    words = (folder, "corpus.keep_columns=[lang]")
    assert encode(*words)[0] == 0
    interrupt(tmp_path / "out")
    for path in (tmp_path / "out").glob("part-0000[12]*"):
        path.unlink()
    (folder / "lang=en").rename(folder / "lang=fr")
    code, _, err = encode(*words)
    assert code == 1
    assert 'corpus.partitions.00001 part.jsonl.lang was "en", is now "fr"' in err
    assert "encode: run" not in err
    (folder / "lang=fr").rename(folder / "lang=en")
    assert encode(*words)[0] == 0
    rows = [row for path in sorted((tmp_path / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert [row["lang"] for row in rows] == ["de"] * 12 + ["en"] * 12
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


@pytest.mark.parametrize("words", [["corpus.id_column=lang"], ["corpus.template='{lang}: {text}'"]])
def test_a_partition_value_in_an_id_or_a_text_is_in_the_plan(encode, tmp_path, words):
    folder = write_partitions(tmp_path / "corpus", de=["the cat"])
    assert encode(folder, *words)[0] == 0
    (folder / "lang=de").rename(folder / "lang=__HIVE_DEFAULT_PARTITION__")
    code, _, err = encode(folder, *words)
    assert code == 1 and 'corpus.partitions.00000 part.jsonl.lang was "de", is now null' in err


def test_a_partition_value_that_nothing_uses_may_change(encode, tmp_path):
    folder = write_partitions(tmp_path / "corpus", de=["the cat"])
    assert encode(folder)[0] == 0
    (folder / "lang=de").rename(folder / "lang=fr")
    code, _, err = encode(folder)
    assert code == 0, err


def test_files_in_another_order_are_another_corpus(encode, tmp_path):
    for name, texts in (("a", some_texts(3)), ("b", some_texts(5))):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", texts)
    assert encode(tmp_path / "corpus")[0] == 0
    (tmp_path / "corpus" / "a.jsonl").rename(tmp_path / "corpus" / "c.jsonl")
    code, _, err = encode(tmp_path / "corpus")
    assert code == 1 and "corpus.sources.00000 a.jsonl" in err


def test_the_plan_holds_what_writes_the_parts(encode, corpus, tmp_path):
    assert encode(corpus)[0] == 0
    assert {"numpy", "pyarrow", "sentence-transformers", "torch"} <= set(
        manifest_of(tmp_path / "out")["plan"]["versions"]
    )


# sweeps


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


# stops


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
    from steps.common.corpus import opening
    from steps.common.launch import inputs
    from steps.common.model import find as found
    from steps.common.model import load as model
    from steps.common.tracking import datasets
    from steps.common.tracking import run as tracking

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    target, name = {
        "the corpus is read": (opening, "open_corpus"),
        "the output is looked at": (inputs, "open_output"),
        "the run begins": (tracking, "log_config"),
        "the model is found": (found, "find_model"),
        "the model is loaded": (model, "load_native"),
        "results are logged": (datasets, "log_data"),
    }[moment]
    given = (f"run_id={tiny_run['run_id']}", f"corpus={corpus}", f"output={tmp_path / 'out'}", "backend=torch")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, stop)
        code, _, err = step("encode", *given)
    assert code == 130
    (line,) = [line for line in err.splitlines() if line.startswith("to go on: ")]
    words = shlex.split(line.removeprefix("to go on: "))
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
    (line,) = [line for line in err.splitlines() if line.startswith("to go on: ")]
    assert shlex.split(line)[3:] == ["python", "-m", "steps.encode", "--multirun", *words]


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
    assert "to go on: type the same mlflow run command again." in err


def test_a_stop_without_an_output_says_what_it_takes(encode, corpus, monkeypatch):
    from steps.common.corpus import opening

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "open_corpus", stop)
    code, _, err = encode(corpus, output=None)
    assert code == 130 and "only an encode with an output can go on: -P output=<folder>" in err


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


def test_another_model_is_refused(step, encode, corpus, tiny_model_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    encode(corpus)
    other = SentenceTransformer(str(tiny_model_folder), device="cpu")
    with __import__("torch").no_grad():
        next(other.parameters()).mul_(1.01)
    other.save(str(tmp_path / "other"))
    _, out, _ = step("log_model", "model=local", f"--model.path={tmp_path / 'other'}")
    code, _, err = step(
        "encode",
        f"--run_id={last_json(out)['run_id']}",
        f"--corpus={corpus}",
        "rows_per_part=10",
        "backend=torch",
        f"--output={tmp_path / 'out'}",
    )
    assert code == 1
    assert "model.files was " in err


def test_the_same_model_logged_again_is_the_same_model(step, encode, corpus, tiny_model_folder, tmp_path):
    encode(corpus)
    _, out, _ = step("log_model", "model=local", f"--model.path={tiny_model_folder}")
    code, _, err = step(
        "encode",
        f"--run_id={last_json(out)['run_id']}",
        f"--corpus={corpus}",
        "rows_per_part=10",
        "backend=torch",
        f"--output={tmp_path / 'out'}",
    )
    assert code == 0, err


def test_other_versions_are_refused_unless_they_are_accepted(encode, corpus, monkeypatch):
    from steps.common.embeddings import plan as plans

    encode(corpus)
    monkeypatch.setattr(plans, "versions", lambda: {"torch": "9"})
    code, _, err = encode(corpus)
    assert code == 1
    assert "versions.torch was " in err and "-P accept_changes=[versions]" in err
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


# verify


def test_verify_finds_an_output_whole(step, encode, corpus, tmp_path):
    import mlflow

    _, out, _ = encode(corpus)
    encoded = last_json(out)
    assert encoded["next"].endswith(f"steps.verify output={tmp_path / 'out'}")
    code, out, err = step("verify", f"--output={tmp_path / 'out'}")
    assert code == 0, err
    run = mlflow.get_run(last_json(out)["run_id"])
    assert (run.data.metrics["verify/rows"], run.data.metrics["verify/findings"]) == (35, 0)
    assert run.data.tags["upstream_run_id"] == encoded["run_id"]


def test_verify_finds_damage_and_the_same_encode_mends_it(step, encode, corpus, tmp_path):
    encode(corpus)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "part-00001.parquet").write_bytes(b"torn")
    (tmp_path / "out" / "part-00002.parquet").unlink()
    code, out, err = step("verify", f"--output={tmp_path / 'out'}")
    assert code == 1
    assert "part-00001.parquet has 4 bytes" in out and "part-00002.parquet is missing" in out
    assert "2 finding(s)" in err
    code, out, err = encode(corpus)
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 15
    assert content(tmp_path / "out") == before
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


def test_verify_reads_what_a_run_holds(step, encode, corpus):
    _, out, _ = encode(corpus, output=None)
    code, _, err = step("verify", f"--output={last_json(out)['embeddings']}")
    assert code == 0, err


# bad rows and long texts

ODD = ["the cat", None, "", " \t", 5, "a dog"]


def test_bad_rows_keep_their_place_and_their_reason(encode, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ODD, key=list("abcdef"))
    with path.open("ab") as stream:
        stream.write(b'{"key": "g", "text": "\xff"}\nnot json\n{"key": "i", "text": "\\ud800"}\n')
    code, out, err = encode(path, "corpus.on_bad_row=keep_all", "corpus.id_column=key")
    assert code == 0, err
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == [*"abcdef", None, None, "i"]
    assert [row["embedding"] is not None for row in rows] == [True, *[False] * 4, True, *[False] * 3]
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(row["row"], row["line"]) for row in rejects] == [(i, i + 1) for i in (1, 2, 3, 4, 6, 7, 8)]
    assert [row["reason"].split(";")[0][:20] for row in rejects] == [
        "null",
        "empty",
        "only white space",
        "expected a string in",
        "expected UTF-8, foun",
        "expected one JSON ob",
        "'text' holds half a ",
    ]
    assert last_json(out)["encode/null_rows"] == 7
    manifest = manifest_of(tmp_path / "out")
    assert manifest["rejects"]["sha256"] == sha256(files.locate(tmp_path / "out" / "rejects.parquet"))


@pytest.mark.parametrize("damage", ["gone", "a byte", "other rows"])
def test_rejects_that_are_damaged_are_made_again(step, encode, tmp_path, damage):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", "a dog", *ODD], key=list("abcdefgh"))
    words = (path, "corpus.on_bad_row=keep_all", "corpus.id_column=key", "rows_per_part=2")
    assert encode(*words)[0] == 0
    before, rejects = content(tmp_path / "out"), tmp_path / "out" / "rejects.parquet"
    whole = rejects.read_bytes()
    if damage == "gone":
        rejects.unlink()
    elif damage == "a byte":
        rejects.write_bytes(whole[:9] + bytes([whole[9] ^ 255]) + whole[10:])
    else:
        pq.write_table(pq.read_table(rejects).slice(1), rejects)
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 1
    code, out, err = encode(*words)
    assert code == 0, err
    # The first part has no null row, so it stays.
    assert last_json(out)["encode/resumed_rows"] == 2
    assert rejects.read_bytes() == whole
    assert content(tmp_path / "out") == before
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


@pytest.mark.parametrize(
    "bad, reason", [(None, "the text is null"), ("", "the text is empty"), (5, "expected a string")]
)
def test_bad_rows_can_stop_the_run_before_anything_is_computed(encode, tmp_path, bad, reason):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", bad])
    code, _, err = encode(path, "corpus.on_bad_row=refuse_all")
    assert code == 1
    assert f"{path} line 2: {reason}" in err and "corpus.on_bad_row=keep_all keeps such rows" in err
    assert not (tmp_path / "out").exists()


def test_long_texts_can_stop_the_run_before_anything_is_computed(encode, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", None, "big " * 100, "red " * 90])
    code, _, err = encode(path, "corpus.long_text=error")
    assert code == 1
    assert f"2 texts are longer than the 64 tokens that the model reads; the first is {path} line 3 with 102" in err
    assert not list((tmp_path / "out").glob("part-*"))


def test_chunks_of_a_long_text_are_embedded_like_texts_of_their_own(encode, tmp_path, tiny_model_folder):
    from sentence_transformers import SentenceTransformer

    text = " ".join(WORDS[i % len(WORDS)] for i in range(300))
    path = write_jsonl(tmp_path / "c.jsonl", [text, "the cat"])
    code, out, err = encode(path, "corpus.long_text=chunk", "corpus.chunk_pooling=none", "corpus.chunk_overlap=5")
    assert code == 0, err
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == [0] * (len(rows) - 1) + [1]
    assert [row["chunk"] for row in rows] == [*range(len(rows) - 1), 0]
    words = [row["text"].split() for row in rows[:-1]]
    assert words[0] + [word for piece in words[1:] for word in piece[5:]] == text.split()
    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    expected = model.encode([row["text"] for row in rows])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    assert (last_json(out)["encode/long_rows"], last_json(out)["encode/truncated_rows"]) == (1, 0)

    code, _, err = encode(path, "corpus.long_text=chunk", "corpus.chunk_overlap=5", output=tmp_path / "mean")
    assert code == 0, err
    first, second = pq.read_table(tmp_path / "mean" / "part-00000.parquet").column("embedding").to_pylist()
    mean = expected[:-1].mean(axis=0)
    np.testing.assert_allclose(first, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(second, expected[-1], atol=1e-5)


def test_templates_and_kept_columns_go_with_their_rows(encode, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ["the cat", "a dog"], title=["one", None], year=[1999, 2001])
    code, _, err = encode(path, "corpus.template='{title}: {text} ({year})'", "corpus.keep_columns=[year,title]")
    assert code == 0, err
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet").drop_columns("embedding").to_pydict() == {
        "id": [0, 1],
        "text": ["one: the cat (1999)", ": a dog (2001)"],
        "year": [1999, 2001],
        "title": ["one", None],
    }


# forms and readers


def direct(tiny_model_folder, texts):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model_folder), device="cpu").encode(texts)


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_smaller_numbers_are_those_of_sentence_transformers(encode, corpus, tmp_path, tiny_model_folder, dtype):
    from sentence_transformers import quantize_embeddings

    code, _, err = encode(corpus, f"embedding.dtype={dtype}")
    assert code == 0, err
    column = [
        row
        for path in sorted((tmp_path / "out").glob("part-*"))
        for row in pq.read_table(path).column("embedding").to_pylist()
    ]
    vectors = direct(tiny_model_folder, some_texts(35))
    if dtype == "float16":
        np.testing.assert_allclose(column, vectors, atol=1e-3)
        return
    ranges = manifest_of(tmp_path / "out")["ranges"]
    expected = quantize_embeddings(vectors, dtype, ranges=None if ranges is None else np.array(ranges))
    # A value at the edge of its bucket may fall to either side.
    assert np.abs(np.array(column, int) - expected).max() <= (1 if dtype == "int8" else 255)
    assert (np.array(column) == expected).mean() > 0.98
    if dtype == "int8":
        np.testing.assert_allclose(ranges, [vectors.min(axis=0), vectors.max(axis=0)], atol=1e-6)


def test_the_ranges_of_int8_are_those_of_the_chunks(encode, tmp_path):
    long = " ".join(WORDS[i % len(WORDS)] for i in range(300))
    path = write_jsonl(tmp_path / "c.jsonl", [long, "the cat", "a red dog"])
    chunks = ["corpus.long_text=chunk", "corpus.chunk_pooling=none"]
    assert encode(path, *chunks, output=tmp_path / "f32")[0] == 0
    code, _, err = encode(path, *chunks, "embedding.dtype=int8")
    assert code == 0, err
    vectors = np.array(pq.read_table(tmp_path / "f32" / "part-00000.parquet").column("embedding").to_pylist())
    ranges = manifest_of(tmp_path / "out")["ranges"]
    np.testing.assert_allclose(ranges, [vectors.min(axis=0), vectors.max(axis=0)], atol=1e-6)
    stored = np.array(pq.read_table(tmp_path / "out" / "part-00000.parquet").column("embedding").to_pylist())
    # Each dimension uses both ends of what int8 can hold.
    assert stored.min(axis=0).tolist() == [-128] * 32
    assert (stored.max(axis=0) >= 126).all()


def test_matrices_are_read_by_numpy(encode, corpus, tmp_path, tiny_model_folder):
    code, _, err = encode(corpus, "output_format=npy")
    assert code == 0, err
    parts = sorted((tmp_path / "out").glob("*.npy"))
    matrix = np.concatenate([np.load(path) for path in parts])
    np.testing.assert_allclose(matrix, direct(tiny_model_folder, some_texts(35)), atol=1e-5)
    ids = [
        row
        for path in sorted((tmp_path / "out").glob("*.ids.parquet"))
        for row in pq.read_table(path).column("id").to_pylist()
    ]
    assert ids == list(range(35))


@pytest.mark.parametrize("reader", ["pandas", "polars", "duckdb", "datasets"])
def test_the_embeddings_are_read_by(encode, corpus, tmp_path, tiny_model_folder, reader, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    encode(corpus)
    glob = str(tmp_path / "out" / "part-*.parquet")
    module = pytest.importorskip(reader)
    if reader == "pandas":
        table = module.concat([module.read_parquet(path) for path in sorted((tmp_path / "out").glob("part-*"))])
        ids, vectors = table["id"].tolist(), np.stack(table["embedding"])
    elif reader == "polars":
        table = module.read_parquet(glob)
        ids, vectors = table["id"].to_list(), table["embedding"].to_numpy()
    elif reader == "duckdb":
        rows = module.sql(f"select id, embedding from '{glob}' order by id").fetchall()
        ids, vectors = [row[0] for row in rows], np.array([row[1] for row in rows], np.float32)
    else:
        table = module.load_dataset("parquet", data_files=glob, split="train", cache_dir=str(tmp_path / "datasets"))
        ids, vectors = table["id"], np.array(table["embedding"], np.float32)
    assert list(ids) == list(range(35))
    np.testing.assert_allclose(vectors, direct(tiny_model_folder, some_texts(35)), atol=1e-5)


# object stores


def test_a_corpus_and_its_embeddings_may_both_be_in_an_object_store(step, encode, corpus, tmp_path, s3):
    from pyarrow import fs

    store = f"{s3}/{tmp_path.name}"
    place = files.locate(f"{store}/corpus.jsonl")
    with place.filesystem.open_output_stream(place.path) as stream:
        stream.write(corpus.read_bytes())
    code, out, err = encode(f"{store}/corpus.jsonl", output=f"{store}/embeddings")
    assert code == 0, err
    assert last_json(out)["embeddings"] == f"{store}/embeddings"
    encode(corpus)
    remote = files.locate(f"{store}/embeddings")
    (tmp_path / "copy").mkdir()
    fs.copy_files(remote.path, str(tmp_path / "copy"), source_filesystem=remote.filesystem)
    assert content(Path(tmp_path / "copy")) == content(tmp_path / "out")
    code, _, err = step("verify", f"--output={store}/embeddings")
    assert code == 0, err

    damaged = remote.joined("part-00002.parquet")
    with damaged.filesystem.open_output_stream(damaged.path) as stream:
        stream.write(b"torn")
    assert step("verify", f"--output={store}/embeddings")[0] == 1
    code, out, err = encode(f"{store}/corpus.jsonl", output=f"{store}/embeddings")
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 25
    assert step("verify", f"--output={store}/embeddings")[0] == 0


def test_a_bucket_that_is_not_there_is_one_line(encode, corpus, s3):
    code, _, err = encode(corpus, output="s3://no-such-bucket/embeddings")
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "s3://no-such-bucket" in errors[0] or "no-such-bucket" in errors[0]
    assert "Traceback" not in err


def test_an_output_in_its_corpus_is_refused_before_the_model_is_loaded(encode, tmp_path):
    (tmp_path / "texts").mkdir()
    write_jsonl(tmp_path / "texts" / "a.jsonl", some_texts(3))
    code, _, err = encode(tmp_path / "texts", output=tmp_path / "texts" / "out")
    assert code == 1
    assert "would be read as texts" in err and err.count("error:") == 1
    assert not (tmp_path / "texts" / "out").exists()


def test_an_output_may_be_a_file_uri_to_encode_and_verify(encode, step, corpus, tmp_path):
    place = tmp_path / "made here" / "50%"
    code, out, err = encode(corpus, output=place.as_uri())
    assert code == 0, err
    assert (place / "manifest.json").exists()
    code, out, err = step("verify", f"output={place.as_uri()}")
    assert code == 0, err
    assert last_json(out)["verdict"] == "whole"


def edit(**changed):
    def damage(folder):
        manifest = manifest_of(folder)
        for name, value in changed.items():
            manifest[name] = value(manifest[name]) if callable(value) else value
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def edit_parts(change):
    def changed(parts):
        change(parts)
        return parts

    return edit(parts=changed)


def overwrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def swap(folder):
    first, second = folder / "part-00000.parquet", folder / "part-00001.parquet"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def flip(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


DAMAGES = {
    "no manifest": remove("manifest.json"),
    "empty manifest": overwrite("manifest.json", ""),
    "torn manifest": overwrite("manifest.json", '{"format_version": 2, "parts": ['),
    "manifest that is a list": overwrite("manifest.json", "[]"),
    "manifest of nothing": overwrite("manifest.json", "{}"),
    "manifest of no parts": edit(parts=[]),
    "parts that are none": edit(parts=[3]),
    "another dim": edit(dim=7),
    "another dtype": edit(dtype="float16"),
    "other rows": edit(rows=1),
    "other tokens": edit(tokens=1),
    "no plan": edit(plan=None),
    "other runs": edit(runs=["x"]),
    "no rejects in it": edit(rejects=None),
    "a manifest nested too deep": overwrite("manifest.json", "[" * 100_000),
    "rejects that are none": edit(rejects=3),
    "parts in another order": edit_parts(list.reverse),
    "a part twice": edit_parts(lambda parts: parts.append(parts[0])),
    "a part too few": edit_parts(list.pop),
    "another first row": edit_parts(lambda parts: parts[1].update(first_row=11)),
    "other rows of a part": edit_parts(lambda parts: parts[1].update(rows=9)),
    "other written rows": edit_parts(lambda parts: parts[1].update(written_rows=9)),
    "another digest": edit_parts(lambda parts: parts[1].update(sha256="0" * 64)),
    "a part that is missing": remove("part-00002.parquet"),
    "a part that was changed": flip("part-00002.parquet"),
    "a part that is empty": overwrite("part-00002.parquet", ""),
    "parts that changed places": swap,
    "a stray part": overwrite("part-00007.parquet", "stray"),
    "a stray matrix": overwrite("part-00000.npy", "stray"),
    "rejects that are missing": remove("rejects.parquet"),
    "rejects that were changed": flip("rejects.parquet"),
}


@pytest.fixture
def whole(encode, tmp_path):
    """An output of 25 rows, one of them null, and its corpus."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*some_texts(24), None])
    code, _, err = encode(corpus)
    assert code == 0, err
    return tmp_path / "out", corpus


@pytest.mark.parametrize("copy", ["with its copy", "without its copy"])
def test_what_verify_finds_the_same_encode_mends(encode, step, whole, tmp_path, copy):
    output, corpus = whole
    before = content(output) | {"rejects.parquet": (output / "rejects.parquet").read_bytes()}
    shutil.copytree(output, tmp_path / "sound")
    failed = []
    for name, damage in DAMAGES.items():
        if copy == "without its copy" and name == "no manifest":
            continue
        shutil.rmtree(output)
        shutil.copytree(tmp_path / "sound", output)
        if copy == "without its copy":
            (output / ".manifest.json").unlink()
        damage(output)
        code, _, found = step("verify", f"output={output}")
        if code != 1 or "ame encode" not in found or "Traceback" in found:
            failed.append(f"{name}: verify says {code} {found[-300:]}")
        code, _, err = encode(corpus)
        if code != 0:
            failed.append(f"{name}: encode says {err[-300:]}")
            continue
        if (content(output) | {"rejects.parquet": (output / "rejects.parquet").read_bytes()}) != before:
            failed.append(f"{name}: other bytes")
        if (output / ".encode").exists():
            failed.append(f"{name}: .encode is left")
        code, _, found = step("verify", f"output={output}")
        if code != 0:
            failed.append(f"{name}: verify finds after mending {found[-300:]}")
    assert not failed, "\n".join(failed)


def test_parts_of_an_output_whose_manifest_is_gone_are_not_computed_again(encode, whole):
    output, corpus = whole
    (output / "manifest.json").unlink()
    code, out, err = encode(corpus)
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 25


def test_parts_that_nothing_is_known_of_any_more_are_computed_again_with_a_warning(encode, whole):
    output, corpus = whole
    (output / "manifest.json").write_text("{")
    (output / ".manifest.json").write_text("{")
    code, out, err = encode(corpus)
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 0
    assert "the plan of output" in err and "cannot be read, so all of its parts are made again" in err


def test_an_encode_that_is_refused_leaves_a_whole_output_as_it_was(encode, whole):
    output, corpus = whole
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    code, _, err = encode(corpus, "keep_text=false")
    assert code == 1 and "with other settings" in err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert not (output / ".encode").exists()


@pytest.mark.parametrize("content", ["{", "3", "{}", '{"plan": 3, "runs": [], "ranges": null}'])
def test_an_output_that_was_stopped_and_lost_its_plan_is_made_again(encode, step, whole, content):
    output, corpus = whole
    for name in ("manifest.json", ".manifest.json"):
        (output / name).unlink()
    (output / ".encode" / "done").mkdir(parents=True)
    (output / ".encode" / "done" / "plan.json").write_text(content)
    code, out, err = encode(corpus)
    assert code == 0, err
    code, out, err = step("verify", f"output={output}")
    assert code == 0, err
