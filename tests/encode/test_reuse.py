"""Reuse: a new output takes the vectors of an old one for the texts that it holds."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.encodes import content, interrupt, manifest_of, read_parts, some_texts, write_jsonl
from helpers.steps import last_json
from pyarrow import fs

from steps.common.embeddings.changes import write_changes
from steps.common.embeddings.reuse import open_reuse
from steps.common.embeddings.verify import read_manifest
from steps.common.storage import place as files
from steps.common.storage.output import Output

OLD = some_texts(35)
NEW = [*reversed(OLD[5:]), "the new cat", "the red stone is new", OLD[7]]


def vectors_of(folder):
    return {row["text"]: np.float32(row["embedding"]).tobytes() for row in read_parts(folder).to_pylist()}


@pytest.fixture
def old(encode, tmp_path):
    """An output, with ids."""
    corpus = write_jsonl(tmp_path / "old.jsonl", OLD, key=[f"id {i}" for i in range(len(OLD))])
    code, _, err = encode(corpus, "corpus.id_column=key")
    assert code == 0, err
    return tmp_path / "out"


@pytest.fixture
def new_corpus(tmp_path):
    """Its corpus in another order, five texts shorter and three longer, and with two ids that changed places."""
    ids = [f"id {i}" for i in reversed(range(5, 35))]
    ids[:2] = reversed(ids[:2])
    return write_jsonl(tmp_path / "new.jsonl", NEW, key=[*ids, "new 1", "new 2", "again"])


@pytest.fixture
def renew(encode, new_corpus, tmp_path):
    """Encode the new corpus; returns (exit code, stdout, stderr)."""

    def run(reuse, *more, output=tmp_path / "new"):
        return encode(new_corpus, "corpus.id_column=key", f"reuse={reuse}", "rows_per_part=7", *more, output=output)

    return run


def test_only_what_is_new_is_computed_and_what_changed_is_listed(step, old, renew, tmp_path):
    import mlflow

    code, out, err = renew(old)
    assert code == 0, err
    found = last_json(out)
    counts = [
        found[f"encode/{name}"]
        for name in ("rows", "reused_rows", "computed_rows", "added_ids", "changed_ids", "removed_ids")
    ]
    assert counts == [33, 31, 2, 3, 2, 5]
    assert found["reused"] == str(old)
    before, now = vectors_of(old), vectors_of(tmp_path / "new")
    assert all(now[text] == before[text] for text in OLD[5:])
    changes = pq.read_table(tmp_path / "new" / "changes.parquet").to_pydict()
    assert changes == {
        "id": ["new 1", "new 2", "again", "id 33", "id 34", *(f"id {i}" for i in range(5))],
        "what": ["added"] * 3 + ["changed"] * 2 + ["removed"] * 5,
    }
    old_manifest, reused = manifest_of(old), manifest_of(tmp_path / "new")["reused"]
    assert (reused["run_id"], reused["manifest"], reused["rows"]) == (
        old_manifest["run_id"],
        old_manifest["digest"],
        31,
    )
    assert reused["code"] and reused["versions"] == old_manifest["versions"]
    run = mlflow.get_run(found["run_id"])
    assert run.data.tags["reused_run_id"] == old_manifest["run_id"]
    contexts = [one.tags[0].value for one in run.inputs.dataset_inputs]
    assert sorted(contexts) == ["corpus", "embeddings", "reused"]
    names = [entry.path for entry in mlflow.MlflowClient().list_artifacts(found["run_id"])]
    assert "changes.parquet" in names
    # It stands alone.
    shutil.rmtree(old)
    code, out, err = step("verify", f"output={tmp_path / 'new'}")
    assert code == 0, err
    (tmp_path / "new" / "changes.parquet").write_bytes(b"x")
    code, _, err = step("verify", f"output={tmp_path / 'new'}")
    assert code == 1 and "changes.parquet has 1 bytes" in err


def test_an_encode_that_was_stopped_goes_on_to_the_same_bytes(old, renew, tmp_path):
    assert renew(old)[0] == 0
    new = tmp_path / "new"
    expected = content(new) | {"changes": (new / "changes.parquet").read_bytes()}
    for left in ("part-00000.parquet", "digests/part-00002.parquet", "changes.parquet"):
        interrupt(new)
        (new / left).unlink()
        code, out, err = renew(old)
        assert code == 0, err
        assert content(new) | {"changes": (new / "changes.parquet").read_bytes()} == expected
    assert last_json(out)["encode/reused_rows"] == 31
    # Without the old output, too: what is missing is computed.
    interrupt(new)
    (new / "part-00001.parquet").unlink()
    old.rename(tmp_path / "gone")
    code, out, err = renew(old)
    assert code == 0, err
    assert "Texts without a stored vector are computed." in err
    found = last_json(out)
    assert (found["encode/reused_rows"], found["encode/computed_rows"]) == (24, 7)
    assert manifest_of(new)["reused"]["rows"] == 24
    # It is part of the plan.
    interrupt(new)
    code, _, err = renew("null")
    assert code == 1 and "reuse was " in err and "is now None" in err


def test_what_a_run_holds_is_reused_by_its_id_its_uri_and_as_the_latest(encode, new_corpus, renew, tmp_path):
    corpus = write_jsonl(tmp_path / "old.jsonl", OLD, key=[f"id {i}" for i in range(len(OLD))])
    from steps.common.tracking.live import FinishedRunOutput

    code, out, err = renew("latest")
    assert code == 0, err
    assert "no finished encode of this experiment has this model and these options" in err
    assert last_json(out)["encode/computed_rows"] == 33
    shutil.rmtree(tmp_path / "new")
    code, out, err = encode(corpus, "corpus.id_column=key", "keep_text=false", output=None)
    assert code == 0, err
    run_id = last_json(out)["run_id"]
    # Another option: not what latest is.
    assert encode(corpus, "embedding.truncate_dim=8", output=tmp_path / "other")[0] == 0
    for given, output in (("latest", None), (run_id, tmp_path / "by id"), (f"runs:/{run_id}/embeddings", None)):
        code, out, err = renew(given, output=output)
        assert code == 0, err
        found = last_json(out)
        assert (found["encode/reused_rows"], found.get("encode/added_ids")) == (31, 3), err
        assert found["reused"] == f"runs:/{run_id}/embeddings"
    # Where only mlflow reaches the artifacts, they are fetched file by file.
    held = FinishedRunOutput(run_id, tmp_path / "scratch")
    reuse = open_reuse(held, str(held))
    assert reuse.find([*OLD, "new"]).found.tolist() == [True] * 35 + [False]
    new = Output(files.locate(tmp_path / "by id"))
    new.make()
    changes = write_changes((held, reuse.manifest.parts), (new, read_manifest(new).parts))
    assert (changes.added, changes.changed, changes.removed) == (3, 2, 5)
    assert list((tmp_path / "scratch").rglob("part-*")) == []


def test_of_an_old_output_in_an_object_store_each_part_that_is_needed_is_fetched_once(
    step, old, renew, tmp_path, s3, monkeypatch
):
    store = f"{s3}/{tmp_path.name}"
    remote = files.locate(f"{store}/old")
    fs.copy_files(str(old), remote.path, destination_filesystem=remote.filesystem)
    fetched, fetch = [], Output.fetched
    monkeypatch.setattr(Output, "fetched", lambda self, name: (fetched.append(name), fetch(self, name))[1])
    code, out, err = renew(f"{store}/old", output=f"{store}/new")
    assert code == 0, err
    assert last_json(out)["encode/reused_rows"] == 31
    assert sorted(name for name in fetched if name.startswith("part-")) == sorted(content(old))
    code, _, err = step("verify", f"output={store}/new")
    assert code == 0, err
    # By the run that made it, too.
    code, out, err = renew(
        Output(files.locate(f"{store}/new")).read_json("manifest.json")["run_id"], output=tmp_path / "again"
    )
    assert code == 0, err
    assert last_json(out)["encode/reused_rows"] == 33
    assert renew(old)[0] == 0
    (tmp_path / "copy").mkdir()
    made = files.locate(f"{store}/new")
    fs.copy_files(made.path, str(tmp_path / "copy"), source_filesystem=made.filesystem)
    assert content(tmp_path / "copy") == content(tmp_path / "new")


def damaged_format(folder):
    text = (folder / "manifest.json").read_text().replace('"format_version": 5', '"format_version": 99')
    (folder / "manifest.json").write_text(text)
    (folder / ".manifest.json").unlink()


def test_what_a_run_has_written_elsewhere_is_reused_by_its_uri_too(old, renew, tmp_path):
    run_id = manifest_of(old)["run_id"]
    code, out, err = renew(f"runs:/{run_id}/embeddings")
    assert code == 0, err
    assert last_json(out)["encode/reused_rows"] == 31


def test_what_cannot_be_reused_is_one_line(step, old, renew, without_models, tiny_run, tmp_path):
    without_models()
    cases = [
        (old, "embedding.truncate_dim=8", "holds vectors of other settings: embedding.truncate_dim was None, is now 8"),
        (old, "corpus.long_text=chunk", "corpus.long_text was truncate, is now chunk"),
        (tmp_path / "nothing", "", "reuse: there is no"),
        (tmp_path / "empty", "", "has no manifest.json; expected a folder that encode has written"),
        ("s3:/bucket/x", "", "has one slash"),
        ("0" * 32, "", "there is no such run"),
        (tiny_run["run_id"], "", "holds no embeddings (it is a run of log_model, FINISHED)"),
        ("runs:/x/sbert_model", "", "names no output of a run"),
        (tmp_path / "new", "", "is the output itself"),
    ]
    (tmp_path / "empty").mkdir()
    damages = {"interrupted": interrupt, "newer": damaged_format}
    for name, damage in damages.items():
        shutil.copytree(old, tmp_path / name)
        damage(tmp_path / name)
    cases += [
        (tmp_path / "interrupted", "", "is not complete: encode is still running, or was stopped"),
        (tmp_path / "newer", "", "has format 99, this version of the project reads formats 2 to 5"),
    ]
    failed = []
    for given, more, line in cases:
        code, _, err = renew(given, *([more] if more else []))
        errors = [one for one in err.splitlines() if one.startswith("error: ")]
        if code != 1 or len(errors) != 1 or line not in errors[0]:
            failed.append(f"{given} {more}: {code} {err[-600:]}")
    assert not failed, "\n".join(failed)


def test_a_corpus_that_changed_is_refused_on_its_own_output_with_what_to_type(encode, old, new_corpus, without_models):
    without_models()
    code, _, err = encode(new_corpus, "corpus.id_column=key", output=old)
    assert code == 1
    assert f"embed only what is new or changed, give a new output: reuse={old} output=<another folder>." in err
