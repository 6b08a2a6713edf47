"""Null, empty and blank: which of them is a row, and which a null text."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus, read, texts_of
from helpers.corpus_files import put, put_jsonl, put_parquet, write_as


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_null_text_stays_null_and_keeps_its_row(tmp_path, format):
    path = write_as(format, tmp_path / f"c.{format}", ["a", None, "b"])
    assert texts_of(path) == ["a", None, "b"]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_null_texts_are_counted_when_the_corpus_is_opened(tmp_path, format):
    write_as(format, tmp_path / "a", ["a", None, None])
    write_as(format, tmp_path / "b", ["b", None])
    corpus = open_corpus(tmp_path, format=format)
    assert [source.null_rows for source in corpus.sources] == [2, 1]
    assert corpus.null_rows == 3


def test_null_texts_are_counted_in_parquet_without_statistics_beside_nested_columns(tmp_path):
    table = pa.table(
        {"meta": [{"text": "x", "n": [1, 2]}, None, None, {"text": None, "n": None}], "text": ["a", None, "b", "c"]}
    )
    for statistics in (True, False):
        pq.write_table(table, tmp_path / "c.parquet", write_statistics=statistics, row_group_size=2)
        corpus = open_corpus(tmp_path / "c.parquet")
        assert corpus.null_rows == 1
        assert read(corpus).column("text").to_pylist() == ["a", None, "b", "c"]


def test_an_empty_text_is_not_a_null_text(tmp_path):
    assert open_corpus(put(tmp_path / "c.csv", "id,text\n1,\n")).null_rows == 0


def test_a_text_key_left_out_of_a_later_json_object_is_null(tmp_path):
    assert texts_of(put_jsonl(tmp_path / "c.jsonl", {"text": "a"}, {"other": 1})) == ["a", None]


def test_a_parquet_column_of_nothing_but_null_is_null(tmp_path):
    assert texts_of(put_parquet(tmp_path / "c.parquet", text=pa.nulls(3))) == [None] * 3


def test_an_empty_csv_cell_is_an_empty_text(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", 'id,text\n1,\n2,""\n')) == ["", ""]


def test_an_empty_line_of_a_text_file_is_an_empty_text(tmp_path):
    assert texts_of(put(tmp_path / "c.txt", "a\n\nb\n")) == ["a", "", "b"]


def test_blank_lines_between_json_objects_are_no_rows(tmp_path):
    assert texts_of(put(tmp_path / "c.jsonl", '{"text": "a"}\n\n  \n{"text": "b"}\n')) == ["a", "b"]


def test_blank_lines_between_csv_records_are_no_rows(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", "id,text\n1,a\n\n2,b\n")) == ["a", "b"]


def test_an_empty_row_of_a_csv_with_one_column_is_not_dropped(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", 'text\na\n""\nb\n')) == ["a", "", "b"]
