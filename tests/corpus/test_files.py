"""Which files a path names, in which order, what their folders name, and what is noted of each."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest
from helpers.corpora import open_corpus, read, refusal_of, table_of, texts_of
from helpers.corpus_files import put

from steps.common.corpus.opening import find_files
from steps.common.corpus.texts import LINE, REASON


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


def test_a_folder_is_read_in_name_order_with_its_subfolders(tmp_path):
    (tmp_path / "b").mkdir()
    put(tmp_path / "c.txt", "3\n")
    put(tmp_path / "b" / "x.txt", "2\n")
    put(tmp_path / "a.txt", "1\n")
    corpus = open_corpus(tmp_path)
    assert [source.place.name for source in corpus.sources] == ["a.txt", "x.txt", "c.txt"]
    assert read(corpus).drop_columns([LINE, REASON]).to_pydict() == {"id": [0, 1, 2], "text": ["1", "2", "3"]}


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
    assert f"{tmp_path}/none.csv" in refusal_of(tmp_path / "none.csv")


def test_a_glob_that_matches_nothing_is_refused(tmp_path):
    assert "*.csv" in refusal_of(f"{tmp_path}/*.csv")


def test_a_folder_without_a_corpus_file_lists_the_endings(tmp_path):
    put(tmp_path / "notes.md", "x")
    assert ".jsonl" in refusal_of(tmp_path)


def test_mixed_formats_are_named_and_refused(tmp_path):
    put(tmp_path / "a.csv", "text\na\n")
    put(tmp_path / "b.txt", "b\n")
    message = refusal_of(tmp_path)
    assert "csv, text" in message and "corpus.format=" in message


def test_an_unknown_ending_asks_for_the_format(tmp_path):
    message = refusal_of(put(tmp_path / "c.docx", "x"))
    assert "c.docx" in message and "corpus.format=" in message


def test_folders_name_columns_for_ids_templates_and_kept_ones(tmp_path):
    put(tmp_path / "lang=en" / "k=1" / "c.csv", "text\na\n")
    put(tmp_path / "lang=__HIVE_DEFAULT_PARTITION__" / "k=x%2Fy" / "c.csv", "text\nb\n")
    table = table_of(tmp_path, id_column="k", keep_columns=["lang"], template="{lang}: {text}")
    assert table.select(["id", "text", "lang"]).to_pylist() == [
        {"id": "x/y", "text": ": b", "lang": None},
        {"id": "1", "text": "en: a", "lang": "en"},
    ]
    assert table_of(f"{tmp_path}/lang=e*/*/*.csv", keep_columns=["lang"])["lang"].to_pylist() == ["en"]


def test_folders_name_columns_of_text_files_too(tmp_path):
    put(tmp_path / "lang=en" / "c.txt", "a\n")
    assert table_of(tmp_path, keep_columns=["lang"])["lang"].to_pylist() == ["en"]
    assert "corpus.keep_columns=other" in refusal_of(tmp_path, keep_columns=["lang", "other"])


def test_a_folder_that_starts_with_an_underscore_may_name_a_column(tmp_path):
    put(tmp_path / "_k=1" / "c.txt", "a\n")
    assert table_of(tmp_path, keep_columns=["_k"])["_k"].to_pylist() == ["1"]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    put(tmp_path / "corpus" / "c.txt", "a\n")
    put(tmp_path / "elsewhere" / "d.txt", "b\n")
    (tmp_path / "corpus" / "back").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "more").symlink_to(tmp_path / "elsewhere")
    assert texts_of(tmp_path / "corpus") == ["a", "b"]
    assert texts_of(f"{tmp_path}/corpus/**/*.txt") == ["a", "b"]


def test_a_row_is_found_in_its_file(tmp_path):
    for name, rows in (("a", 2), ("b", 0), ("c", 3)):
        put(tmp_path / f"{name}.txt", "x\n" * rows)
    corpus = open_corpus(tmp_path)
    found = [corpus.where(row) for row in range(5)]
    assert [(source.place.name, row) for source, row in found] == [
        ("a.txt", 0), ("a.txt", 1), ("c.txt", 0), ("c.txt", 1), ("c.txt", 2),
    ]  # fmt: skip
    assert [place.name for place in find_files(tmp_path)] == ["a.txt", "b.txt", "c.txt"]


def test_the_log_says_how_many_files_were_taken_and_skipped(tmp_path, caplog):
    for name in ("a.txt", "b.TXT", "c.txt.gz", "d.md", "e.md", "README", "_hidden.txt"):
        put(tmp_path / name, gzip.compress(b"x\n") if name.endswith(".gz") else b"x\n")
    with caplog.at_level("INFO", "steps"):
        open_corpus(tmp_path)
    assert (
        f"corpus {tmp_path}: 3 files (2 .txt, 1 .txt.gz) taken, skipped 3 files (2 .md, 1 without an ending) of unknown format"
        in caplog.text
    )
    caplog.clear()
    with caplog.at_level("INFO", "steps"):
        open_corpus(tmp_path / "a.txt")
    assert not caplog.text


@pytest.mark.parametrize("folder", ["k=%FE", "%FF=a"])
def test_a_partition_folder_that_is_not_utf_8_is_refused(tmp_path, folder):
    for name in (folder, "k=%C3%A9"):
        (tmp_path / name).mkdir()
        put(tmp_path / name / "c.csv", "text\na\n")
    message = refusal_of(tmp_path)
    assert f"{tmp_path / folder / 'c.csv'}: " in message and "is not UTF-8" in message
    (tmp_path / folder / "c.csv").unlink()
    assert read(open_corpus(tmp_path, keep_columns=["k"])).column("k").to_pylist() == ["é"]


@pytest.mark.parametrize("content", ["text,id\nx\ry,1\n", "te\rxt,id\nx,1\n"])
def test_a_carriage_return_in_a_cell_without_quotes_is_said_in_plain_words(tmp_path, content):
    message = refusal_of(put(tmp_path / "c.csv", content))
    assert "a cell without quotes holds a carriage return (\\r). Put the cell in quotes, or take" in message
    assert "universal" not in message and "corpus.quoting" not in message
    assert texts_of(put(tmp_path / "c.csv", 'text,id\n"x\ry",1\n')) == ["x\ry"]


@pytest.mark.parametrize("name", [b"\xff.csv", b"k=\xff/c.csv"])
def test_a_file_whose_name_is_not_utf_8_is_refused(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    put(path, "text\na\n")
    message = refusal_of(tmp_path)
    assert "\\udcff" in message and message.endswith("is not UTF-8. Rename it, or name the other files by a glob.")
    message.encode()
