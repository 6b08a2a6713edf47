"""The ids of a corpus: rows counted, or a column of any format, and the type that files share."""

import pyarrow as pa
import pytest
from helpers.corpora import ids_of, open_corpus, read, refusal_of, table_of
from helpers.corpus_files import TEXTS, put, put_jsonl, put_parquet, write_as

from steps.common.corpus.texts import LINE, REASON
from steps.common.errors import UserError


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_an_integer_column_gives_integer_ids(tmp_path, format):
    corpus = open_corpus(write_as(format, tmp_path / "corpus", TEXTS), format=format, id_column="n")
    assert corpus.id_type == pa.int64()
    assert read(corpus).column("id").to_pylist() == list(range(len(TEXTS)))


def test_the_text_may_be_its_own_id(tmp_path):
    for format in ("csv", "jsonl", "parquet"):
        path = write_as(format, tmp_path / f"c.{format}", ["b", "a"])
        assert ids_of(path, id_column="text") == ["b", "a"]


@pytest.mark.parametrize("odd", ["007", "+7", "", "1.0", "99999999999999999999", "a", "1_000", "-0", "٣", " 1"])
def test_csv_ids_that_are_not_plain_numbers_stay_strings(tmp_path, odd):
    path = put(tmp_path / "c.csv", f"id,text\n8,t\n{odd},t\n")
    assert ids_of(path, id_column="id") == ["8", odd]


def test_negative_and_large_csv_ids_are_integers(tmp_path):
    path = put(tmp_path / "c.csv", "id,text\n-5,t\n0,t\n999999999999999999,t\n")
    assert ids_of(path, id_column="id") == [-5, 0, 999999999999999999]


def test_one_odd_id_far_down_makes_all_ids_strings(tmp_path):
    path = put(tmp_path / "c.csv", "id,text\n" + "".join(f"{i},t\n" for i in range(9000)) + "x9,t\n")
    ids = ids_of(path, id_column="id")
    assert ids[:2] == ["0", "1"]
    assert ids[-1] == "x9"


def test_json_string_ids_stay_strings_even_when_they_are_digits(tmp_path):
    path = put_jsonl(tmp_path / "c.jsonl", {"id": "1", "text": "a"}, {"id": "2", "text": "b"})
    assert ids_of(path, id_column="id") == ["1", "2"]


def test_a_json_id_that_is_null_or_left_out_is_null(tmp_path):
    path = put_jsonl(tmp_path / "c.jsonl", {"id": 5, "text": "a"}, {"id": None, "text": "b"}, {"text": "c"})
    assert ids_of(path, id_column="id") == [5, None, None]


def test_json_ids_of_several_types_in_one_file_are_refused_with_the_file(tmp_path):
    path = put_jsonl(tmp_path / "c.jsonl", {"id": 1, "text": "a"}, {"id": "x", "text": "b"})
    message = refusal_of(path, id_column="id")
    assert "'id'" in message and str(path) in message


def test_json_ids_that_change_type_far_down_are_refused_when_the_corpus_is_opened(tmp_path):
    records = [{"id": i, "text": "t"} for i in range(8192)] + [{"id": "last", "text": "t"}]
    path = put_jsonl(tmp_path / "c.jsonl", *records)
    with pytest.raises(UserError, match="c.jsonl"):
        open_corpus(path, id_column="id")


def test_json_ids_beyond_64_bits_are_refused_with_the_file(tmp_path):
    path = put_jsonl(tmp_path / "c.jsonl", {"id": 2**70, "text": "t"})
    assert str(path) in refusal_of(path, id_column="id")


def test_a_lone_surrogate_in_a_json_id_is_refused_with_the_file(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"id": "\\ud800", "text": "t"}\n')
    assert str(path) in refusal_of(path, id_column="id")


@pytest.mark.parametrize(
    "id_type", [pa.int32(), pa.uint64(), pa.string(), pa.large_string(), pa.timestamp("us"), pa.binary()]
)
def test_parquet_ids_keep_their_type(tmp_path, id_type):
    ids = pa.array([b"1", b"2"]) if id_type == pa.binary() else pa.array([1, 2], pa.int64()).cast(id_type)
    path = put_parquet(tmp_path / "c.parquet", text=["a", "b"], id=ids)
    corpus = open_corpus(path, id_column="id")
    assert corpus.id_type == id_type
    assert read(corpus).column("id").to_pylist() == ids.to_pylist()


def test_parquet_ids_of_a_dictionary_type_can_be_read(tmp_path):
    path = put_parquet(tmp_path / "c.parquet", text=["a", "b", "c"], id=pa.array(["x", "y", "x"]).dictionary_encode())
    assert ids_of(path, id_column="id") == ["x", "y", "x"]


def test_files_whose_ids_differ_in_type_share_string_ids(tmp_path):
    put(tmp_path / "a.csv", "id,text\n1,a\n")
    put(tmp_path / "b.csv", "id,text\nx,b\n")
    assert ids_of(tmp_path, id_column="id") == ["1", "x"]


def test_parquet_files_whose_integer_ids_differ_in_width_share_int64(tmp_path):
    put_parquet(tmp_path / "a.parquet", text=["a"], id=pa.array([1], pa.int32()))
    put_parquet(tmp_path / "b.parquet", text=["b"], id=pa.array([2], pa.int64()))
    assert ids_of(tmp_path, id_column="id") == [1, 2]


def test_parquet_files_whose_ids_cannot_share_a_type_are_refused_when_the_corpus_is_opened(tmp_path):
    put_parquet(tmp_path / "a.parquet", text=["a"], id=pa.array([[1, 2]]))
    put_parquet(tmp_path / "b.parquet", text=["b"], id=["x"])
    with pytest.raises(UserError):
        open_corpus(tmp_path, id_column="id")


def test_a_text_file_has_no_id_column(tmp_path):
    assert "corpus.id_column=id" in refusal_of(put(tmp_path / "c.txt", "a\n"), id_column="id")


def test_a_json_id_beyond_64_bits_or_not_flat_gives_file_and_line(tmp_path):
    assert "c.jsonl line 2" in refusal_of(
        put(tmp_path / "c.jsonl", '{"id": 1, "text": "a"}\n{"id": 99999999999999999999999, "text": "b"}\n'),
        id_column="id",
    )
    assert "d.jsonl line 1" in refusal_of(put(tmp_path / "d.jsonl", '{"id": {"a": 1}, "text": "a"}\n'), id_column="id")


def test_a_file_without_rows_does_not_decide_the_type_of_the_ids(tmp_path):
    put(tmp_path / "a.csv", "id,text\n")
    put(tmp_path / "b.csv", "id,text\n1,b\n")
    assert ids_of(tmp_path, id_column="id") == [1]


def test_ids_of_later_files_come_from_their_own_column(tmp_path):
    put(tmp_path / "a.csv", "id,text\n10,a\n")
    put(tmp_path / "b.csv", "text,id\nb,20\n")
    table = table_of(tmp_path, 1, id_column="id").drop_columns([LINE, REASON])
    assert table.to_pydict() == {"id": [10, 20], "text": ["a", "b"]}
