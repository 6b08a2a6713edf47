"""Corpora and embeddings in object stores, and outputs in odd places."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.encodes import content, manifest_of, some_texts, write_jsonl
from helpers.steps import error_of, last_json

from steps.common.embeddings.verify import verify_output
from steps.common.storage import place as files
from steps.common.storage.output import Output


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
    assert "no-such-bucket" in error_of(encode(corpus, output="s3://no-such-bucket/embeddings"))


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
        # What the step shows, which was asked above about the damage.
        _, found = verify_output(Output(files.locate(output), tmp_path))
        if found:
            failed.append(f"{name}: verify finds after mending {found}")
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
