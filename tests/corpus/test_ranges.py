"""Reading begins where it is asked to: at a mark that the read-through noted, in any format, and from notes of it."""

import json
import os
import random

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from helpers.corpus_files import COMPRESS
from pyarrow import orc

from steps.common.corpus import opening as corpora
from steps.common.errors import UserError
from steps.common.storage.stream import _Tee

PACK = {"": bytes} | COMPRESS
LINES = ("txt", "csv", "tsv", "jsonl")
COLUMNS = ("parquet", "arrow", "arrows", "orc")


@pytest.fixture(autouse=True)
def a_mark_every_four_rows(monkeypatch):
    monkeypatch.setattr(corpora, "SCAN", 4)


def in_lines(format: str, rng: random.Random, count: int) -> bytes:
    """Rows as a file of lines has them: line ends of both kinds, blank lines, broken rows, a byte order mark."""
    texts = [rng.choice(["a", "Grüße", "東京 🚀", " ", "", "x" * 50, "a\rb"]) + str(i) for i in range(count)]
    end = rng.choice([b"\n", b"\r\n"])
    if format == "txt":
        rows = [rng.choice([text.encode(), text.encode(), b"Stra\xdfe", b""]) for text in texts]
    elif format == "jsonl":
        rows = [
            json.dumps({"text": text, "n": i, "k": None}, ensure_ascii=bool(i % 2)).encode()
            for i, text in enumerate(texts)
        ]
        rows = [rng.choice([row, row, row + end + b" ", b"no json", b'{"n": 1}', b'"\xff"']) for row in rows]
    else:
        cell = b"\t" if format == "tsv" else b","
        quoted = [
            b'"%s%s"' % (rng.choice([b"", b'""', cell, b"\xdf", b"" if format == "tsv" else end * 2]), text.encode())
            for text in texts
        ]
        rows = [cell.join([text, b"%d" % i, b"k"]) for i, text in enumerate(quoted)]
        rows = [rng.choice([row, row, row + end, b"one cell"]) for row in rows]
        rows.insert(0, cell.join([b"text", b"n", b"k"]))
    return rng.choice([b"", b"\xef\xbb\xbf"]) + end.join(rows) + rng.choice([b"", end])


def in_columns(format: str, path, rng: random.Random, count: int) -> None:
    texts = [rng.choice(["a", "Grüße", "x" * 50, None]) for _ in range(count)]
    table = pa.table({"text": pa.array(texts, pa.string()), "n": pa.array(range(count), pa.int64())})
    if format == "parquet":
        pq.write_table(table, path, row_group_size=rng.choice([3, 7, 100]))
    elif format == "orc":
        orc.write_table(table, path, stripe_size=1, batch_size=rng.choice([1, 5]))
    else:
        new = pa.ipc.new_file if format == "arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=rng.choice([2, 5, 100]))


def make_corpus(folder, format: str, compression: str = "", seed: int = 0, counts=(11, 0, 1, 30)):
    rng = random.Random(f"{format}{seed}")
    folder.mkdir(exist_ok=True)
    for number, count in enumerate(counts):
        path = folder / f"{number}.{format}{compression}"
        if format in LINES:
            path.write_bytes(PACK[compression](in_lines(format, rng, count)))
        else:
            in_columns(format, str(path), rng, count)
    return folder


def options_of(format: str) -> dict:
    return {"on_bad_row": "keep_all"} | ({} if format == "txt" else {"keep_columns": ["n"]})


def table_of(corpus, size: int, first: int = 0, end: int | None = None) -> pa.Table:
    batches = list(corpus.batches(size, first, end))
    assert all(0 < batch.num_rows <= size for batch in batches)
    return pa.Table.from_batches(batches, corpus.schema)


CASES = [(format, compression) for format in LINES for compression in PACK] + [(format, "") for format in COLUMNS]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("format, compression", CASES)
def test_any_range_of_rows_is_that_slice_of_the_corpus(tmp_path, format, compression, seed):
    corpus = open_corpus(make_corpus(tmp_path / "c", format, compression, seed), **options_of(format))
    whole = table_of(corpus, 1000)
    assert corpus.rows == whole.num_rows > 30
    rng = random.Random(seed)
    for first in range(corpus.rows + 1):
        for end in {first, min(first + 1, corpus.rows), rng.randint(first, corpus.rows), corpus.rows}:
            found = table_of(corpus, rng.choice([1, 3, 1000]), first, end)
            assert found.equals(whole.slice(first, end - first)), (first, end)


@pytest.mark.parametrize("format", LINES)
def test_marks_of_lines_are_noted_without_compression_only(tmp_path, format):
    plain = open_corpus(make_corpus(tmp_path / "plain", format), **options_of(format))
    packed = open_corpus(make_corpus(tmp_path / "packed", format, ".gz"), **options_of(format))
    assert plain.sources[-1].marks
    assert not any(source.marks for source in packed.sources)


def wipe_but_the_end(path, format: str) -> None:
    """Overwrite a file but its beginning and its end, so that whoever reads it from its beginning fails or differs."""
    stamp, data = path.stat(), bytearray(path.read_bytes())
    data[100 : len(data) // 2] = b'"' * (len(data) // 2 - 100)
    path.write_bytes(data)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("format", ["txt", "csv", "tsv", "jsonl", "parquet", "arrow", "orc"])
def test_the_last_rows_are_read_without_those_before(tmp_path, format):
    path = tmp_path / f"c.{format}"
    texts = [f"text {i} {'x' * 500}" for i in range(4000)]
    table = pa.table({"text": texts, "n": list(range(4000))})
    if format in ("csv", "tsv"):
        cell = {"csv": ",", "tsv": "\t"}[format]
        path.write_text(f"text{cell}n\n" + "".join(f"{text}{cell}{i}\n" for i, text in enumerate(texts)))
    elif format == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
    elif format == "txt":
        path.write_text("".join(f"{text}\n" for text in texts))
    elif format == "parquet":
        pq.write_table(table, path, row_group_size=100, compression="none", use_dictionary=False)
    elif format == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    else:
        orc.write_table(table, str(path), stripe_size=1000, batch_size=100, compression="uncompressed")
    corpus = open_corpus(path)
    wipe_but_the_end(path, format)
    assert table_of(corpus, 512, 3990)["text"].to_pylist() == texts[3990:]


@pytest.mark.parametrize("format", ["txt", "csv", "jsonl"])
def test_the_last_rows_of_lines_cost_their_own_bytes_and_the_head(tmp_path, monkeypatch, format):
    path = tmp_path / f"c.{format}"
    line = json.dumps({"text": "x" * 1000}) if format == "jsonl" else "x" * 1000
    path.write_text("text\n" + f"{line}\n" * 5000 if format == "csv" else f"{line}\n" * 5000)
    corpus, read, read_into = open_corpus(path), [], _Tee.readinto

    def counted(self, buffer):
        read.append(read_into(self, buffer))
        return read[-1]

    monkeypatch.setattr(_Tee, "readinto", counted)
    assert table_of(corpus, 512, 4990).num_rows == 10
    assert sum(read) < 100_000


def test_a_file_of_a_store_is_read_from_its_mark_too():
    store = fsspec.filesystem("memory")
    lines = [f"{i},text {i}" for i in range(100)]
    store.pipe("/ranges/c.csv", "\n".join(["id,text", *lines]).encode())
    corpus = open_corpus("memory://ranges/c.csv", id_column="id")
    assert corpus.sources[0].find_mark(97).row == 96
    assert table_of(corpus, 10, 97)["text"].to_pylist() == ["text 97", "text 98", "text 99"]


def test_a_range_notices_a_file_that_was_written_again(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("one\ntwo\nthree\n")
    corpus = open_corpus(path)
    path.write_text("one\ntwo\nthree\nfour\n")
    with pytest.raises(UserError, match="has changed since it was opened"):
        list(corpus.batches(10, 1, 2))


def test_a_range_notices_a_file_that_is_written_while_it_is_read(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("line\n" * 100)
    batches = open_corpus(path).batches(2, 50, 60)
    next(batches)
    path.write_text("line\n" * 200)
    with pytest.raises(UserError, match="has changed since it was opened"):
        list(batches)


def test_a_range_does_not_look_at_the_files_of_other_rows(tmp_path):
    corpus = open_corpus(make_corpus(tmp_path / "c", "txt", counts=(5, 7, 9)), on_bad_row="keep_all")
    first, second, third = (source.rows for source in corpus.sources)
    (tmp_path / "c" / "0.txt").unlink()
    (tmp_path / "c" / "2.txt").unlink()
    assert table_of(corpus, 3, first, first + second).num_rows == second


# What was found is noted, and taken again.


def as_json(noted: dict) -> dict:
    return json.loads(json.dumps(noted, allow_nan=False))


@pytest.fixture
def unread(monkeypatch):
    """Fails where a file is read through."""

    def fail(*args):
        raise AssertionError("a file is read through")

    return lambda: monkeypatch.setattr(corpora, "_scan", fail)


@pytest.mark.parametrize("format, compression", CASES)
def test_a_corpus_is_opened_from_its_notes_without_reading_it_through(tmp_path, unread, format, compression):
    folder = make_corpus(tmp_path / "c", format, compression)
    corpus = open_corpus(folder, **options_of(format))
    unread()
    again = open_corpus(folder, **options_of(format), noted=as_json(corpus.noted()))
    assert again == corpus
    assert again.noted() == corpus.noted()
    assert table_of(again, 3, 20).equals(table_of(corpus, 1000, 20))


def test_notes_hold_for_the_same_files_elsewhere_and_with_other_times(tmp_path, unread):
    corpus = open_corpus(make_corpus(tmp_path / "a", "csv"), on_bad_row="keep_all")
    other = make_corpus(tmp_path / "b", "csv")
    os.utime(other / "0.csv", (1, 1))
    unread()
    assert open_corpus(other, on_bad_row="keep_all", noted=corpus.noted()).noted() == corpus.noted()


def test_partition_values_are_noted_with_their_files(tmp_path, unread):
    for lang in ("en", "de"):
        (tmp_path / f"lang={lang}").mkdir()
        (tmp_path / f"lang={lang}" / "a.txt").write_text("text\n")
    noted = open_corpus(tmp_path, keep_columns=["lang"]).noted()
    (tmp_path / "lang=en").rename(tmp_path / "lang=fr")
    assert table_of(open_corpus(tmp_path, keep_columns=["lang"], noted=noted), 10)["lang"].to_pylist() == ["de", "fr"]


@pytest.mark.parametrize("name", ["content", "name", "more", "fewer", "column", "policy"])
def test_notes_of_something_else_are_not_taken(tmp_path, name):
    folder, options = tmp_path / "c", {"keep_columns": ["n"], "on_bad_row": "keep_all"}
    noted = open_corpus(make_corpus(folder, "csv"), **options).noted()
    if name == "content":
        data = (folder / "3.csv").read_bytes()
        (folder / "3.csv").write_bytes(data.replace(b"one cell", b"two cell"))
    elif name == "name":
        (folder / "3.csv").rename(folder / "4.csv")
    elif name == "more":
        (folder / "4.csv").write_text("text,n,k\na,1,k\n")
    elif name == "fewer":
        (folder / "3.csv").unlink()
    elif name == "column":
        options["keep_columns"] = ["k"]
    else:
        options["on_bad_row"] = "keep_nulls"
    if name == "policy":
        with pytest.raises(UserError):
            open_corpus(folder, **options, noted=noted)
        return
    assert open_corpus(folder, **options, noted=noted) == open_corpus(folder, **options)


@pytest.mark.parametrize("damage", ["none", "list", "empty", "rows", "mark", "type", "source"])
def test_damaged_notes_are_not_taken(tmp_path, damage):
    folder = make_corpus(tmp_path / "c", "csv")
    corpus = open_corpus(folder, on_bad_row="keep_all")
    noted = as_json(corpus.noted())
    if damage == "rows":
        noted["sources"][0]["rows"] += 1
    elif damage == "mark":
        noted["sources"][-1]["marks"][0][1] -= 1
    elif damage == "type":
        noted["types"] = "AAAA"
    elif damage == "source":
        del noted["sources"][0]["sha256"]
    else:
        noted = {"none": None, "list": [1], "empty": {}}[damage]
    assert open_corpus(folder, on_bad_row="keep_all", noted=noted) == corpus
