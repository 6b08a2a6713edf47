"""Corpus -> backend -> parts, with a backend whose vectors can be worked out by hand."""

import io
import json
import logging
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.common import pipeline
from steps.common.corpus import open_corpus
from steps.common.errors import UserError
from steps.common.pipeline import Options, Progress, Result, encode_corpus, peak_rss_mb


class CountingBackend:
    """Embeds a text as [letters, words, 12]; a token is a word, and two special ones."""

    dim = 3

    def __init__(self, max_tokens=None):
        self.max_tokens = max_tokens
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        return np.array([[len(text), len(text.split()), 12] for text in texts], np.float32).reshape(-1, 3)

    def count_tokens(self, texts):
        return np.array([len(text.split()) + 2 for text in texts], np.int64)


def options(**given):
    return Options(
        **(
            {"dtype": "float32", "truncate_dim": None, "normalize": False, "rows_per_part": 1000, "keep_text": True}
            | given
        )
    )


def corpus_of(tmp_path, *texts):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return open_corpus(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def read(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def embeddings_in(folder):
    return read(folder).column("embedding").to_pylist()


def test_every_row_gets_its_own_embedding_beside_its_id_and_text(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "one two", "three", "four"), CountingBackend(), folder, options())
    assert read(folder).to_pydict() == {
        "id": [0, 1, 2],
        "text": ["one two", "three", "four"],
        "embedding": [[7, 2, 12], [5, 1, 12], [4, 1, 12]],
    }


def test_rows_keep_their_order_over_windows_and_parts(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 4)
    texts = ["x" * ((7 * i) % 11 + 1) for i in range(25)]
    result = encode_corpus(corpus_of(tmp_path, *texts), CountingBackend(), folder, options(rows_per_part=3))
    assert read(folder).column("text").to_pylist() == texts
    assert [row[0] for row in embeddings_in(folder)] == [len(text) for text in texts]
    assert [part.rows for part in result.parts] == [3] * 8 + [1]


def test_every_file_of_a_corpus_is_embedded_with_its_own_ids(tmp_path, folder):
    for name, line in (("a", "k1,one"), ("b", "k2,three")):
        (tmp_path / f"{name}.csv").write_text(f"id,text\n{line}\n")
    encode_corpus(open_corpus(f"{tmp_path}/*.csv", id_column="id"), CountingBackend(), folder, options(keep_text=False))
    assert read(folder).to_pydict() == {"id": ["k1", "k2"], "embedding": [[3, 1, 12], [5, 1, 12]]}


def test_a_null_text_is_never_embedded_and_gets_a_null_embedding(tmp_path, folder):
    backend = CountingBackend()
    result = encode_corpus(corpus_of(tmp_path, "one", None, "three"), backend, folder, options())
    assert embeddings_in(folder) == [[3, 1, 12], None, [5, 1, 12]]
    assert read(folder).column("text").to_pylist() == ["one", None, "three"]
    assert [text for call in backend.calls for text in call] == ["one", "three"]
    assert (result.rows, result.null_rows) == (3, 1)


def test_a_null_in_a_later_window_is_still_null(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 2)
    encode_corpus(corpus_of(tmp_path, "a", "b", "c", None), CountingBackend(), folder, options(rows_per_part=1))
    assert [row is None for row in embeddings_in(folder)] == [False, False, False, True]


def test_a_corpus_of_nothing_but_null_is_written(tmp_path, folder):
    result = encode_corpus(
        corpus_of(tmp_path, None, None), CountingBackend(), folder, options(normalize=True, truncate_dim=2)
    )
    assert embeddings_in(folder) == [None, None]
    assert (result.rows, result.null_rows, result.tokens, result.truncated_rows) == (2, 2, 0, 0)
    assert result.sample_texts == []


def test_the_embeddings_are_of_fixed_size_where_no_text_is_null(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "a"), CountingBackend(), folder, options())
    assert read(folder).schema.field("embedding").type == pa.list_(pa.float32(), 3)


def test_empty_and_blank_texts_are_embedded_and_counted(tmp_path, folder):
    result = encode_corpus(corpus_of(tmp_path, "", " \n", "one"), CountingBackend(), folder, options())
    assert embeddings_in(folder) == [[0, 0, 12], [2, 0, 12], [3, 1, 12]]
    assert (result.empty_rows, result.null_rows) == (2, 0)


def test_tokens_are_counted_as_far_as_the_model_reads(tmp_path, folder):
    result = encode_corpus(corpus_of(tmp_path, "a", "a b", "a b c"), CountingBackend(max_tokens=4), folder, options())
    assert (result.tokens, result.truncated_rows) == (3 + 4 + 4, 1)


def test_a_model_without_a_limit_cuts_nothing(tmp_path, folder):
    result = encode_corpus(corpus_of(tmp_path, "a b c d e"), CountingBackend(max_tokens=None), folder, options())
    assert (result.tokens, result.truncated_rows) == (7, 0)


def test_counts_add_up_over_windows(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 2)
    result = encode_corpus(
        corpus_of(tmp_path, "a b c", None, "", "a b c", None, "a"), CountingBackend(max_tokens=4), folder, options()
    )
    assert (result.rows, result.null_rows, result.empty_rows, result.truncated_rows, result.tokens) == (
        6,
        2,
        1,
        2,
        4 + 2 + 4 + 3,
    )


def test_truncate_dim_keeps_the_first_numbers(tmp_path, folder):
    result = encode_corpus(corpus_of(tmp_path, "one two"), CountingBackend(), folder, options(truncate_dim=2))
    assert embeddings_in(folder) == [[7, 2]]
    assert result.dim == 2


def test_truncate_dim_may_be_all_the_model_has(tmp_path, folder):
    assert encode_corpus(corpus_of(tmp_path, "a"), CountingBackend(), folder, options(truncate_dim=3)).dim == 3


def test_truncate_dim_beyond_the_model_is_refused_before_anything_is_computed(tmp_path, folder):
    backend = CountingBackend()
    with pytest.raises(UserError, match="embedding.truncate_dim is 4, but the model has 3 dimensions"):
        encode_corpus(corpus_of(tmp_path, "a"), backend, folder, options(truncate_dim=4))
    assert backend.calls == []
    assert list(folder.iterdir()) == []


def test_normalize_scales_what_is_left_after_the_cut(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "a b "), CountingBackend(), folder, options(normalize=True, truncate_dim=2))
    np.testing.assert_allclose(embeddings_in(folder), [[4 / np.sqrt(20), 2 / np.sqrt(20)]], rtol=1e-6)


def test_float16_is_written_and_recorded(tmp_path, folder):
    result = encode_corpus(corpus_of(tmp_path, "one"), CountingBackend(), folder, options(dtype="float16"))
    assert read(folder).schema.field("embedding").type == pa.list_(pa.float16(), 3)
    assert embeddings_in(folder) == [[3, 1, 12]]
    assert result.dtype == "float16"


def test_samples_are_the_first_texts_with_their_embeddings(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 2)
    result = encode_corpus(
        corpus_of(tmp_path, None, "one", "three", "seven", "nine"), CountingBackend(), folder, options()
    )
    assert result.sample_texts == ["one", "three", "seven"]
    np.testing.assert_array_equal(result.sample_embeddings, [[3, 1, 12], [5, 1, 12], [5, 1, 12]])


def test_on_part_hears_of_every_part_in_order(tmp_path, folder):
    heard = []
    result = encode_corpus(
        corpus_of(tmp_path, *"abcde"),
        CountingBackend(),
        folder,
        options(rows_per_part=2),
        lambda path: heard.append(path.name),
    )
    assert (
        heard
        == [part.name for part in result.parts]
        == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    )


def test_a_backend_that_fails_leaves_the_whole_parts_and_nothing_else(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(pipeline, "WINDOW", 2)
    backend = CountingBackend()
    encode = backend.encode

    def failing(texts):
        if "e" in texts:
            raise RuntimeError("out of memory")
        return encode(texts)

    backend.encode = failing
    with pytest.raises(RuntimeError, match="out of memory"):
        encode_corpus(corpus_of(tmp_path, *"abcdef"), backend, folder, options(rows_per_part=3))
    assert [path.name for path in folder.iterdir()] == ["part-00000.parquet"]


def test_metrics_are_numbers_and_rates_follow_from_the_seconds():
    metrics = Result(rows=10, tokens=40, truncated_rows=1, empty_rows=2, null_rows=3, seconds=2.0).metrics()
    assert metrics.pop("encode/peak_rss_mb") > 1
    assert metrics == {
        "encode/rows": 10,
        "encode/seconds": 2.0,
        "encode/rows_per_second": 5.0,
        "encode/tokens_per_second": 20.0,
        "encode/truncated_rows": 1,
        "encode/empty_rows": 2,
        "encode/null_rows": 3,
    }


def test_metrics_of_no_time_at_all_are_finite():
    assert all(np.isfinite(value) for value in Result(rows=1).metrics().values())


def test_the_result_measures_its_time_and_describes_itself_as_json(tmp_path, folder):
    result = encode_corpus(
        corpus_of(tmp_path, "a b c", None),
        CountingBackend(max_tokens=4),
        folder,
        options(dtype="float16", truncate_dim=2),
    )
    assert result.seconds > 0
    expected = {
        "rows": 2,
        "null_rows": 1,
        "empty_rows": 0,
        "truncated_rows": 1,
        "tokens": 4,
        "dim": 2,
        "dtype": "float16",
    }
    assert json.loads(json.dumps(result.manifest())) == expected


def test_peak_memory_is_in_megabytes():
    assert 10 < peak_rss_mb() < 1_000_000


def test_progress_is_a_log_line_where_there_is_no_terminal(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(pipeline, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(pipeline.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="steps"), Progress(200) as progress:
        progress.advance(50)
    assert "50 of 200 rows (25 %)" in caplog.text


def test_progress_is_quiet_between_its_lines(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(pipeline.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="steps"), Progress(200) as progress:
        progress.advance(50)
    assert caplog.text == ""
