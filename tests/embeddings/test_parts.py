"""Parts of an output: their schema, their files, their names."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.outputs import ALL, put_part, schema_of, table_of

from steps.common.embeddings import parts as shards
from steps.common.embeddings.parts import NpyPart, ParquetPart, embedding_column

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
