"""Vectors -> Parquet parts and a manifest, and nothing half done left behind."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.common import shards
from steps.common.errors import UserError
from steps.common.shards import PartWriter, embedding_column, embedding_schema, prepare_output, write_manifest

ALL = np.ones(3, bool)


def schema_of(dtype="float32", keep_text=True, nulls=False, id_type=None, dim=2):
    return embedding_schema(id_type or pa.int64(), dim, dtype, keep_text=keep_text, nulls=nulls)


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


def write_all(folder, *tables, rows_per_part=100, **options):
    with PartWriter(folder, tables[0].schema, rows_per_part, **options) as writer:
        for table in tables:
            writer.write(table)
    return writer.parts


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        prepare_output(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_parts_are_numbered_and_filled_to_rows_per_part(tmp_path):
    parts = write_all(tmp_path, table_of(0, 7), rows_per_part=3)
    assert names_in(tmp_path) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert [(part.first_row, part.rows) for part in parts] == [(0, 3), (3, 3), (6, 1)]
    assert [part.name for part in parts] == names_in(tmp_path)


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 7], [3, 4, 4, 1], [11, 1]])
@pytest.mark.parametrize("rows_per_part", [1, 3, 4, 12, 100])
def test_the_parts_in_name_order_are_the_rows_in_order_however_they_came(tmp_path, sizes, rows_per_part):
    starts = np.cumsum([0, *sizes])
    parts = write_all(
        tmp_path, *(table_of(start, size) for start, size in zip(starts, sizes)), rows_per_part=rows_per_part
    )
    read = pa.concat_tables([pq.read_table(tmp_path / name) for name in names_in(tmp_path)])
    assert read.combine_chunks() == table_of(0, 12)
    assert [part.rows for part in parts[:-1]] == [rows_per_part] * (len(parts) - 1)
    assert sum(part.rows for part in parts) == 12


def test_small_tables_share_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP", 4)
    write_all(tmp_path, *(table_of(i, 1) for i in range(10)))
    metadata = pq.ParquetFile(tmp_path / "part-00000.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 2]


def test_a_full_last_part_is_followed_by_no_empty_one(tmp_path):
    assert len(write_all(tmp_path, table_of(0, 6), rows_per_part=3)) == 2


def test_no_rows_make_no_part(tmp_path):
    assert write_all(tmp_path, table_of(0, 0)) == []
    assert names_in(tmp_path) == []


def test_size_and_digest_of_a_part_are_those_of_its_file(tmp_path):
    for part in write_all(tmp_path, table_of(0, 5), rows_per_part=2):
        content = (tmp_path / part.name).read_bytes()
        assert (part.bytes, part.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_same_rows_make_the_same_bytes(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (write_all(folder, table_of(0, 5)) for folder in folders)
    assert first == second


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("keep_text", [True, False])
def test_a_part_has_the_schema_it_was_given(tmp_path, dtype, keep_text, nulls):
    schema = schema_of(dtype, keep_text, nulls)
    write_all(tmp_path, table_of(0, 3, schema))
    read = pq.read_table(tmp_path / "part-00000.parquet")
    assert read.schema.names == schema.names
    assert read.schema.field("embedding").type == schema.field("embedding").type
    assert read.column("embedding").to_pylist() == [[0, 0], [1, -1], [2, -2]]


def test_null_embeddings_and_null_texts_survive_the_file(tmp_path):
    schema = schema_of(nulls=True)
    vectors = embedding_column(
        np.array([[1, 2]], np.float32), np.array([False, True, False]), schema.field("embedding").type
    )
    write_all(
        tmp_path,
        pa.table([pa.array([0, 1, 2]), pa.array([None, "b", None], pa.string()), vectors], schema=schema),
        rows_per_part=2,
    )
    read = pa.concat_tables([pq.read_table(tmp_path / name) for name in names_in(tmp_path)])
    assert read.column("embedding").to_pylist() == [None, [1, 2], None]
    assert read.column("text").to_pylist() == [None, "b", None]


def test_ids_that_are_strings_or_null_survive_the_file(tmp_path):
    schema = schema_of(id_type=pa.string(), keep_text=False)
    vectors = embedding_column(np.zeros((3, 2), np.float32), ALL, schema.field("embedding").type)
    write_all(tmp_path, pa.table([pa.array(["007", None, "ü"]), vectors], schema=schema))
    assert pq.read_table(tmp_path / "part-00000.parquet").column("id").to_pylist() == ["007", None, "ü"]


def test_float16_halves_the_embeddings_and_keeps_what_fits(tmp_path):
    schema = schema_of("float16", keep_text=False)
    vectors = np.array([[0.5, 1 / 3], [-0.25, 0]], np.float32)
    column = embedding_column(vectors, np.ones(2, bool), schema.field("embedding").type)
    write_all(tmp_path, pa.table([pa.array([0, 1]), column], schema=schema))
    read = np.array(pq.read_table(tmp_path / "part-00000.parquet").column("embedding").to_pylist())
    np.testing.assert_array_equal(read, vectors.astype(np.float16))


def test_on_part_hears_of_each_part_when_it_is_whole(tmp_path):
    heard = []

    def on_part(path):
        heard.append((path.name, pq.read_table(path).num_rows, names_in(tmp_path)))

    write_all(tmp_path, table_of(0, 5), rows_per_part=2, on_part=on_part)
    assert [(name, rows) for name, rows, _ in heard] == [
        ("part-00000.parquet", 2),
        ("part-00001.parquet", 2),
        ("part-00002.parquet", 1),
    ]
    assert not any(name.endswith(".tmp") for _, _, names in heard for name in names)


def test_on_part_may_move_the_part_away(tmp_path):
    parts = write_all(tmp_path, table_of(0, 5), rows_per_part=2, on_part=lambda path: path.unlink())
    assert names_in(tmp_path) == []
    assert [(part.name, part.first_row) for part in parts] == [
        ("part-00000.parquet", 0),
        ("part-00001.parquet", 2),
        ("part-00002.parquet", 4),
    ]


def test_a_part_that_is_not_whole_yet_has_only_a_hidden_temporary_name(tmp_path):
    with PartWriter(tmp_path, schema_of(), 10) as writer:
        writer.write(table_of(0, 3))
        assert [name.startswith(".") and name.endswith(".tmp") for name in names_in(tmp_path)] == [True]
        assert writer.parts == []
    assert names_in(tmp_path) == ["part-00000.parquet"]


def test_an_error_leaves_neither_the_unfinished_part_nor_its_temporary_file(tmp_path):
    with pytest.raises(RuntimeError, match="mid-way"), PartWriter(tmp_path, schema_of(), 2) as writer:
        writer.write(table_of(0, 3))
        raise RuntimeError("mid-way")
    assert names_in(tmp_path) == ["part-00000.parquet"]
    assert len(writer.parts) == 1


def test_an_error_before_any_row_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), PartWriter(tmp_path, schema_of(), 2):
        raise RuntimeError
    assert names_in(tmp_path) == []


def test_ctrl_c_leaves_no_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), PartWriter(tmp_path, schema_of(), 10) as writer:
        writer.write(table_of(0, 3))
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


def test_a_table_of_another_schema_raises_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), PartWriter(tmp_path, schema_of(), 10) as writer:
        writer.write(pa.table({"id": ["x"]}))
    assert names_in(tmp_path) == []


def test_an_error_in_on_part_is_not_swallowed_and_leaves_no_temporary_file(tmp_path):
    def on_part(path):
        raise OSError("store is full")

    with pytest.raises(OSError, match="store is full"):
        write_all(tmp_path, table_of(0, 5), rows_per_part=2, on_part=on_part)
    assert names_in(tmp_path) == ["part-00000.parquet"]


def test_an_error_while_a_part_is_made_whole_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("disk is full")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(OSError, match="disk is full"):
        write_all(tmp_path, table_of(0, 5), rows_per_part=2)
    assert names_in(tmp_path) == []


def test_a_disk_that_is_full_leaves_no_temporary_file(tmp_path, monkeypatch):
    class FullDisk(pq.ParquetWriter):
        def write_table(self, *args, **options):
            raise OSError("disk is full")

        def close(self):
            if self.is_open:
                super().close()
                raise OSError("disk is still full")

    monkeypatch.setattr(shards.pq, "ParquetWriter", FullDisk)
    with pytest.raises(OSError, match="disk is"):
        write_all(tmp_path, table_of(0, 5))
    assert names_in(tmp_path) == []


# the folder


def test_a_new_output_folder_is_made_with_its_parents(tmp_path):
    prepare_output(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_an_empty_output_folder_is_taken(tmp_path):
    prepare_output(tmp_path)


def test_an_output_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    for i in range(5):
        (tmp_path / f"part-0000{i}.parquet").write_text("kept")
    message = refusal(tmp_path)
    assert f"{tmp_path} already holds part-00000.parquet" in message and "and 2 more" in message
    assert len(names_in(tmp_path)) == 5


def test_a_hidden_file_counts_as_something(tmp_path):
    (tmp_path / ".part-00000.parquet.tmp").write_text("")
    assert ".part-00000.parquet.tmp" in refusal(tmp_path)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "f").write_text("")
    assert "is a file" in refusal(tmp_path / "f")


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "f").write_text("")
    assert str(tmp_path / "f" / "x") in refusal(tmp_path / "f" / "x")


# manifest


def test_the_manifest_lists_every_part_with_its_rows_and_digest(tmp_path):
    parts = write_all(tmp_path, table_of(0, 5), rows_per_part=2)
    path = write_manifest(tmp_path, parts, {"rows": 5})
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "manifest.json"
    assert (manifest["format_version"], manifest["rows"]) == (1, 5)
    assert [(part["name"], part["first_row"], part["rows"]) for part in manifest["parts"]] == [
        (part.name, part.first_row, part.rows) for part in parts
    ]
    for part in manifest["parts"]:
        content = (tmp_path / part["name"]).read_bytes()
        assert (part["bytes"], part["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_manifest_is_readable_text_whatever_the_letters(tmp_path):
    path = write_manifest(tmp_path, [], {"corpus": "Grüße/東京.csv"})
    assert "Grüße/東京.csv" in path.read_text(encoding="utf-8")


def test_the_manifest_leaves_no_temporary_file(tmp_path):
    write_manifest(tmp_path, [], {})
    assert names_in(tmp_path) == ["manifest.json"]


def test_a_manifest_that_cannot_be_written_leaves_no_manifest(tmp_path):
    with pytest.raises(TypeError):
        write_manifest(tmp_path, [], {"model": object()})
    assert "manifest.json" not in names_in(tmp_path)
