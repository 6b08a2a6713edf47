"""What verify finds, and what it says to do."""

import dataclasses
import json
import os
import re

import pyarrow as pa
import pytest
from helpers.outputs import finish, flip_a_byte, make_manifest, names_in, put_part, rejects_of, schema_of, table_of

from steps.common.embeddings import manifest as manifests
from steps.common.embeddings import records, verify
from steps.common.embeddings.parts import File, NpyPart, Part
from steps.common.errors import UserError
from steps.common.storage import place as files
from steps.common.storage.output import PLAN, Output


def test_a_whole_output_has_no_findings(output):
    parts = [put_part(output, 0, table_of(0, 3)), put_part(output, 3, table_of(3, 2), stem="part-00001", kind=NpyPart)]
    finish(output, *parts)
    manifest, findings = verify.verify_output(output)
    assert (manifest.rows, findings) == (5, [])


def cut_off(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda path: path.unlink(), "part-00001.parquet is missing"),
        (flip_a_byte, "part-00001.parquet has SHA-256"),
        (cut_off, "part-00001.parquet has"),
        (
            lambda path: path.with_name("part-00002.parquet").write_bytes(b""),
            "part-00002.parquet is not in the manifest",
        ),
    ],
)
def test_any_damage_is_found(output, damage, expected):
    parts = [put_part(output, 3 * i, table_of(3 * i, 3), stem=f"part-0000{i}") for i in range(2)]
    finish(output, *parts)
    damage(output.place.local / "part-00001.parquet")
    _, findings = verify.verify_output(output)
    assert len(findings) == 1 and findings[0].startswith(expected)


def test_parts_that_leave_out_rows_are_found(output):
    parts = [put_part(output, 0, table_of(0, 3)), put_part(output, 4, table_of(4, 2), stem="part-00001")]
    finish(output, *parts, rows=6)
    assert verify.verify_output(output)[1] == ["part-00001.parquet begins at row 4 of the corpus, expected 3"]


def test_a_part_with_other_rows_than_it_says_is_found(output):
    part = put_part(output, 0, table_of(0, 3))
    finish(output, Part(**{**vars(part), "written_rows": 4}))
    assert verify.verify_output(output)[1] == ["part-00000.parquet has 3 rows, expected 4"]


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"dim": 3}, "part-00000.parquet holds vectors of 2 float32, expected 3 float32"),
        ({"dtype": "float16"}, "part-00000.parquet holds vectors of 2 float32, expected 2 float16"),
        ({"dtype": "float8"}, "the manifest says dtype float8, expected one of float32, float16, int8, binary"),
        ({"tokens": 9}, "the parts have tokens 0, the manifest says 9"),
        ({"written_rows": 9}, "the parts have written_rows 5, the manifest says 9"),
        ({"rows": 6}, "the parts hold 5 rows of the corpus, the manifest says 6"),
        ({"plan": {"embedding": {"truncate_dim": 4}}}, "the manifest says dim 2, its plan 4"),
        (
            {"plan": {"keep_text": False, "corpus": {"keep_columns": ["year"]}}},
            "part-00000.parquet has the columns id, text, embedding; expected id, year, embedding",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_its_parts_is_found(output, change, expected):
    parts = [put_part(output, 3 * i, table_of(3 * i, 3 - i), stem=f"part-0000{i}") for i in range(2)]
    finish(output, *parts, **change)
    assert expected in verify.verify_output(output)[1]


def test_parts_in_another_order_or_twice_are_found(output):
    parts = [put_part(output, 3 * i, table_of(3 * i, 3), stem=f"part-0000{i}") for i in range(2)]
    finish(output, *reversed(parts))
    assert "part-00001.parquet is part 0 in the manifest, expected part-00000" in verify.verify_output(output)[1]
    finish(output, *parts, parts[1], rows=6)
    assert "part-00001.parquet is part 2 in the manifest, expected part-00002" in verify.verify_output(output)[1]


def change_manifest(output, change):
    path = output.place.local / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def as_version_2_without_a_digest(manifest):
    manifest.update(format_version=2)
    del manifest["digest"]


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(runs=["s"]),
        lambda manifest: manifest["ranges"][0].__setitem__(0, -99),
        lambda manifest: manifest.pop("digest"),
    ],
)
def test_a_manifest_that_was_changed_is_found_by_its_digest(output, copy, change):
    finish(output, put_part(output, 0, table_of(0, 3)), ranges=[[0.1, 0], [1, 1]])
    if not copy:
        output.delete(manifests.COPY)
    assert verify.verify_output(output)[1] == []
    change_manifest(output, change)
    assert verify.verify_output(output)[1] == ["manifest.json was changed since encode wrote it"]
    known = manifests.find_manifest(output)
    assert (known.runs, known.ranges) == (["r"], [[0.1, 0], [1, 1]]) if copy else known is None


def test_a_copy_of_the_manifest_that_is_missing_or_was_changed_is_found(output, tmp_path):
    finish(output, put_part(output, 0, table_of(0, 3)), options={"output": "out"})
    (manifest, _), copy = verify.verify_output(output), output.place.local / manifests.COPY
    assert verify.check_copy(output, manifest) == []
    whole = copy.read_bytes()
    flip_a_byte(copy)
    named = ".manifest.json, the copy of the manifest, "
    assert verify.check_copy(output, manifest) == [f"{named}was changed since encode wrote it"]
    copy.write_bytes(manifests.as_text(dataclasses.replace(manifest, runs=["other"])).encode())
    assert verify.check_copy(output, manifest) == [f"{named}is that of another output"]
    copy.unlink()
    assert verify.check_copy(output, manifest) == [f"{named}is missing"]
    assert verify.check_copy(output, dataclasses.replace(manifest, format_version=4)) == []
    assert verify.check_copy(output, dataclasses.replace(manifest, options={"output": None})) == []
    # An output that lost it can be used.
    assert verify.check_whole(output, "out") == manifest
    copy.write_bytes(whole)
    assert verify.check_copy(output, manifest) == []


def test_a_manifest_without_a_digest_is_compared_with_its_copy(output):
    finish(output, put_part(output, 0, table_of(0, 3)))
    change_manifest(output, as_version_2_without_a_digest)
    change_manifest(output, lambda manifest: manifest.update(runs=["s"]))
    assert verify.verify_output(output)[1] == ["manifest.json was changed since encode wrote it"]
    assert manifests.find_manifest(output).runs == ["r"]
    (output.place.local / ".manifest.json").write_text('{"sha256": "0", "manifest": "{}"}')
    assert verify.verify_output(output)[1] == []
    assert manifests.find_manifest(output).runs == ["s"]


@pytest.mark.parametrize("old", [True, False])
def test_the_copy_of_another_output_does_not_count(output, tmp_path, old):
    other = Output(files.locate(tmp_path / "other"), tmp_path)
    other.make()
    finish(other, put_part(other, 0, table_of(7, 3)), plan={"b": 2})
    finish(output, put_part(output, 0, table_of(0, 3)))
    if old:
        change_manifest(output, as_version_2_without_a_digest)
    (output.place.local / manifests.COPY).write_bytes(other.read_bytes(manifests.COPY))
    assert manifests.find_manifest(output).plan == {"a": 1}
    assert verify.verify_output(output)[1] == []
    output.delete(manifests.MANIFEST)
    assert manifests.find_manifest(output) is None
    # Nor does the manifest of another one beside the copy.
    finish(output, put_part(output, 0, table_of(0, 3)))
    output.write_text(manifests.MANIFEST, other.read_bytes(manifests.MANIFEST).decode())
    assert manifests.find_manifest(output).plan == {"a": 1}


def nulls_of(*rows):
    schema = schema_of(nulls=True)
    column = pa.array(rows, schema.field("embedding").type)
    return pa.table([pa.array(range(len(rows))), pa.nulls(len(rows), pa.string()), column], schema=schema)


def test_the_width_of_vectors_among_nulls_is_checked(output):
    finish(output, put_part(output, 0, nulls_of(None, [1, 2])), dim=999)
    assert "part-00000.parquet holds vectors of 2 float32, expected 999 float32" in verify.verify_output(output)[1]
    finish(output, put_part(output, 0, nulls_of(None, None)))
    assert verify.verify_output(output)[1] == []


def test_columns_in_another_order_are_found(output):
    part = put_part(output, 0, table_of(0, 3).select(["text", "id", "embedding"]))
    finish(output, part, plan={"keep_text": True, "corpus": {"keep_columns": []}})
    assert verify.verify_output(output)[1] == [
        "part-00000.parquet has the columns text, id, embedding; expected id, text, embedding"
    ]


def test_rejects_are_as_many_as_rows_without_an_embedding(output):
    rejects = [{"row": 0, "id": 0, "file": "c", "line": 1, "reason": "null"}]
    part = put_part(output, 0, nulls_of(None, [1, 2]), rejects=rejects)
    finish(output, part, null_rows=1)
    assert verify.verify_output(output)[1] == ["the parts have null_rows 1, the manifest names no rejects.parquet"]
    output.clear_work()
    records.restore(output)
    assert records.read_record(output, "part-00000") is None
    file = records.write_rejects(output, pa.int64(), [rejects_of(rejects * 2)])
    finish(output, part, null_rows=1, rejects=file)
    assert verify.verify_output(output)[1] == ["rejects.parquet has 2 rows, expected 1"]


@pytest.mark.parametrize("version", [1, 6, "3", None])
def test_verify_and_encode_say_the_same_of_another_version(output, version):
    finish(output, put_part(output, 0, table_of(0, 3)))
    output.delete(manifests.COPY)
    change_manifest(output, lambda manifest: manifest.update(format_version=version))
    for look in (verify.verify_output, manifests.find_manifest):
        with pytest.raises(
            UserError,
            match=f"has format {version}, this version of the project reads formats 2 to 5.*give another output",
        ):
            look(output)


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    "name", ["part-00000.parquet", "part-00007.npy", "manifest.json", ".manifest.json", "rejects.parquet"]
)
def test_a_folder_in_the_place_of_a_file_is_said(output, name, empty):
    finish(output, put_part(output, 0, table_of(0, 3)))
    output.clear_work()
    output.tidy()
    path = output.place.local / name
    path.unlink(missing_ok=True)
    path.mkdir()
    if not empty:
        (path / "x").write_text("")
    for look in (verify.verify_output, lambda output: verify.check_output(output.place)):
        with pytest.raises(UserError, match=f"/{name} is a folder, expected a file. Move it away"):
            look(output)
    assert not (output.place.local / ".encode").exists()


@pytest.mark.parametrize("name", [".encode", ".encode/done"])
def test_a_file_in_the_place_of_a_folder_is_said(output, name):
    finish(output, put_part(output, 0, table_of(0, 3)))
    output.clear_work()
    output.tidy()
    path = output.place.local / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    for look in (verify.verify_output, lambda output: verify.check_output(output.place)):
        with pytest.raises(UserError, match=f"/{name} is a file, expected a folder. Move it away"):
            look(output)


def test_a_manifest_nested_too_deep_is_none(output):
    finish(output, put_part(output, 0, table_of(0, 3)))
    output.write_text(manifests.MANIFEST, "[" * 100_000)
    with pytest.raises(UserError, match="manifest.json of output .* cannot be read"):
        verify.verify_output(output)
    assert manifests.find_manifest(output).runs == ["r"]


@pytest.mark.parametrize(
    "strays, expected",
    [
        (["part-notes.txt"], "Move away the files that encode did not make."),
        (["part-00007.parquet"], "Run the same encode again to repair it."),
        (
            ["part-notes.txt", "part-00007.parquet"],
            "Move away the files that encode did not make; run the same encode again to repair the rest.",
        ),
    ],
)
def test_the_remedy_is_that_of_what_was_found(output, strays, expected):
    finish(output, put_part(output, 0, table_of(0, 3)))
    for name in strays:
        (output.place.local / name).write_text("")
    assert verify.describe_remedy(verify.verify_output(output)[1]) == expected


def test_only_files_that_encode_names_so_are_removed(output):
    part = put_part(output, 0, table_of(0, 3))
    ours = ["part-00009.parquet", "part-00000.npy", "part-00000.ids.parquet", "rejects.parquet"]
    others = ["part-0.parquet", "part-00009 (copy).parquet", "part-00009.csv", "notes.txt", "deep/part-00009.parquet"]
    for name in ours + others:
        (output.place.local / name).parent.mkdir(exist_ok=True)
        (output.place.local / name).write_bytes(b"x")
    verify.remove_strays(output, part.files)
    assert names_in(output) == sorted(["part-00000.parquet", *others])
    finish(output, part)
    assert verify.verify_output(output)[1] == [
        f"{name} is not in the manifest; move it away" for name in sorted(others[:3])
    ]


def test_an_output_without_its_end_is_not_verified(output):
    put_part(output, 0, table_of(0, 3))
    output.write_text(PLAN, "{}")
    with pytest.raises(UserError, match="is not complete: encode is still running, or was stopped"):
        verify.verify_output(output)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"parts": 3}'])
def test_a_manifest_that_is_none_is_said(output, content):
    (output.place.local / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="manifest.json of output .* cannot be read"):
        verify.verify_output(output)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda manifest: manifest.pop("format_version"), "format_version is missing"),
        (lambda manifest: manifest.pop("dim"), "dim is missing"),
        (lambda manifest: manifest.update(dim="two"), "dim is 'two', expected a whole number of 0 or more"),
        (lambda manifest: manifest.update(dim=-1), "dim is -1, expected a whole number of 0 or more"),
        (lambda manifest: manifest.update(normalized=1), "normalized is 1, expected true or false"),
        (lambda manifest: manifest.update(more=1), "more is unknown"),
        (lambda manifest: manifest.update(runs="r"), "runs is 'r', expected an array"),
        (lambda manifest: manifest.update(ranges=[[None]]), "ranges.0.0 is None, expected a number"),
        (lambda manifest: manifest.update(rejects=3), "rejects is 3, expected an object"),
        (lambda manifest: manifest["parts"][0].pop("sha256"), "parts.0.sha256 is missing"),
        (lambda manifest: manifest["parts"][0].update(bytes=True), "parts.0.bytes is True, expected a whole number"),
        (lambda manifest: manifest["parts"][0].update(counts={"rows": "3"}), "parts.0.counts.rows is '3', expected"),
        (lambda manifest: manifest["parts"][0].update(beside=[{}]), "parts.0.beside.0.name is missing"),
        (lambda manifest: manifest.update(parts=[[]]), "parts.0 is an array, expected an object"),
    ],
)
def test_a_manifest_that_is_not_as_declared_is_refused_with_what_is_wrong(output, change, reason):
    finish(output, put_part(output, 0, table_of(0, 3)))
    change_manifest(output, change)
    with pytest.raises(UserError, match=re.escape(f"cannot be read: {reason}")) as caught:
        verify.verify_output(output)
    assert str(caught.value).endswith("Run the same encode again to write it again.")
    assert manifests.find_manifest(output).dim == 2
    output.delete(manifests.COPY)
    assert manifests.find_manifest(output) is None


def test_a_manifest_is_read_as_it_was_written(output):
    part = put_part(output, 0, table_of(0, 3), kind=NpyPart)
    manifest = make_manifest([part], ranges=[[0.1, 0], [1, 1]], rejects=File("rejects.parquet", 1, "x"))
    text = manifests.write_manifest(output, manifest)
    read = manifests.Manifest.from_json(json.loads(text))
    assert (dataclasses.replace(read, digest=None), read.keeps_digest()) == (manifest, True)
