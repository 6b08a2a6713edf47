"""Every format is read as it was written."""

import pyarrow as pa
import pytest
from helpers.corpora import open_corpus, read, table_of, texts_of
from helpers.corpus_files import COMPRESS, TEXTS, WRITERS, put, put_parquet, write_as
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.common.corpus.texts import LINE, REASON

STEADY = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TEXT_OF_LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


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
    table = read(corpus).drop_columns([LINE, REASON])
    assert table.schema == pa.schema([("id", pa.int64()), ("text", pa.string())])
    assert table.column("id").to_pylist() == list(range(len(TEXTS)))
    assert table.column("text").to_pylist() == TEXTS


@pytest.mark.parametrize("format", ["text", "csv", "tsv", "jsonl", "parquet"])
def test_a_given_format_overrules_the_ending(tmp_path, format):
    assert texts_of(write_as(format, tmp_path / "corpus.dat", TEXTS), format=format) == TEXTS


def test_an_ending_in_capitals_is_known(tmp_path):
    assert texts_of(put(tmp_path / "CORPUS.TXT", "a\nb\n")) == ["a", "b"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_every_kind_of_parquet_string_is_text(tmp_path, kind):
    try:
        path = put_parquet(tmp_path / "c.parquet", text=pa.array(["a", None, "a"]).cast(kind))
    except pa.ArrowNotImplementedError:
        pytest.skip(f"this pyarrow cannot write {kind}")
    assert texts_of(path) == ["a", None, "a"]


def test_a_json_text_with_escapes_arrives_decoded(tmp_path):
    assert texts_of(put(tmp_path / "c.jsonl", '{"text": "a\\nb \\u00fc \\ud83d\\ude80"}\n')) == ["a\nb ü 🚀"]


def test_a_cell_may_be_longer_than_the_csv_reader_allows_by_default(tmp_path):
    text = "word " * 50_000
    assert texts_of(put(tmp_path / "c.csv", f"text\n{text}\n")) == [text]


@pytest.mark.parametrize("ending", list(WRITERS))
@STEADY
@given(data=st.data())
def test_ids_order_count_and_texts_survive(tmp_path, ending, data):
    # A cell of TSV holds no line end.
    texts = data.draw(st.lists(TEXT_OF_LINES if ending == "tsv" else ANY_TEXT, min_size=1, max_size=12))
    ids = data.draw(st.lists(st.integers(-(10**17), 10**17), min_size=len(texts), max_size=len(texts)))
    path = tmp_path / f"c.{ending}"
    WRITERS[ending](path, pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array(texts, pa.string())}))
    table = table_of(path, data.draw(st.integers(1, 13)), id_column="id")
    assert table["text"].to_pylist() == texts
    assert table["id"].to_pylist() == ids


@STEADY
@given(
    texts=st.lists(TEXT_OF_LINES, min_size=1, max_size=12), ending=st.sampled_from(["", ".gz", ".bz2", ".xz", ".zst"])
)
def test_lines_survive_every_compression(tmp_path, texts, ending):
    content = "".join(f"{text}\n" for text in texts).encode()
    path = put(tmp_path / f"c.txt{ending}", content if not ending else COMPRESS[ending](content))
    assert texts_of(path) == texts
