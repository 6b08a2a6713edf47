"""Files whose columns differ in type: one type that keeps every value exactly, or one line before anything is computed."""

import datetime
import decimal
import itertools
import json

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from helpers.errors import refusal

from steps.common.corpus.types import merge, why_not_parquet


def corpus_of(folder, *arrays):
    for number, array in enumerate(arrays):
        table = pa.table({"text": [f"{number} {i}" for i in range(len(array))], "n": array})
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


def opened(path, **options):
    return open_corpus(path, **(options or {"keep_columns": ["n"]}))


def kept(path, size=1000, **options):
    corpus = opened(path, **options)
    return pa.Table.from_batches(corpus.batches(size), corpus.schema)["id" if "id_column" in options else "n"]


def one(value, kind) -> pa.Array:
    return pa.array([value], kind)


FAR = datetime.datetime(2500, 1, 1)
DAY = datetime.date(2024, 2, 29)
EXACT = [
    (one(1, pa.int32()), one(2**40, pa.int64()), pa.int64()),
    (one(255, pa.uint8()), one(-1, pa.int8()), pa.int16()),
    (one(2**32 - 1, pa.uint32()), one(-1, pa.int8()), pa.int64()),
    (one(0.5, pa.float32()), one(0.1, pa.float64()), pa.float64()),
    (one(2**31 - 1, pa.int32()), one(0.1, pa.float64()), pa.float64()),
    (one(decimal.Decimal("1.5"), pa.decimal128(5, 1)), one(decimal.Decimal("0.001"), pa.decimal128(4, 3)),
     pa.decimal128(7, 3)),
    (one(2**63 - 1, pa.int64()), one(decimal.Decimal("0.01"), pa.decimal128(3, 2)), pa.decimal128(21, 2)),
    (one("a", pa.string()), one("b", pa.large_string()), pa.large_string()),
    (one(b"ab", pa.binary(2)), one(b"abc", pa.binary(3)), pa.binary()),
    (one(FAR, pa.timestamp("ms")), one(FAR, pa.timestamp("us")), pa.timestamp("us")),
    (one(5, pa.time32("ms")), one(7, pa.time64("ns")), pa.time64("ns")),
    (one([1], pa.list_(pa.int32())), one([2**40], pa.large_list(pa.int64())), pa.large_list(pa.int64())),
    (one([1, 2], pa.list_(pa.int8(), 2)), one([1, 2, 3], pa.list_(pa.int8(), 3)), pa.list_(pa.int8())),
    (one({"a": 1}, pa.struct({"a": pa.int32()})), one({"b": "x", "a": 2}, pa.struct({"b": pa.string(), "a": pa.int64()})),
     pa.struct({"a": pa.int64(), "b": pa.string()})),
    (one("x", pa.string()), one("y", pa.string()).dictionary_encode(), pa.string()),
    (pa.nulls(1), one(1.5, pa.float64()), pa.float64()),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second", "kind"), EXACT, ids=lambda value: str(getattr(value, "type", value)))
def test_values_of_files_that_differ_are_kept_exactly(tmp_path, first, second, kind):
    column = kept(corpus_of(tmp_path, first, second))
    assert column.type == kind
    expected = [first.to_pylist()[0], second.to_pylist()[0]]
    if pa.types.is_struct(kind):
        expected = [{name: value.get(name) for name in ("a", "b")} for value in expected]
    assert column.to_pylist() == expected
    # The order of the files decides nothing but the order of the fields of a struct.
    (tmp_path / "turned").mkdir()
    turned = kept(corpus_of(tmp_path / "turned", second, first))
    assert turned.to_pylist() == expected[::-1]


def test_duckdb_and_pandas_find_the_same_values_in_files_of_several_widths(tmp_path):
    path = corpus_of(tmp_path, pa.array([1, -(2**31)], pa.int32()), pa.array([2**62 + 1], pa.int64()))
    found = kept(path).to_pylist()
    union = duckdb.sql(f"select n from read_parquet('{path}/*.parquet', union_by_name=true) order by filename, text")
    assert found == [row[0] for row in union.fetchall()]
    assert found == pandas.concat([pandas.read_parquet(file) for file in sorted(path.iterdir())])["n"].tolist()


INEXACT = [
    (one(2**53 + 1, pa.int64()), one(0.5, pa.float64())),
    (one(decimal.Decimal("0.10"), pa.decimal128(5, 2)), one(0.5, pa.float64())),
    (one(2**64 - 1, pa.uint64()), one(-1, pa.int64())),
    (one("a", pa.string()), one(b"a", pa.binary())),
    (one(1, pa.int64()), one("1", pa.string())),
    (one(True, pa.bool_()), one(1, pa.int8())),
    (one(FAR, pa.timestamp("us")), one(FAR, pa.timestamp("us", "UTC"))),
    (one(FAR, pa.timestamp("us", "Europe/Berlin")), one(FAR, pa.timestamp("us", "UTC"))),
    (one(DAY, pa.date32()), one(FAR, pa.timestamp("us"))),
    (one([1], pa.list_(pa.int64())), one([0.5], pa.list_(pa.float64()))),
    (one({"a": 1}, pa.struct({"a": pa.int64()})), one({"a": "x"}, pa.struct({"a": pa.string()}))),
    (one(decimal.Decimal(1), pa.decimal256(76, 0)), one(decimal.Decimal("0.1"), pa.decimal256(76, 70))),
]


@pytest.mark.parametrize("options", [{"keep_columns": ["n"]}, {"id_column": "n"}])
@pytest.mark.parametrize(("first", "second"), INEXACT, ids=lambda value: str(value.type))
def test_types_that_no_type_keeps_exactly_are_refused_with_a_file_of_each(tmp_path, first, second, options):
    message = refusal(opened, corpus_of(tmp_path, first, second), **options)
    assert "column 'n' is" in message and next(iter(options)) in message
    for number, kind in enumerate((first.type, second.type)):
        assert f"{kind} in {tmp_path / str(number)}.parquet".replace("<item", "<element") in message


def test_a_third_file_does_not_reconcile_two(tmp_path):
    columns = [one(1, pa.uint64()), one(decimal.Decimal("0.1"), pa.decimal128(5, 1)), one(-1, pa.int64())]
    for order in itertools.permutations(columns):
        assert "uint64" in refusal(opened, corpus_of(tmp_path, *order))


@pytest.mark.parametrize(
    ("first", "second"),
    [(one(1, pa.int32()), one(1.0, pa.float64())), (one(1, pa.int64()), one(decimal.Decimal(1), pa.decimal128(9, 0)))],
    ids=["float", "decimal"],
)
def test_ids_are_not_turned_into_another_kind_of_number(tmp_path, first, second):
    assert kept(corpus_of(tmp_path, first, second)).to_pylist() == [1, 1]
    assert "column 'n' is" in refusal(opened, tmp_path, id_column="n")


def test_a_time_too_far_for_the_finer_unit_is_found_when_the_corpus_is_opened(tmp_path):
    corpus_of(tmp_path, one(FAR, pa.timestamp("ms")), one(datetime.datetime(2024, 2, 29), pa.timestamp("ns")))
    message = refusal(opened, tmp_path)
    assert str(tmp_path / "0.parquet") in message and "timestamp[ns]" in message


KINDS = [
    pa.null(), pa.bool_(), pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64(), pa.float16(),
    pa.float32(), pa.float64(), pa.decimal128(5, 2), pa.decimal128(38, 0), pa.decimal256(60, 5), pa.string(),
    pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary(4), pa.binary_view(), pa.date32(),
    pa.date64(), pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.time32("s"), pa.time64("ns"),
    pa.duration("s"), pa.duration("ms"), pa.list_(pa.int8()), pa.list_(pa.int32(), 2), pa.large_list(pa.float32()),
    pa.map_(pa.string(), pa.int8()), pa.map_(pa.large_string(), pa.int32()), pa.struct({"a": pa.int8()}), pa.uuid(),
    pa.struct({"a": pa.int32(), "b": pa.list_(pa.int8())}), pa.dictionary(pa.int8(), pa.string()),
]  # fmt: skip


def test_whatever_is_merged_can_be_cast_and_stored_whichever_comes_first():
    for a, b in itertools.combinations(KINDS, 2):
        kind = merge(a, b)
        assert kind == merge(b, a), (a, b)
        if kind is not None:
            assert merge(kind, a) == kind == merge(kind, b), (a, b, kind)
            assert why_not_parquet(kind) is None, (a, b, kind)
            for side in (a, b):
                assert pa.nulls(2, side).cast(kind).type == kind


# what Parquet cannot hold

UNFIT = [
    pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
    pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x"])),
    pa.array([[(1, 2, 3)]], pa.list_(pa.month_day_nano_interval())),
    pa.array([{"a": (1, 2, 3)}], pa.struct({"a": pa.month_day_nano_interval()})),
    pa.array([decimal.Decimal(100)], pa.decimal128(5, -2)),
]


@pytest.mark.parametrize("options", [{"keep_columns": ["n"]}, {"id_column": "n"}])
@pytest.mark.parametrize("values", UNFIT, ids=lambda values: str(values.type))
def test_what_parquet_cannot_hold_is_refused_when_the_corpus_is_opened(tmp_path, values, options):
    table = pa.table({"text": ["a"], "n": values})
    with pa.ipc.new_file(str(tmp_path / "c.arrow"), table.schema) as writer:
        writer.write_table(table)
    message = refusal(opened, tmp_path / "c.arrow", **options)
    assert f"column 'n' is {values.type}" in message and "Parquet cannot hold" in message
    assert next(iter(options)) in message


PAIRS = pa.list_(pa.float32(), 2)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1, 2], None, [3, 4]], PAIRS),
        pa.array([{"v": [1, 2]}, None, {"v": None}], pa.struct({"v": PAIRS})),
        pa.array([[[1, 2], None], None, []], pa.list_(PAIRS)),
        pa.array([[], None, []], pa.list_(pa.int8(), 0)),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2], None, [3, 4]], PAIRS)
        ),
    ],
    ids=lambda values: str(values.type),
)
@pytest.mark.parametrize("size", [1, 1000])
def test_fixed_size_lists_with_nulls_can_be_read_back_from_what_is_written(tmp_path, values, size):
    table = pa.table({"text": ["a", "b", "c"], "n": values})
    with pa.ipc.new_file(str(tmp_path / "c.arrow"), table.schema) as writer:
        writer.write_table(table, 1)
    column = kept(tmp_path / "c.arrow", size)
    pq.write_table(pa.table({"n": column}), tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["n"].to_pylist()
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    assert found == storage.to_pylist()


STRICT = pa.struct([pa.field("a", pa.int64(), nullable=False)])
TENSOR = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2]], PAIRS))
NOTHING = pa.nulls(1)


@pytest.mark.parametrize(
    ("arrays", "values"),
    [
        ([one([1, 2], PAIRS), NOTHING], [[1, 2], None]),
        ([one({"v": [1, 2]}, pa.struct({"v": PAIRS})), one({"w": 1}, pa.struct({"w": pa.int8()}))],
         [{"v": [1, 2], "w": None}, {"v": None, "w": 1}]),
        ([one({"v": [1, 2]}, pa.struct({"v": PAIRS})), NOTHING], [{"v": [1, 2]}, None]),
        ([one([[1, 2]], pa.list_(PAIRS)), one([None], pa.list_(pa.null()))], [[[1, 2]], [None]]),
        ([TENSOR, NOTHING], [[1, 2], None]),
        ([one({"a": 1}, STRICT), NOTHING], [{"a": 1}, None]),
        ([one({"s": {"a": 1}}, pa.struct({"s": STRICT})), one({"b": 1}, pa.struct({"b": pa.int8()}))],
         [{"s": {"a": 1}, "b": None}, {"s": None, "b": 1}]),
        ([pa.array([{"a": 1}, None], STRICT)], [{"a": 1}, None]),
    ],
)  # fmt: skip
def test_nulls_that_only_other_files_bring_can_be_read_back_from_what_is_written(tmp_path, arrays, values):
    for number, array in enumerate(arrays):
        with pa.ipc.new_file(
            str(tmp_path / f"{number}.arrow"), pa.schema({"text": pa.string(), "n": array.type})
        ) as to:
            to.write_table(pa.table({"text": ["a"] * len(array), "n": array}))
    column = kept(tmp_path)
    pq.write_table(pa.table({"n": column}), tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == values


@pytest.mark.parametrize("view", [pa.list_view, pa.large_list_view], ids=["view", "large view"])
@pytest.mark.parametrize(
    "other", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)], ids=["list", "large list", "fixed list"]
)
@pytest.mark.parametrize(
    "inside",
    [lambda kind: kind, pa.list_, pa.list_view, lambda kind: pa.struct({"a": kind})],
    ids=["alone", "in a list", "in a view", "in a struct"],
)
def test_list_views_keep_their_values_beside_other_lists(tmp_path, view, other, inside):
    def within(values, kind):
        if pa.types.is_struct(kind):
            return [{"a": value} for value in values]
        return values if pa.types.is_integer(kind.value_type) else [[value, value] for value in values]

    kinds = [inside(view(pa.int64())), inside(other(pa.int64()))]
    rows = [within([[1, 3], [2, 5], None, []], kinds[0]), within([[7, 8]], kinds[1])]
    for number, (values, kind) in enumerate(zip(rows, kinds)):
        table = pa.table({"text": ["a"] * len(values), "n": pa.array(values, kind)})
        with pa.ipc.new_file(str(tmp_path / f"{number}.arrow"), table.schema) as writer:
            writer.write_table(table)
    for size in (1, 3, 1000):
        assert kept(tmp_path, size).to_pylist() == rows[0] + rows[1]


def test_list_views_in_a_map_are_refused(tmp_path):
    table = pa.table({"text": ["a"], "n": one([("k", [1])], pa.map_(pa.string(), pa.list_view(pa.int64())))})
    with pa.ipc.new_file(str(tmp_path / "c.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert "list views in a map" in refusal(opened, tmp_path / "c.arrow")


@pytest.mark.parametrize(
    "inside",
    [lambda kind: kind, pa.list_, lambda kind: pa.struct({"a": kind})],
    ids=["alone", "in a list", "in a struct"],
)
def test_a_time_in_seconds_that_parquet_cannot_hold_is_found_when_the_corpus_is_opened(tmp_path, inside):
    kind = inside(pa.timestamp("s"))
    for seconds, name in ((2**62, "far"), (60, "near")):
        value = pa.array([seconds], pa.timestamp("s"))
        if pa.types.is_struct(kind):
            value = pa.StructArray.from_arrays([value], fields=list(kind))
        elif pa.types.is_list(kind):
            value = pa.ListArray.from_arrays([0, 1], value)
        with pa.ipc.new_file(str(tmp_path / f"{name}.arrow"), pa.schema({"text": pa.string(), "n": kind})) as writer:
            writer.write_table(pa.table({"text": ["a"], "n": value}))
    assert "far.arrow" in refusal(opened, tmp_path / "far.arrow")
    assert kept(tmp_path / "near.arrow").type == inside(pa.timestamp("ms"))


# JSON Lines, whose types are those of its values

FILLER = 8192


def json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def orders(*values):
    """The values beside each other, and with a batch's worth of the first between them, both ways round."""
    for some in (values, values[::-1]):
        yield list(some)
        yield [some[0]] * FILLER + list(some[1:])


@pytest.mark.parametrize("values", [(1, 1.5), (1, 1.0), ("1", 1), (True, 1), (1.5, True)])
def test_json_ids_of_two_types_are_refused_however_many_rows_and_in_any_order(tmp_path, values):
    for some in orders(*values):
        path = json_lines(tmp_path / "c.jsonl", ({"text": "a", "n": value} for value in some))
        assert "column 'n'" in refusal(opened, path, id_column="n")


@pytest.mark.parametrize(
    "values",
    [(1.5, True), ({"a": 1.5}, {"a": True}), ([1.5], [True]), (2**53 + 1, 0.5), ([2**53 + 1], [0.5]), (1, "x")],
)
def test_json_values_that_share_no_type_are_refused_however_many_rows_and_in_any_order(tmp_path, values):
    for some in orders(*values):
        path = json_lines(tmp_path / "c.jsonl", ({"text": "a", "n": value} for value in some))
        assert "column 'n'" in refusal(opened, path)


@pytest.mark.parametrize(
    "values",
    [(1, 1.5), (2**53, 0.5), ({"a": 1}, {"b": 0.5, "a": 1.5}), ({"a": 1}, {}), (None, [1]), ([], [{"a": [1.5]}]),
     ([{}], [{"a": 1}]), (2**62, 1)],
)  # fmt: skip
def test_json_values_are_kept_however_many_rows_and_in_any_order(tmp_path, values):
    kinds = set()
    for some in orders(*values):
        path = json_lines(tmp_path / "c.jsonl", ({"text": "a", "n": value} for value in some))
        for size in (1000, FILLER):
            column = kept(path, size)
            # The fields of a struct stand in the order in which they came.
            kinds.add("".join(sorted(str(column.type))))
            assert [without_null(value) for value in column.to_pylist()] == [without_null(value) for value in some]
    assert len(kinds) == 1


def without_null(value):
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def test_an_empty_object_far_down_is_an_object(tmp_path):
    path = json_lines(tmp_path / "c.jsonl", [{"text": "a", "n": {"k": 1}}] * FILLER + [{"text": "b", "n": {}}])
    assert kept(path)[-1].as_py() == {"k": None}
    nothing = json_lines(tmp_path / "d.jsonl", [{"text": "a", "n": {}}] * (FILLER + 1))
    assert "holds only empty objects, which Parquet cannot store" in refusal(opened, nothing)


@pytest.mark.parametrize("depth", [101, 250, 400, 900])
def test_values_nested_too_deeply_for_parquet_are_refused_with_file_and_line(tmp_path, depth):
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a", "n": ' + "[" * 100 + "]" * 100 + "}\n")
    assert len(kept(path)) == 1
    path.write_text('{"text": "a", "n": ' + "[" * depth + "]" * depth + "}\n")
    message = refusal(opened, path)
    assert f"{path} line 1" in message and "deep" in message and len(message) < 500


def test_a_long_type_is_cut_in_the_error(tmp_path):
    objects = ({f"key {i} of many": value for i in range(100)} for value in (1, "x"))
    for name, value in zip("ab", objects):
        json_lines(tmp_path / f"{name}.jsonl", [{"text": "a", "n": value}])
    assert len(refusal(opened, tmp_path)) < 1200
