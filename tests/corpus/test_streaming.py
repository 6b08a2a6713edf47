"""A corpus comes in batches, however large it is, and a file that changes meanwhile is noticed."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus, read
from helpers.corpus_files import put, write_as

from steps.common.errors import UserError


def test_a_corpus_can_be_streamed_more_than_once(tmp_path):
    corpus = open_corpus(put(tmp_path / "c.txt", "a\nb\n"))
    assert read(corpus) == read(corpus)


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


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_a_text_of_10_mb_and_a_million_rows_of_one_character(tmp_path, ending):
    giant = "word " * 2_000_000
    if ending == "txt":
        put(tmp_path / "c.txt", giant + "\n" + "x\n" * 1_000_000)
    elif ending == "jsonl":
        put(tmp_path / "c.jsonl", json.dumps({"text": giant}) + "\n" + '{"text": "x"}\n' * 1_000_000)
    else:
        pq.write_table(pa.table({"text": [giant] + ["x"] * 1_000_000}), tmp_path / "c.parquet")
    corpus = open_corpus(tmp_path)
    assert corpus.rows == 1_000_001
    batches = corpus.batches(8192)
    assert next(batches)["text"][0].as_py() == giant
    assert sum(batch.num_rows for batch in batches) > 1_000_001 - 8193


def test_long_texts_are_decoded_few_at_a_time(tmp_path):
    pq.write_table(pa.table({"text": [f"{i}" + "x" * 1_000_000 for i in range(100)]}), tmp_path / "c.parquet")
    sizes = [batch["text"].nbytes for batch in open_corpus(tmp_path / "c.parquet").batches(8192)]
    assert max(sizes) < 40_000_000 and sum(sizes) > 100_000_000


def test_a_file_that_changes_is_noticed_before_another_row_is_used(tmp_path):
    path = put(tmp_path / "c.txt", "a\n" * 100)
    batches = open_corpus(path).batches(10)
    next(batches)
    put(path, "b\n" * 100)
    with pytest.raises(UserError, match="has changed since it was opened"):
        next(batches)


def test_content_that_changed_under_the_same_size_and_time_is_noticed(tmp_path):
    path = put(tmp_path / "c.txt", "a\nb\n")
    corpus, times = open_corpus(path), path.stat()
    put(path, "a\nc\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="its content differs"):
        list(corpus.batches(10))
