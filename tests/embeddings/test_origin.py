"""Whose embeddings: what each part says of the model and the settings that made it."""

import dataclasses
import shutil

import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from helpers.encodes import write_jsonl
from helpers.outputs import ORIGIN, make_manifest, record_of
from helpers.parts import WindowBackend, job_of, options, output_of

from steps.common.embeddings import manifest as manifests
from steps.common.embeddings import pipeline, resume, verify
from steps.common.embeddings.origin import find_other, read_facts
from steps.common.storage.output import Output

FACTS = {
    "model_id": "m-1",
    "hub_id": "org/model",
    "registered_version": "name/3",
    "model_digest": "ab" * 32,
    "backend": "torch/f32",
    "prompt": "query: ",
    "git_commit": "c0ffee",
    "dtype": "float32",
    "normalize": "false",
}

OTHER = dataclasses.replace(ORIGIN, model_id="m-2", backend="openvino/int8")


@pytest.fixture(params=["parquet", "npy"])
def format(request):
    return request.param


def make(tmp_path, name, format="parquet", origin=ORIGIN):
    """A whole output of nine texts in two parts: its folder and its job."""
    path = tmp_path / "corpus.jsonl"
    job = job_of(
        open_corpus(path if path.exists() else write_jsonl(path, "abcdefghi")), options(format=format), origin=origin
    )
    output = output_of(tmp_path / name)
    result = pipeline.encode_corpus(job, WindowBackend(), output)
    facts = {name: value for name, value in result.manifest().items() if name != "ranges"}
    manifest = make_manifest(result.parts, origin=origin, **facts)
    manifests.write_manifest(output, manifest)
    return tmp_path / name, job


def test_every_part_says_what_made_it(tmp_path, format):
    folder, _ = make(tmp_path, "out", format)
    paths = sorted(folder.glob("*.parquet"))
    assert len(paths) == 2
    assert [read_facts(pq.read_schema(path)) for path in paths] == [FACTS] * 2
    assert {key for key in pq.read_metadata(paths[0]).metadata if key != b"ARROW:schema"} == {
        f"embeddings.{name}".encode() for name in FACTS
    }
    assert verify.verify_output(output_of(folder))[1] == []


@pytest.mark.parametrize("records", [False, True])
def test_a_part_of_another_model_is_named_and_made_again(tmp_path, format, records):
    folder, job = make(tmp_path, "out", format)
    other, _ = make(tmp_path, "other", format, OTHER)
    whole, foreign = (manifests.find_manifest(output_of(made)) for made in (folder, other))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for path in other.glob("part-00001*"):
        shutil.copy(path, folder)
    if records:
        # As if it had been there when the manifest was written.
        shutil.copy(other / ".encode/done/part-00001.json", folder / ".encode/done")
        parts = [whole.parts[0], foreign.parts[1]]
        manifests.write_manifest(output_of(folder), dataclasses.replace(whole, parts=parts))
    said = "its metadata does not match the origin of the output: "
    said += "model_id m-2, expected m-1; backend openvino/int8, expected torch/f32"
    findings = verify.verify_output(output_of(folder))[1]
    name = "part-00001.npy" if format == "npy" else "part-00001.parquet"
    assert f"{name}: {said}" in findings
    assert verify.describe_remedy(findings) == "Run the same encode again to repair it."
    pipeline.encode_corpus(job, WindowBackend(), output_of(folder))
    assert all((folder / name).read_bytes() == data for name, data in before.items() if name.startswith("part-"))


def test_a_damaged_part_is_damaged_whatever_byte_it_is(tmp_path):
    folder, _ = make(tmp_path, "out")
    output = output_of(folder)
    part, path = manifests.find_manifest(output).parts[1], folder / "part-00001.parquet"
    sound = path.read_bytes()
    for i in range(len(sound)):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 255]) + sound[i + 1 :])
        assert all(
            finding.startswith(f"{path.name}: its metadata does")
            for finding in verify.check_origin(output, part, ORIGIN)
        )


def test_a_part_without_facts_and_one_of_another_commit_contradict_nothing():
    assert find_other({}, ORIGIN) == []
    assert find_other(dataclasses.replace(ORIGIN, git_commit=None).facts(), ORIGIN) == []
    assert find_other(FACTS | {"task": "query"}, ORIGIN) == ["task query, expected none"]
    without = {name: value for name, value in FACTS.items() if name != "prompt"}
    assert find_other(without, ORIGIN) == ["prompt missing, expected query: "]


@pytest.mark.parametrize("state", ["interrupted", "whole"])
def test_what_goes_on_carries_what_the_output_was_begun_with(tmp_path, state):
    folder, _ = make(tmp_path, "out")
    output = output_of(folder)
    if state == "interrupted":
        (folder / "manifest.json").unlink()
        (folder / ".manifest.json").unlink()
        manifests.write_plan(output, record_of({"a": 1, "code": 1}, "r"))
    else:
        manifest = manifests.find_manifest(output)
        manifests.write_manifest(output, dataclasses.replace(manifest, plan={"a": 1, "code": 1}))
    again = dataclasses.replace(OTHER, git_commit="later")
    begun = resume.begin(output, record_of({"a": 1, "code": 1}, "s", again), [], lambda: None)
    assert (begun.runs, begun.origin) == (["r", "s"], ORIGIN)
    assert manifests.read_plan(output).origin == ORIGIN
    # Parts of other code, which was accepted, say of which.
    begun = resume.begin(output, record_of({"a": 1, "code": 2}, "t", again), ["code"], lambda: None)
    assert begun.origin == dataclasses.replace(ORIGIN, git_commit="later")


def test_resumed_parts_are_read_once(tmp_path, monkeypatch):
    folder, job = make(tmp_path, "out")
    read, facts = [], Output.facts
    monkeypatch.setattr(Output, "facts", lambda self, name: (read.append(name), facts(self, name))[1])
    result = pipeline.encode_corpus(job, WindowBackend(), output_of(folder))
    parts = ["part-00000.parquet", "part-00001.parquet"]
    assert (result.resumed_rows, sorted(read)) == (9, [*(f"digests/{name}" for name in parts), *parts])
