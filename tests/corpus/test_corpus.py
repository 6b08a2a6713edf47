"""Files -> Arrow batches: every format, its ids, its odd cells and its broken lines."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus

from steps.common.corpus.opening import find_files
from steps.common.corpus.texts import LINE, REASON
from steps.common.errors import UserError

TEXTS = [
    "A plain sentence.",
    "",
    "Grüße aus Köln, 東京 и Москва 🚀",
    'She said "no", twice.',
    "tab\there",
    "  spaces kept  ",
]


def put(path, content: str | bytes):
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def put_jsonl(path, *records):
    return put(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def put_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def read(corpus, size=1000):
    """The columns of a corpus that are its own."""
    return pa.Table.from_batches(corpus.batches(size), corpus.schema).drop_columns([LINE, REASON])


def texts_of(path, **options):
    return read(open_corpus(path, **options)).column("text").to_pylist()


def ids_of(path, **options):
    return read(open_corpus(path, **options)).column("id").to_pylist()


def quoted(cell: str, delimiter: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in f'"{delimiter}\r\n') else cell


def write_as(format: str, path, texts):
    if format == "text":
        return put(path, "".join(f"{text}\n" for text in texts))
    if format in ("csv", "tsv"):
        delimiter = {"csv": ",", "tsv": "\t"}[format]
        return put(
            path,
            f"n{delimiter}text\n"
            + "".join(f"{i}{delimiter}{quoted(text, delimiter)}\n" for i, text in enumerate(texts)),
        )
    if format == "jsonl":
        return put_jsonl(path, *({"n": i, "text": text} for i, text in enumerate(texts)))
    return put_parquet(path, n=list(range(len(texts))), text=texts)


def refusal(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(open_corpus(path, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("format", "ending"),
    [
        ("text", ".txt"),
        ("text", ".text"),
        ("csv", ".csv"),
        ("tsv", ".tsv"),
        ("tsv", ".tab"),
        ("jsonl", ".jsonl"),
        ("jsonl", ".ndjson"),
        ("jsonl", ".json"),
        ("parquet", ".parquet"),
        ("parquet", ".pq"),
    ],
)
def test_a_format_is_read_as_it_was_written(tmp_path, format, ending):
    corpus = open_corpus(write_as(format, tmp_path / f"corpus{ending}", TEXTS))
    assert corpus.format.name == format
    assert corpus.rows == len(TEXTS)
    table = read(corpus)
    assert table.schema == pa.schema([("id", pa.int64()), ("text", pa.string())])
    assert table.column("id").to_pylist() == list(range(len(TEXTS)))
    assert table.column("text").to_pylist() == TEXTS


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl", "parquet"])
def test_a_given_format_overrules_the_ending(tmp_path, format):
    assert texts_of(write_as(format, tmp_path / "corpus.dat", TEXTS), format=format) == TEXTS


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_an_integer_column_gives_integer_ids(tmp_path, format):
    corpus = open_corpus(write_as(format, tmp_path / "corpus", TEXTS), format=format, id_column="n")
    assert corpus.id_type == pa.int64()
    assert read(corpus).column("id").to_pylist() == list(range(len(TEXTS)))


def test_an_ending_in_capitals_is_known(tmp_path):
    assert texts_of(put(tmp_path / "CORPUS.TXT", "a\nb\n")) == ["a", "b"]


def test_a_corpus_can_be_streamed_more_than_once(tmp_path):
    corpus = open_corpus(put(tmp_path / "c.txt", "a\nb\n"))
    assert read(corpus) == read(corpus)


def test_a_source_records_its_bytes_rows_and_digest(tmp_path):
    path = put(tmp_path / "c.txt", "a\nb\n")
    (source,) = open_corpus(path).sources
    assert (source.place.local, source.bytes, source.rows, source.null_rows) == (path, 4, 2, 0)
    assert source.sha256 == hashlib.sha256(b"a\nb\n").hexdigest()


def test_describe_is_plain_data_about_every_source(tmp_path):
    path = put(tmp_path / "c.csv", "id,text\n1,a\n")
    said = open_corpus(path, id_column="id").describe()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(json.dumps(said)) == {
        "format": "csv",
        "text_column": "text",
        "template": None,
        "id_column": "id",
        "keep_columns": [],
        "sources": [{"path": str(path), "bytes": 12, "rows": 1, "sha256": digest}],
    }


def test_another_text_column_can_be_named(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", "title,body\nx,y\n"), text_column="body") == ["y"]


def test_the_text_may_be_its_own_id(tmp_path):
    for format in ("csv", "jsonl", "parquet"):
        path = write_as(format, tmp_path / f"c.{format}", ["b", "a"])
        assert ids_of(path, id_column="text") == ["b", "a"]


# ids


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
    message = refusal(path, id_column="id")
    assert "'id'" in message and str(path) in message


def test_json_ids_that_change_type_far_down_are_refused_when_the_corpus_is_opened(tmp_path):
    records = [{"id": i, "text": "t"} for i in range(8192)] + [{"id": "last", "text": "t"}]
    path = put_jsonl(tmp_path / "c.jsonl", *records)
    with pytest.raises(UserError, match="c.jsonl"):
        open_corpus(path, id_column="id")


def test_json_ids_beyond_64_bits_are_refused_with_the_file(tmp_path):
    path = put_jsonl(tmp_path / "c.jsonl", {"id": 2**70, "text": "t"})
    assert str(path) in refusal(path, id_column="id")


def test_a_lone_surrogate_in_a_json_id_is_refused_with_the_file(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"id": "\\ud800", "text": "t"}\n')
    assert str(path) in refusal(path, id_column="id")


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
    assert "corpus.id_column=id" in refusal(put(tmp_path / "c.txt", "a\n"), id_column="id")


# null, empty, line ends, byte order mark, quotes


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


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_every_kind_of_parquet_string_is_text(tmp_path, kind):
    try:
        path = put_parquet(tmp_path / "c.parquet", text=pa.array(["a", None, "a"]).cast(kind))
    except pa.ArrowNotImplementedError:
        pytest.skip(f"this pyarrow cannot write {kind}")
    assert texts_of(path) == ["a", None, "a"]


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


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl"])
def test_a_last_line_without_an_end_is_a_row(tmp_path, format):
    path = write_as(format, tmp_path / "c", ["a", "b"])
    put(path, path.read_bytes().removesuffix(b"\n"))
    assert texts_of(path, format=format) == ["a", "b"]


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl"])
def test_windows_line_ends_are_no_part_of_the_text(tmp_path, format):
    path = write_as(format, tmp_path / "c", ["a", "b"])
    put(path, path.read_bytes().replace(b"\n", b"\r\n"))
    assert texts_of(path, format=format) == ["a", "b"]


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl"])
def test_a_byte_order_mark_is_dropped(tmp_path, format):
    path = write_as(format, tmp_path / "c", ["a", "b"])
    put(path, b"\xef\xbb\xbf" + path.read_bytes())
    assert texts_of(path, format=format) == ["a", "b"]


def test_a_byte_order_mark_hides_no_first_column(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", b"\xef\xbb\xbftext,n\na,1\n")) == ["a"]


def test_only_the_newline_separates_the_lines_of_a_text_file(tmp_path):
    line = "a\u2028b\u0085c\x0bd\x0ce"
    assert texts_of(put(tmp_path / "c.txt", f"{line}\nf\n")) == [line, "f"]


def test_quotes_delimiters_and_newlines_inside_csv_cells_are_kept(tmp_path):
    texts = ["two\nlines", 'a "quoted" word', "comma, tab\t", '"', "\n", "one\n\ntwo"]
    assert texts_of(write_as("csv", tmp_path / "c", texts), format="csv") == texts


def test_quotes_and_delimiters_inside_tsv_cells_are_kept(tmp_path):
    texts = ['a "quoted" word', "comma, tab\t", '"']
    assert texts_of(write_as("tsv", tmp_path / "c", texts), format="tsv") == texts


def test_a_stray_quote_in_a_tsv_file_does_not_swallow_rows(tmp_path):
    path = put(tmp_path / "c.tsv", 'text\tn\nx\t1\n"Hello\t2\nworld"\t3\n')
    assert f"{path} line 3: a cell that starts with a quote runs over several lines" in refusal(path)


def test_two_columns_of_the_wanted_name_are_refused(tmp_path):
    assert "2 columns named 'text'" in refusal(put(tmp_path / "c.csv", "text,text\na,b\n"))


def test_utf16_is_recognised(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes("a text\n".encode("utf-16"))
    assert "iconv -f utf-16" in refusal(path)


def test_a_json_id_beyond_64_bits_or_not_flat_gives_file_and_line(tmp_path):
    assert "c.jsonl line 2" in refusal(
        put(tmp_path / "c.jsonl", '{"id": 1, "text": "a"}\n{"id": 99999999999999999999999, "text": "b"}\n'),
        id_column="id",
    )
    assert "d.jsonl line 1" in refusal(put(tmp_path / "d.jsonl", '{"id": {"a": 1}, "text": "a"}\n'), id_column="id")


def test_a_windows_line_end_inside_a_cell_is_kept(tmp_path):
    assert texts_of(put(tmp_path / "c.csv", 'text\r\n"a\r\nb"\r\n')) == ["a\r\nb"]


def test_a_json_text_with_escapes_arrives_decoded(tmp_path):
    assert texts_of(put(tmp_path / "c.jsonl", '{"text": "a\\nb \\u00fc \\ud83d\\ude80"}\n')) == ["a\nb ü 🚀"]


def test_a_cell_may_be_longer_than_the_csv_reader_allows_by_default(tmp_path):
    text = "word " * 50_000
    assert texts_of(put(tmp_path / "c.csv", f"text\n{text}\n")) == [text]


# folders and globs


def test_a_folder_is_read_in_name_order_with_its_subfolders(tmp_path):
    (tmp_path / "b").mkdir()
    put(tmp_path / "c.txt", "3\n")
    put(tmp_path / "b" / "x.txt", "2\n")
    put(tmp_path / "a.txt", "1\n")
    corpus = open_corpus(tmp_path)
    assert [source.place.name for source in corpus.sources] == ["a.txt", "x.txt", "c.txt"]
    assert read(corpus).to_pydict() == {"id": [0, 1, 2], "text": ["1", "2", "3"]}


def test_a_folder_skips_hidden_files_markers_and_other_endings(tmp_path):
    for name in (".hidden.csv", "_SUCCESS", "_metadata.csv", "notes.md", "c.csv"):
        put(tmp_path / name, "text\na\n")
    assert [file.name for file in find_files(tmp_path)] == ["c.csv"]


def test_a_folder_skips_what_hidden_folders_hold(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / "_temporary").mkdir()
    for folder in (tmp_path, tmp_path / ".cache", tmp_path / "_temporary"):
        put(folder / "c.txt", "a\n")
    assert [place.local for place in find_files(tmp_path)] == [tmp_path / "c.txt"]


def test_a_hidden_folder_itself_can_be_read(tmp_path):
    (tmp_path / ".corpus").mkdir()
    put(tmp_path / ".corpus" / "c.txt", "a\n")
    assert texts_of(tmp_path / ".corpus") == ["a"]


def test_a_folder_with_a_given_format_takes_every_ending(tmp_path):
    put(tmp_path / "a.log", "1\n")
    put(tmp_path / "b", "2\n")
    assert texts_of(tmp_path, format="text") == ["1", "2"]


def test_a_glob_takes_what_it_matches_in_name_order(tmp_path):
    for name, text in (("b1.txt", "2"), ("a1.txt", "1"), ("a2.csv", "no")):
        put(tmp_path / name, f"{text}\n")
    assert texts_of(f"{tmp_path}/*1.txt") == ["1", "2"]


def test_a_double_star_reaches_into_subfolders(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    put(tmp_path / "x" / "y" / "c.txt", "deep\n")
    assert texts_of(f"{tmp_path}/**/*.txt") == ["deep"]


def test_a_file_whose_name_looks_like_a_glob_is_taken_by_name(tmp_path):
    put(tmp_path / "c[1].txt", "bracket\n")
    put(tmp_path / "c1.txt", "other\n")
    assert texts_of(tmp_path / "c[1].txt") == ["bracket"]


def test_nothing_at_the_path_is_said_with_the_path(tmp_path):
    assert f"{tmp_path}/none.csv" in refusal(tmp_path / "none.csv")


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    assert "*.csv" in refusal(f"{tmp_path}/*.csv")


def test_a_folder_without_a_corpus_file_lists_the_endings(tmp_path):
    put(tmp_path / "notes.md", "x")
    assert ".jsonl" in refusal(tmp_path)


def test_mixed_formats_are_named_and_refused(tmp_path):
    put(tmp_path / "a.csv", "text\na\n")
    put(tmp_path / "b.txt", "b\n")
    message = refusal(tmp_path)
    assert "csv, text" in message and "corpus.format=" in message


def test_an_unknown_ending_asks_for_the_format(tmp_path):
    message = refusal(put(tmp_path / "c.docx", "x"))
    assert "c.docx" in message and "corpus.format=" in message


# nothing to read


@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_an_empty_file_is_refused_with_its_path(tmp_path, ending):
    path = put(tmp_path / f"c{ending}", b"")
    message = refusal(path)
    assert str(path) in message


@pytest.mark.parametrize("content", ["id,text\n", "id,text", "\ufeffid,text\r\n"])
def test_a_csv_of_its_header_alone_is_an_empty_corpus(tmp_path, content):
    assert "empty" in refusal(put(tmp_path / "c.csv", content))


def test_a_parquet_file_without_rows_is_an_empty_corpus(tmp_path):
    assert "empty" in refusal(put_parquet(tmp_path / "c.parquet", text=pa.array([], pa.string())))


def test_an_empty_file_among_others_adds_no_row(tmp_path):
    put(tmp_path / "a.txt", "")
    put(tmp_path / "b.txt", "b\n")
    assert texts_of(tmp_path) == ["b"]


def test_a_file_without_rows_does_not_decide_the_type_of_the_ids(tmp_path):
    put(tmp_path / "a.csv", "id,text\n")
    put(tmp_path / "b.csv", "id,text\n1,b\n")
    assert ids_of(tmp_path, id_column="id") == [1]


# what cannot be read


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_column_lists_the_columns_there_are(tmp_path, format):
    message = refusal(write_as(format, tmp_path / "c", ["a"]), format=format, text_column="body")
    assert "'body'" in message and "'n', 'text'" in message and "corpus.text_column=" in message


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_id_column_says_which_key_names_it(tmp_path, format):
    message = refusal(write_as(format, tmp_path / "c", ["a"]), format=format, id_column="key")
    assert "'key'" in message and "'n', 'text'" in message and "id_column" in message


def test_a_column_missing_in_a_later_file_names_that_file(tmp_path):
    put(tmp_path / "a.csv", "text\na\n")
    path = put(tmp_path / "b.csv", "body\nb\n")
    assert str(path) in refusal(tmp_path)


@pytest.mark.parametrize(("row", "found"), [("2", 1), ("2,b,c", 3)])
def test_a_ragged_csv_row_is_refused_with_file_and_line(tmp_path, row, found):
    path = put(tmp_path / "c.csv", f"id,text\n1,a\n{row}\n")
    message = refusal(path)
    assert f"{path} line 3" in message and "expected 2 columns (id, text)" in message and f"found {found}" in message


def test_the_line_of_a_ragged_row_counts_newlines_inside_cells(tmp_path):
    path = put(tmp_path / "c.csv", 'id,text\n1,"a\nb"\n2\n')
    assert f"{path} line 4" in refusal(path)


def test_a_quote_that_is_never_closed_is_refused_with_the_file(tmp_path):
    path = put(tmp_path / "c.csv", 'id,text\n1,"a\n2,b\n')
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("c.txt", [b"fine", b"caf\xe9"]),
        ("c.csv", [b"id,text", b"1,caf\xe9"]),
        ("c.tsv", [b"id\ttext", b"1\tcaf\xe9"]),
        ("c.jsonl", [b'{"text": "fine"}', b'{"text": "caf\xe9"}']),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_with_file_and_line(tmp_path, name, lines):
    path = put(tmp_path / name, b"\n".join(lines) + b"\n")
    message = refusal(path)
    assert f"{path} line 2" in message and "0xe9" in message and "iconv" in message


@pytest.mark.parametrize("line", ['{"text": "b"', "not json", "{'text': 'b'}", '{"text": "b"} {"text": "c"}'])
def test_a_broken_json_line_is_refused_with_file_and_line(tmp_path, line):
    path = put(tmp_path / "c.jsonl", f'{{"text": "a"}}\n{line}\n')
    assert f"{path} line 2" in refusal(path)


@pytest.mark.parametrize("line", ['"text"', "[1, 2]", "3", "null"])
def test_a_json_line_that_is_no_object_is_refused_with_file_and_line(tmp_path, line):
    path = put(tmp_path / "c.jsonl", f'{{"text": "a"}}\n{line}\n')
    message = refusal(path)
    assert f"{path} line 2" in message and "expected a JSON object" in message


def test_a_header_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "c.csv"
    path.write_bytes(b"\n\nid,te\xffxt\n")
    assert f"{path} line 3: expected UTF-8, found byte 0xff at position 6 of line 3" in refusal(path)


def test_a_json_line_nested_beyond_measure_is_refused_with_file_and_line(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert f"{path} line 1" in refusal(path)


def test_a_json_number_too_long_for_python_is_refused_with_file_and_line(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n")
    assert f"{path} line 1" in refusal(path)


@pytest.mark.parametrize("text", [3, 1.5, True, ["a"], {"a": "b"}])
def test_a_json_text_that_is_no_string_is_refused_with_file_and_line(tmp_path, text):
    path = put_jsonl(tmp_path / "c.jsonl", {"text": "a"}, {"text": text})
    message = refusal(path)
    assert f"{path} line 2" in message and type(text).__name__ in message


@pytest.mark.parametrize("column", [[1, 2], [1.5, 2.5], [True, False], [b"a", b"b"], [["a"], ["b"]]])
def test_a_parquet_column_of_anything_but_strings_is_refused(tmp_path, column):
    path = put_parquet(tmp_path / "c.parquet", text=column)
    message = refusal(path)
    assert str(path) in message and "expected strings" in message and "corpus.text_column=" in message


def test_a_lone_surrogate_is_refused_with_file_and_line(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"text": "fine"}\n{"text": "half \\ud83d"}\n')
    message = refusal(path)
    assert f"{path} line 2" in message and "surrogate" in message


def test_a_parquet_file_cut_short_is_refused_with_its_path(tmp_path):
    path = put_parquet(tmp_path / "c.parquet", text=[f"text {i}" for i in range(1000)])
    put(path, path.read_bytes()[:-100])
    assert str(path) in refusal(path)


def test_a_parquet_file_damaged_in_the_middle_is_refused_with_its_path(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(
        pa.table({"text": [f"text number {i}" for i in range(5000)]}), path, compression="zstd", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[50:2000] = bytes(1950)
    put(path, bytes(content))
    assert str(path) in refusal(path)


def test_a_file_that_is_no_parquet_at_all_is_refused(tmp_path):
    path = put(tmp_path / "c.parquet", "id,text\n1,a\n")
    assert f"{path} is damaged, or is not a parquet file: Parquet magic bytes not found" in refusal(path)


def test_a_bad_line_at_the_end_is_found_when_the_corpus_is_opened(tmp_path):
    path = put(tmp_path / "c.txt", b"fine\n" * 20_000 + b"\xff\n")
    with pytest.raises(UserError, match="line 20001"):
        open_corpus(path)


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file that exists and cannot be read, whoever asks"
)
def test_a_file_that_cannot_be_read_is_refused_with_its_path():
    assert "/proc/self/mem" in refusal("/proc/self/mem", format="text")


def test_a_parquet_text_that_is_not_utf8_is_refused_with_its_path(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"caf\xe9")])
    path = put_parquet(tmp_path / "c.parquet", text=broken)
    assert str(path) in refusal(path)


def test_a_file_that_went_away_since_it_was_opened_is_named(tmp_path):
    path = put(tmp_path / "c.txt", "a\n")
    corpus = open_corpus(path)
    path.unlink()
    with pytest.raises(UserError, match="c.txt"):
        read(corpus)


@pytest.mark.parametrize("content", ["id,text\n1,a\n", "id,text\n1,a\n2,b\n3,c\n", "id,text\n1,a\nx,b\n"])
def test_a_file_that_changed_since_it_was_opened_is_named(tmp_path, content):
    path = put(tmp_path / "c.csv", "id,text\n1,a\n2,b\n")
    corpus = open_corpus(path, id_column="id")
    put(path, content)
    with pytest.raises(UserError, match="c.csv"):
        read(corpus)


# batches


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_batches_over_several_files_keep_order_numbering_and_size(tmp_path, format, size):
    texts = [f"text {i}" for i in range(12)]
    for name, part in (("a", texts[:5]), ("b", texts[5:6]), ("c", texts[6:])):
        write_as(format, tmp_path / name, part)
    corpus = open_corpus(tmp_path, format=format)
    batches = list(corpus.batches(size))
    assert all(0 < batch.num_rows <= size for batch in batches)
    assert [i for batch in batches for i in batch.column("id").to_pylist()] == list(range(12))
    assert [text for batch in batches for text in batch.column("text").to_pylist()] == texts


def test_ids_of_later_files_come_from_their_own_column(tmp_path):
    put(tmp_path / "a.csv", "id,text\n10,a\n")
    put(tmp_path / "b.csv", "text,id\nb,20\n")
    assert read(open_corpus(tmp_path, id_column="id"), 1).to_pydict() == {"id": [10, 20], "text": ["a", "b"]}


def test_parquet_row_groups_do_not_change_the_batches(tmp_path):
    texts = [f"text {i}" for i in range(10)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "c.parquet", row_group_size=3)
    batches = list(open_corpus(tmp_path / "c.parquet").batches(4))
    assert all(batch.num_rows <= 4 for batch in batches)
    assert [text for batch in batches for text in batch.column("text").to_pylist()] == texts


def test_a_large_file_is_streamed_not_held(tmp_path):
    path = put(tmp_path / "c.txt", "a line\n" * 50_000)
    batches = open_corpus(path).batches(100)
    assert next(batches).num_rows == 100
