"""Files that cannot be read, or hold nothing: refused with the file, the line, and what to do."""

import gzip
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus, refusal_of, texts_of
from helpers.corpus_files import put, put_jsonl, put_parquet, write_as

from steps.common.errors import UserError


def test_two_columns_of_the_wanted_name_are_refused(tmp_path):
    assert "2 columns named 'text'" in refusal_of(put(tmp_path / "c.csv", "text,text\na,b\n"))


@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_an_empty_file_is_refused_with_its_path(tmp_path, ending):
    path = put(tmp_path / f"c{ending}", b"")
    message = refusal_of(path)
    assert str(path) in message


@pytest.mark.parametrize("content", ["id,text\n", "id,text", "\ufeffid,text\r\n"])
def test_a_csv_of_its_header_alone_is_an_empty_corpus(tmp_path, content):
    assert "empty" in refusal_of(put(tmp_path / "c.csv", content))


def test_a_parquet_file_without_rows_is_an_empty_corpus(tmp_path):
    assert "empty" in refusal_of(put_parquet(tmp_path / "c.parquet", text=pa.array([], pa.string())))


def test_an_empty_file_among_others_adds_no_row(tmp_path):
    put(tmp_path / "a.txt", "")
    put(tmp_path / "b.txt", "b\n")
    assert texts_of(tmp_path) == ["b"]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_column_lists_the_columns_there_are(tmp_path, format):
    message = refusal_of(write_as(format, tmp_path / "c", ["a"]), format=format, text_column="body")
    assert "'body'" in message and "'n', 'text'" in message and "corpus.text_column=" in message


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_id_column_says_which_key_names_it(tmp_path, format):
    message = refusal_of(write_as(format, tmp_path / "c", ["a"]), format=format, id_column="key")
    assert "'key'" in message and "'n', 'text'" in message and "id_column" in message


def test_a_column_missing_in_a_later_file_names_that_file(tmp_path):
    put(tmp_path / "a.csv", "text\na\n")
    path = put(tmp_path / "b.csv", "body\nb\n")
    assert str(path) in refusal_of(tmp_path)


@pytest.mark.parametrize(("row", "found"), [("2", 1), ("2,b,c", 3)])
def test_a_ragged_csv_row_is_refused_with_file_and_line(tmp_path, row, found):
    path = put(tmp_path / "c.csv", f"id,text\n1,a\n{row}\n")
    message = refusal_of(path)
    assert f"{path} line 3" in message and "expected 2 columns (id, text)" in message and f"found {found}" in message


def test_the_line_of_a_ragged_row_counts_newlines_inside_cells(tmp_path):
    path = put(tmp_path / "c.csv", 'id,text\n1,"a\nb"\n2\n')
    assert f"{path} line 4" in refusal_of(path)


@pytest.mark.parametrize("line", ['{"text": "b"', "not json", "{'text': 'b'}", '{"text": "b"} {"text": "c"}'])
def test_a_broken_json_line_is_refused_with_file_and_line(tmp_path, line):
    path = put(tmp_path / "c.jsonl", f'{{"text": "a"}}\n{line}\n')
    assert f"{path} line 2" in refusal_of(path)


@pytest.mark.parametrize("line", ['"text"', "[1, 2]", "3", "null"])
def test_a_json_line_that_is_no_object_is_refused_with_file_and_line(tmp_path, line):
    path = put(tmp_path / "c.jsonl", f'{{"text": "a"}}\n{line}\n')
    message = refusal_of(path)
    assert f"{path} line 2" in message and "expected a JSON object" in message


def test_a_json_line_nested_beyond_measure_is_refused_with_file_and_line(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert f"{path} line 1" in refusal_of(path)


def test_a_json_number_too_long_for_python_is_refused_with_file_and_line(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n")
    assert f"{path} line 1" in refusal_of(path)


@pytest.mark.parametrize("text", [3, 1.5, True, ["a"], {"a": "b"}])
def test_a_json_text_that_is_no_string_is_refused_with_file_and_line(tmp_path, text):
    path = put_jsonl(tmp_path / "c.jsonl", {"text": "a"}, {"text": text})
    message = refusal_of(path)
    assert f"{path} line 2" in message and type(text).__name__ in message


@pytest.mark.parametrize("column", [[1, 2], [1.5, 2.5], [True, False], [b"a", b"b"], [["a"], ["b"]]])
def test_a_parquet_column_of_anything_but_strings_is_refused(tmp_path, column):
    path = put_parquet(tmp_path / "c.parquet", text=column)
    message = refusal_of(path)
    assert str(path) in message and "expected strings" in message and "corpus.text_column=" in message


def test_a_parquet_file_cut_short_is_refused_with_its_path(tmp_path):
    path = put_parquet(tmp_path / "c.parquet", text=[f"text {i}" for i in range(1000)])
    put(path, path.read_bytes()[:-100])
    assert str(path) in refusal_of(path)


def test_a_parquet_file_damaged_in_the_middle_is_refused_with_its_path(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(
        pa.table({"text": [f"text number {i}" for i in range(5000)]}), path, compression="zstd", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[50:2000] = bytes(1950)
    put(path, bytes(content))
    assert str(path) in refusal_of(path)


def test_a_file_that_is_no_parquet_at_all_is_refused(tmp_path):
    path = put(tmp_path / "c.parquet", "id,text\n1,a\n")
    assert f"{path} is damaged, or is not a parquet file: Parquet magic bytes not found" in refusal_of(path)


def test_a_bad_line_at_the_end_is_found_when_the_corpus_is_opened(tmp_path):
    path = put(tmp_path / "c.txt", b"fine\n" * 20_000 + b"\xff\n")
    with pytest.raises(UserError, match="line 20001"):
        open_corpus(path)


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file that exists and cannot be read, whoever asks"
)
def test_a_file_that_cannot_be_read_is_refused_with_its_path():
    assert "/proc/self/mem" in refusal_of("/proc/self/mem", format="text")


def test_a_json_array_is_told_from_json_lines(tmp_path):
    assert "jq -c '.[]'" in refusal_of(put(tmp_path / "c.json", '[{"text": "a"}]'))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("c.jsonl", "jq -c '.[]' DIR/c.jsonl > DIR/lines-c.jsonl"),
        ("c.json", "jq -c '.[]' DIR/c.json > DIR/lines-c.json"),
        ("c.jsonl.gz", "gzip -dc DIR/c.jsonl.gz | jq -c '.[]' > DIR/lines-c.jsonl"),
        ("my c.jsonl", "jq -c '.[]' 'DIR/my c.jsonl' > 'DIR/lines-my c.jsonl'"),
    ],
)
def test_the_command_that_converts_an_array_writes_to_another_file(tmp_path, name, command):
    content = b'[{"text": "a"}]'
    path = put(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert refusal_of(path).endswith(command.replace("DIR", str(tmp_path)))


EXCEL = "Excel files are not read. Save the sheet as CSV (UTF-8)."
ARCHIVE = "a zip archive is not read. Unpack it first."


@pytest.mark.parametrize("name", ["c.xlsx", "c.XLS", "c.csv", "c.jsonl", "c.txt"])
def test_a_workbook_of_excel_is_told_from_a_corpus(tmp_path, name):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as book:
        book.writestr("[Content_Types].xml", "<Types/>")
        book.writestr("xl/workbook.xml", "<workbook/>")
    for content in (sink.getvalue(), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 1000):
        path = put(tmp_path / name, content)
        assert refusal_of(path) == f"{path}: {EXCEL}"
        assert refusal_of(path, format="csv") == f"{path}: {EXCEL}"


@pytest.mark.parametrize("name", ["c.zip", "c.csv", "c.jsonl", "c.txt"])
def test_a_zip_archive_is_told_from_a_corpus(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("c.csv", "text\na\n")
    assert refusal_of(tmp_path / name) == f"{tmp_path / name}: {ARCHIVE}"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "wanted, key",
    [
        ({"text_column": "x"}, "corpus.text_column"),
        ({"id_column": "x"}, "corpus.id_column"),
        ({"keep_columns": ["x"]}, "corpus.keep_columns"),
        ({"template": "{x}"}, "corpus.template"),
    ],
)
def test_a_missing_column_names_the_key_of_the_corpus_that_asked_for_it(tmp_path, ending, wanted, key):
    path = tmp_path / f"c.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": ["a"]}), path)
    else:
        put(path, "text\na\n" if ending == "csv" else '{"text": "a"}\n')
    message = refusal_of(path, **wanted)
    assert message == f"{path} has no column 'x'; its columns are 'text'. Name the right one, with {key}=<name>."


def test_a_corpus_with_another_delimiter_is_told_its_own_key(tmp_path):
    path = put(tmp_path / "c.csv", "text;n\na;1\n")
    assert refusal_of(path).endswith("They look separated by ';': give corpus.delimiter=';'.")
