"""An output that the same encode goes on with, and that another one does not touch."""

import pytest
from helpers.encodes import content, interrupt, manifest_of
from helpers.steps import error_of, last_json

from steps.common.storage import place as files
from steps.common.storage.stream import sha256


def test_an_output_is_its_parts_and_its_manifest(encode, corpus, tmp_path):
    code, out, err = encode(corpus)
    assert code == 0, err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".manifest.json", "digests", "manifest.json", *(f"part-0000{i}.parquet" for i in range(4))]
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
        assert ("(backend=torch backend.precision=f32)" in err) == change.startswith(("backend=", "backend.precision="))
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
    assert message in error_of(encode(corpus, *words))


def test_the_greatest_overlap_is_accepted(encode, corpus):
    assert encode(corpus, "corpus.long_text=chunk", "corpus.chunk_overlap=61")[0] == 0
