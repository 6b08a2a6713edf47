"""Quotes and delimiters of CSV and TSV."""

import csv

import duckdb
import pandas
import pytest
from helpers.corpora import refusal_of, table_of, texts_of
from helpers.corpus_files import put, write_as


def test_quotes_delimiters_and_newlines_inside_csv_cells_are_kept(tmp_path):
    texts = ["two\nlines", 'a "quoted" word', "comma, tab\t", '"', "\n", "one\n\ntwo"]
    assert texts_of(write_as("csv", tmp_path / "c", texts), format="csv") == texts


def test_quotes_and_delimiters_inside_tsv_cells_are_kept(tmp_path):
    texts = ['a "quoted" word', "comma, tab\t", '"']
    assert texts_of(write_as("tsv", tmp_path / "c", texts), format="tsv") == texts


def test_a_stray_quote_in_a_tsv_file_does_not_swallow_rows(tmp_path):
    path = put(tmp_path / "c.tsv", 'text\tn\nx\t1\n"Hello\t2\nworld"\t3\n')
    assert f"{path} line 3: a cell that starts with a quote runs over several lines" in refusal_of(path)


def test_a_quote_that_is_never_closed_is_refused_with_the_file(tmp_path):
    path = put(tmp_path / "c.csv", 'id,text\n1,"a\n2,b\n')
    assert str(path) in refusal_of(path)


def test_a_quote_that_swallows_rows_stops_the_run_whatever_is_asked(tmp_path):
    path = put(tmp_path / "c.csv", 'id,text\n1,"a\n2,b\n3,"c"\n')
    assert "line 2" in refusal_of(path, on_bad_row="keep_all")


@pytest.mark.parametrize(
    ("ending", "delimiter", "typed"),
    [("csv", ";", "';'"), ("csv", "|", "'|'"), ("csv", "\t", "tab"), ("tsv", ",", "','"), ("tsv", ";", "';'")],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_another_delimiter_is_guessed_in_the_error_and_can_be_given(tmp_path, ending, delimiter, typed, quote):
    rows = [["id", "text"], ["1", "one"], ["2", "two"]]
    content = "".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) + "\n" for row in rows)
    path = put(tmp_path / f"c.{ending}", content)
    assert f"corpus.delimiter={typed}" in refusal_of(path)
    table = table_of(path, id_column="id", delimiter=typed.strip("'"))
    assert table.select(["id", "text"]).to_pylist() == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    assert table["text"].to_pylist() == pandas.read_csv(path, sep=delimiter)["text"].tolist()


def test_no_delimiter_is_guessed_for_a_wrong_name(tmp_path):
    assert "corpus.delimiter" not in refusal_of(put(tmp_path / "c.csv", "a;b,body\n1,2\n"))


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused(tmp_path, delimiter):
    assert "expected one character" in refusal_of(put(tmp_path / "c.csv", "text\na\n"), delimiter=delimiter)


@pytest.mark.parametrize("options", [{"delimiter": ";"}, {"quoting": "none"}])
def test_formats_without_cells_have_no_delimiter_and_no_quotes(tmp_path, options):
    assert "is for CSV and TSV, but the corpus is text" in refusal_of(put(tmp_path / "c.txt", "a\n"), **options)


def test_tsv_whose_cells_hold_quotes_is_read_without_quoting_as_pandas_and_duckdb_read_it(tmp_path):
    texts = ['"Hello" she said', '"quoted"', 'he said "no', '"', 'a ""b"" c', "5' 3\"", "'single'", "back\\slash"]
    path = put(tmp_path / "c.tsv", "n\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    assert "corpus.quoting=none" in refusal_of(path)
    found = texts_of(path, quoting="none")
    assert found == texts
    assert found == pandas.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE)["text"].tolist()
    options = "delim='\\t', quote='', escape='', header=true, all_varchar=true"
    assert found == [row[0] for row in duckdb.sql(f"select text from read_csv('{path}', {options})").fetchall()]


def test_tsv_written_by_a_csv_writer_is_read_with_its_quotes(tmp_path):
    texts = ["tab\there", '"quoted"', "plain"]
    with (tmp_path / "c.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["text"], *([text] for text in texts)])
    assert texts_of(tmp_path / "c.tsv") == texts == pandas.read_csv(tmp_path / "c.tsv", sep="\t")["text"].tolist()


def test_a_quote_that_swallows_rows_names_the_key_that_takes_quotes_as_they_are(tmp_path):
    for ending, delimiter in (("tsv", "\t"), ("csv", ",")):
        path = put(tmp_path / f"c.{ending}", f'id{delimiter}text\n1{delimiter}"a\n2{delimiter}b\n')
        assert "corpus.quoting=none" in refusal_of(path)
        assert texts_of(path, quoting="none") == ['"a', "b"]
