"""Vectors -> parts and a manifest, what is noted of them meanwhile, and the check of it all."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.outputs import ORIGIN, make_manifest, record_of

from steps.common.embeddings import manifest as manifests
from steps.common.embeddings import parts as shards
from steps.common.embeddings import pipeline, records, resume, verify
from steps.common.embeddings.parts import File, NpyPart, ParquetPart, Part, embedding_column, embedding_schema
from steps.common.errors import UserError
from steps.common.storage import place as files
from steps.common.storage.output import PLAN, Output

ALL = np.ones(3, bool)


def schema_of(dtype="float32", keep_text=True, nulls=False, id_type=None, dim=2, **more):
    return embedding_schema(id_type or pa.int64(), dim, dtype, keep_text=keep_text, nulls=nulls, **more)


def table_of(first, count, schema=None):
    """Row i has the text "text i" and the embedding [i, -i]."""
    schema = schema or schema_of()
    rows = np.arange(first, first + count)
    vectors = np.stack([rows, -rows], axis=1).astype(np.float32)
    columns = {
        "id": pa.array(rows, pa.int64()),
        "text": pa.array([f"text {i}" for i in rows], pa.string()),
        "embedding": embedding_column(vectors, np.ones(count, bool), schema.field("embedding").type),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    output = Output(files.locate(folder), tmp_path)
    output.make()
    return output


def rejects_of(rows, id_type=None):
    return pa.Table.from_pylist(list(rows), shards.rejects_schema(id_type or pa.int64()))


def put_part(output, first, *tables, stem="part-00000", kind=ParquetPart, rejects=(), width=2):
    """Write a part of some tables as encode does, with its record."""
    writer = kind(output.workspace, stem, tables[0].schema, width)
    for table in tables:
        writer.write(table)
    made = writer.finish()
    facts = [shards.file_facts(path, name) for path, name in made]
    rows = sum(table.num_rows for table in tables)
    counts = {"rows": rows, "null_rows": len(rejects)}
    part = Part(facts[0].name, first, rows, writer.rows, facts[0].bytes, facts[0].sha256, {}, counts, facts[1:])
    for path, name in made:
        output.put(path, name)
    records.write_record(output, part, rejects_of(rejects))
    return part


def names_in(output):
    return [name for name in output.names() if not name.startswith(".")]


def finish(output, *parts, **facts):
    manifests.write_manifest(output, make_manifest(parts, **facts))


# schema and column


def test_the_schema_has_id_text_and_a_fixed_size_embedding():
    assert schema_of(dim=384) == pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("embedding", pa.list_(pa.float32(), 384))]
    )


def test_the_id_column_has_the_type_of_the_ids():
    assert schema_of(id_type=pa.string()).field("id").type == pa.string()


def test_keep_text_false_drops_the_text():
    assert schema_of(keep_text=False).names == ["id", "embedding"]


def test_float16_is_the_type_of_the_elements():
    assert schema_of("float16").field("embedding").type == pa.list_(pa.float16(), 2)


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_embedding_column_holds_the_vectors_in_order(dtype, nulls):
    kind = schema_of(dtype, nulls=nulls).field("embedding").type
    column = embedding_column(np.array([[1, 2], [3, 4], [5, 6]], np.float32), ALL, kind)
    assert column.type == kind
    assert column.to_pylist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("valid", "expected"),
    [
        ([True, False, True], [[1, 2], None, [3, 4]]),
        ([False, True, True], [None, [1, 2], [3, 4]]),
        ([True, True, False, False], [[1, 2], [3, 4], None, None]),
    ],
)
def test_rows_that_are_not_valid_have_a_null_embedding(valid, expected):
    kind = schema_of(nulls=True).field("embedding").type
    column = embedding_column(np.array([[1, 2], [3, 4]], np.float32), np.array(valid), kind)
    assert column.to_pylist() == expected
    assert column.null_count == valid.count(False)


def test_a_column_of_nothing_but_nulls_can_be_made():
    kind = schema_of(nulls=True).field("embedding").type
    assert embedding_column(np.empty((0, 2), np.float32), np.zeros(3, bool), kind).to_pylist() == [None] * 3


def test_vectors_that_are_a_slice_of_others_are_written_as_they_look():
    wide = np.array([[1, 2, 9], [3, 4, 9], [5, 6, 9]], np.float32)
    assert embedding_column(wide[:, :2], ALL, schema_of().field("embedding").type).to_pylist() == [
        [1, 2],
        [3, 4],
        [5, 6],
    ]


# parts


def test_a_part_holds_the_rows_it_was_given_in_order(output):
    part = put_part(output, 0, *(table_of(start, 4) for start in (0, 4, 8)))
    assert pq.read_table(output.place.local / part.name).combine_chunks() == table_of(0, 12)
    assert (part.rows, part.written_rows) == (12, 12)


def test_small_tables_share_a_row_group(output, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP", 4)
    part = put_part(output, 0, *(table_of(i, 1) for i in range(10)))
    metadata = pq.ParquetFile(output.place.local / part.name).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 2]


def test_size_and_digest_of_a_part_are_those_of_its_file(output):
    part = put_part(output, 0, table_of(0, 5))
    content = (output.place.local / part.name).read_bytes()
    assert (part.bytes, part.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("kind", [ParquetPart, NpyPart])
def test_the_same_rows_make_the_same_bytes(output, kind):
    parts = [put_part(output, 0, table_of(0, 5), stem=f"part-0000{i}", kind=kind) for i in range(2)]
    assert [file.sha256 for file in parts[0].files] == [file.sha256 for file in parts[1].files]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("keep_text", [True, False])
def test_a_part_has_the_schema_it_was_given(output, dtype, keep_text, nulls):
    schema = schema_of(dtype, keep_text, nulls)
    part = put_part(output, 0, table_of(0, 3, schema))
    read = pq.read_table(output.place.local / part.name)
    assert read.schema.names == schema.names
    assert read.schema.field("embedding").type == schema.field("embedding").type
    assert read.column("embedding").to_pylist() == [[0, 0], [1, -1], [2, -2]]


def test_null_embeddings_and_null_texts_survive_the_file(output):
    schema = schema_of(nulls=True)
    kind = schema.field("embedding").type
    vectors = embedding_column(np.array([[1, 2]], np.float32), np.array([False, True, False]), kind)
    table = pa.table([pa.array([0, 1, 2]), pa.array([None, "b", None], pa.string()), vectors], schema=schema)
    read = pq.read_table(output.place.local / put_part(output, 0, table).name)
    assert read.column("embedding").to_pylist() == [None, [1, 2], None]
    assert read.column("text").to_pylist() == [None, "b", None]


def test_ids_that_are_strings_or_null_survive_the_file(output):
    schema = schema_of(id_type=pa.string(), keep_text=False)
    vectors = embedding_column(np.zeros((3, 2), np.float32), ALL, schema.field("embedding").type)
    part = put_part(output, 0, pa.table([pa.array(["007", None, "ü"]), vectors], schema=schema))
    assert pq.read_table(output.place.local / part.name).column("id").to_pylist() == ["007", None, "ü"]


def test_columns_that_are_kept_survive_the_file_nested_ones_too(output):
    tags = pa.list_(pa.struct([("name", pa.string()), ("weight", pa.float64())]))
    schema = schema_of(keep_text=False, kept={"year": pa.int16(), "tags": tags})
    vectors = embedding_column(np.zeros((2, 2), np.float32), np.ones(2, bool), schema.field("embedding").type)
    rows = [[{"name": "a", "weight": 0.5}], None]
    table = pa.table(
        [pa.array([1, 2]), pa.array([1999, None], pa.int16()), pa.array(rows, tags), vectors], schema=schema
    )
    assert pq.read_table(output.place.local / put_part(output, 0, table).name) == table


def test_a_matrix_holds_the_vectors_and_its_neighbour_the_rest(output):
    part = put_part(output, 0, table_of(0, 3), table_of(3, 2), kind=NpyPart)
    matrix = np.load(output.place.local / "part-00000.npy")
    assert (matrix.dtype, matrix.tolist()) == (np.float32, [[0, 0], [1, -1], [2, -2], [3, -3], [4, -4]])
    beside = pq.read_table(output.place.local / "part-00000.ids.parquet")
    assert beside.to_pydict() == {"id": [0, 1, 2, 3, 4], "text": [f"text {i}" for i in range(5)]}
    assert [file.name for file in part.files] == ["part-00000.npy", "part-00000.ids.parquet"]
    assert np.load(output.place.local / "part-00000.npy", mmap_mode="r").shape == (5, 2)


@pytest.mark.parametrize("dtype, empty", [("float32", np.nan), ("float16", np.nan), ("int8", 0)])
def test_a_row_without_a_vector_has_its_place_in_a_matrix(output, dtype, empty):
    schema = schema_of(dtype, nulls=True, keep_text=False)
    valid = np.array([False, True, False])
    vectors = embedding_column(np.array([[1, 2]]), valid, schema.field("embedding").type)
    put_part(output, 0, pa.table([pa.array([0, 1, 2]), vectors], schema=schema), kind=NpyPart)
    matrix = np.load(output.place.local / "part-00000.npy")
    np.testing.assert_array_equal(matrix, np.array([[empty] * 2, [1, 2], [empty] * 2], dtype))


def test_a_million_rows_need_no_longer_header_than_none(output):
    writer = NpyPart(output.workspace, "part-0", schema_of(keep_text=False), 2)
    header = writer._stream.tell()
    writer.write(table_of(0, 200_000, schema_of(keep_text=False)))
    (path, _), _ = writer.finish()
    assert path.stat().st_size == header + 200_000 * 8


@pytest.mark.parametrize("kind", [ParquetPart, NpyPart])
def test_a_part_that_is_dropped_leaves_nothing(output, kind):
    writer = kind(output.workspace, "part-00000", schema_of(), 2)
    writer.write(table_of(0, 3))
    writer.drop()
    assert output.names() == []


def test_a_part_that_is_dropped_on_a_full_disk_leaves_nothing(output, monkeypatch):
    def full(writer):
        raise OSError("disk is still full")

    writer = ParquetPart(output.workspace, "part-00000", schema_of(), 2)
    with monkeypatch.context() as patched:
        patched.setattr(shards.pq.ParquetWriter, "close", full)
        writer.drop()
    assert output.names() == []


def test_part_names_are_in_the_order_of_the_rows_however_many_there_are():
    for parts in (1, 99_999, 100_000, 100_001, 1_000_001):
        stems = [shards.part_stem(i, parts) for i in (0, parts // 2, parts - 1)]
        assert stems == sorted(stems) and len({len(stem) for stem in stems}) == 1
    assert shards.part_stem(0, 1) == "part-00000"


# records, rejects, manifest


def test_a_record_says_what_is_needed_to_go_on(output):
    rejects = [{"row": 8, "reason": "null"}]
    part = put_part(output, 7, table_of(0, 3), rejects=rejects)
    record = records.read_record(output, "part-00000")
    assert record.part == part
    assert record.read_rejects(pa.int64()) == rejects_of(rejects)
    assert records.PartRecord(part, None).read_rejects(pa.string()) == rejects_of([], pa.string())
    assert records.read_record(output, "part-00001") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(rejects=None),
        lambda record: record.update(rejects="!!!!"),
        lambda record: record.update(rejects=[1, 2]),
        lambda record: record["part"].update(counts={}),
        lambda record: record["part"]["counts"].update(other=1),
        lambda record: record.pop("digest", None),
        lambda record: record.update(digest=None),
    ],
)
def test_a_record_that_was_changed_is_none(output, change):
    put_part(output, 0, table_of(0, 3), rejects=[{"row": 1, "reason": "null"}])
    (path,) = output.place.local.glob(".encode/done/*.json")
    assert records.read_record(output, "part-00000") is not None
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    assert records.read_record(output, "part-00000") is None


def test_a_record_that_is_torn_is_none(output):
    put_part(output, 0, table_of(0, 3))
    (path,) = output.place.local.glob(".encode/done/*.json")
    path.write_text(path.read_text()[:40])
    assert records.read_record(output, "part-00000") is None


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "[]",
        "{}",
        '{"part": 3, "rejects": []}',
        '{"part": {}, "rejects": []}',
        '{"part": {"name": "part-00000.parquet"}, "rejects": []}',
        '{"part": null}',
    ],
)
def test_a_record_that_is_json_but_no_record_is_none(output, content):
    put_part(output, 0, table_of(0, 3))
    (path,) = output.place.local.glob(".encode/done/*.json")
    path.write_text(content)
    assert records.read_record(output, "part-00000") is None


@pytest.mark.parametrize(
    "name, value",
    [("first_row", "0"), ("rows", None), ("bytes", -1), ("beside", [1]), ("counts", [1]), ("sha256", 5), ("more", 1)],
)
def test_a_record_with_a_value_of_another_kind_is_none(output, name, value):
    put_part(output, 0, table_of(0, 3))
    (path,) = output.place.local.glob(".encode/done/*.json")
    record = json.loads(path.read_text())
    record["part"][name] = value
    path.write_text(json.dumps(record))
    assert records.read_record(output, "part-00000") is None


def test_rejects_have_a_row_for_each_row_without_an_embedding(output):
    rows = [[{"row": 1, "id": "a", "file": "c.csv", "line": 3, "reason": "null"}], [], [{"row": 9, "id": None}]]
    file = records.write_rejects(output, pa.string(), [rejects_of(part, pa.string()) for part in rows])
    assert manifests.check_files(output, [file]) == []
    assert pq.read_table(output.place.local / "rejects.parquet").to_pylist() == [
        {"row": 1, "id": "a", "file": "c.csv", "line": 3, "reason": "null"},
        {"row": 9, "id": None, "file": None, "line": None, "reason": None},
    ]


def test_without_rejects_there_is_no_file_of_them(output):
    assert records.write_rejects(output, pa.int64(), [rejects_of([]), rejects_of([])]) is None
    assert output.names() == []


def test_the_manifest_is_readable_text_whatever_the_letters(output):
    text = manifests.write_manifest(output, make_manifest([], corpus={"path": "Grüße/東京.csv"}))
    assert "Grüße/東京.csv" in text
    assert (output.place.local / "manifest.json").read_text(encoding="utf-8") == text


def test_a_manifest_that_cannot_be_written_leaves_no_manifest(output):
    with pytest.raises(TypeError):
        manifests.write_manifest(output, make_manifest([], model={"name": object()}))
    assert output.names() == []


def test_the_records_of_a_whole_output_can_be_written_again(output):
    rejects = [{"row": 1, "id": 1, "file": "c", "line": 2, "reason": "null"}]
    parts = [
        put_part(output, 0, table_of(0, 3), rejects=rejects),
        put_part(output, 3, table_of(3, 2), stem="part-00001"),
    ]
    finish(output, *parts, rejects=records.write_rejects(output, pa.int64(), [rejects_of(rejects)]))
    before = [records.read_record(output, f"part-0000{i}") for i in range(2)]
    output.clear_work()
    assert records.read_record(output, "part-00000") is None
    assert records.restore(output) == manifests.PlanRecord({"a": 1}, ["r"], None, 5)
    assert [records.read_record(output, f"part-0000{i}") for i in range(2)] == before


# checks


def test_a_whole_output_has_no_findings(output):
    parts = [put_part(output, 0, table_of(0, 3)), put_part(output, 3, table_of(3, 2), stem="part-00001", kind=NpyPart)]
    finish(output, *parts)
    manifest, findings = verify.verify_output(output)
    assert (manifest.rows, findings) == (5, [])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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


def test_a_folder_in_the_place_of_a_new_part_is_said(tmp_path):
    (tmp_path / "part-00000.parquet").mkdir()
    assert "part-00000.parquet is a folder, expected a file. Move it away" in refusal(tmp_path)


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
    with pytest.raises(UserError, match="is not whole: encode is still at it, or was stopped before its end"):
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


# versions 2 and 3, as the code of then wrote them: 5 rows in parts of 2, one of them null


@pytest.fixture(params=[2, 3])
def old_version(request):
    return request.param


@pytest.fixture
def old_output(tmp_path, old_version):
    shutil.copytree(Path(__file__).with_name(f"output_v{old_version}"), tmp_path / "old")
    output = Output(files.locate(tmp_path / "old"), tmp_path)
    output.make()
    return output


def interrupt_old(output, version):
    """The records of an old version, as it wrote them before the manifest."""
    manifest = json.loads(output.read_bytes(manifests.MANIFEST))
    plan = {name: manifest[name] for name in ("plan", "runs", "ranges", *(["format_version"] if version > 2 else []))}
    records.restore(output)
    output.write_text(PLAN, json.dumps(plan))
    output.delete(manifests.MANIFEST)


def test_an_output_of_an_old_version_is_verified(old_output, old_version):
    manifest, findings = verify.verify_output(old_output)
    assert (manifest.format_version, manifest.rows, manifest.origin, findings) == (old_version, 5, None, [])
    flip_a_byte(old_output.place.local / "part-00001.parquet")
    (finding,) = verify.verify_output(old_output)[1]
    assert finding.startswith("part-00001.parquet has SHA-256")


@pytest.mark.parametrize("state", ["whole", "interrupted"])
def test_an_output_of_an_old_version_goes_on_with_its_plan(old_output, old_version, state):
    before = manifests.find_manifest(old_output)
    plan = before.plan
    if state == "interrupted":
        interrupt_old(old_output, old_version)
    assert verify.state_of(old_output) == state
    now = plan | {"code": "new", "corpus": plan["corpus"] | {"on_bad_row": "keep_nulls"}}
    begun = resume.begin(old_output, record_of(now, "next"), ["code"], lambda: None)
    assert (begun.ranges_of_int8, begun.runs, begun.origin) == (None, [before.run_id, "next"], ORIGIN)
    rows = [range(0, 2), range(2, 4), range(4, 5)]
    job = types.SimpleNamespace(parts=3, stem="part-0000{}".format, rows_of=rows.__getitem__, origin=ORIGIN)
    assert pipeline.find_finished(job, old_output) == {0, 1, 2}
    rejects = records.read_record(old_output, "part-00001").read_rejects(pa.int64())
    assert rejects.select(["row", "id", "reason"]).to_pylist() == [{"row": 3, "id": 3, "reason": "null"}]
    assert manifests.read_plan(old_output).format_version == 5


@pytest.mark.parametrize("state", ["whole", "interrupted"])
def test_an_output_of_an_old_version_with_another_plan_is_refused_and_says_so(old_output, old_version, state):
    plan = manifests.find_manifest(old_output).plan
    if state == "interrupted":
        interrupt_old(old_output, old_version)
    before = {path: path.read_bytes() for path in old_output.place.local.rglob("*") if path.is_file()}
    plan["corpus"]["on_bad_row"] = "keep_nulls"
    started = f"was started by an older version of this project \\(format {old_version}\\) with other settings: "
    with pytest.raises(
        UserError,
        match=started + "keep_text was True, is now False. Run encode with that version, or give another output.$",
    ):
        resume.begin(old_output, record_of(plan | {"keep_text": False}, "next"), [], lambda: None)
    with pytest.raises(UserError, match=started + "code was .*, or accept that with -P accept_changes=.code."):
        resume.check_plan(old_output.place, {"code": "new"}, [])
    assert (
        before.items()
        <= {path: path.read_bytes() for path in old_output.place.local.rglob("*.*") if path.is_file()}.items()
    )


def test_a_plan_of_an_unknown_version_is_refused(output):
    put_part(output, 0, table_of(0, 3))
    output.write_text(PLAN, '{"format_version": 6, "plan": {}, "runs": [], "ranges": null}')
    with pytest.raises(UserError, match="has format 6, this version of the project reads formats 2 to 5"):
        manifests.read_plan(output)


@pytest.mark.parametrize("content", ["{", "3", '{"plan": {}, "runs": []}', '{"plan": 3, "runs": [], "ranges": null}'])
def test_a_plan_that_is_damaged_is_none(output, content):
    output.write_text(PLAN, content)
    assert manifests.read_plan(output) is None


# outputs that may be taken


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        verify.check_output(files.locate(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_output_folder_is_made_with_its_parents(tmp_path):
    verify.check_output(files.locate(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_an_output_that_encode_has_begun_or_finished_is_taken(output):
    output.write_text(PLAN, "{}")
    verify.check_output(output.place)
    finish(output, put_part(output, 0, table_of(0, 3)))
    verify.check_output(output.place)


def test_an_output_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    for name in "abcde":
        (tmp_path / name).write_text("")
    assert "already holds a, b, c and 2 more; expected a folder that is new, empty or an output of encode" in refusal(
        tmp_path
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == list("abcde")


def test_a_hidden_file_counts_as_something(tmp_path):
    (tmp_path / ".keep").write_text("")
    assert "already holds .keep" in refusal(tmp_path)


def test_parts_without_plan_or_manifest_are_something_else(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"")
    assert "already holds part-00000.parquet" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "an app"}'])
def test_the_manifest_of_something_else_is_left_alone(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert "already holds manifest.json" in refusal(tmp_path)
    (tmp_path / "part-00000.parquet").write_bytes(b"")
    (tmp_path / "index.html").write_text("")
    assert "already holds index.html" in refusal(tmp_path)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be" in refusal(tmp_path / "file" / "out")


def test_a_file_of_the_manifest_is_a_file():
    part = Part("a.npy", 0, 1, 1, 2, "x", {}, {}, [File("a.ids.parquet", 3, "y")])
    assert part.files == [File("a.npy", 2, "x"), File("a.ids.parquet", 3, "y")]
