"""Corpus -> backend -> parts, with a backend whose vectors can be worked out by hand."""

import random
import shutil
import threading

import numpy as np
import pyarrow as pa
import pytest
from helpers import parts
from helpers.corpora import open_corpus
from helpers.counting import CountingBackend, vector_of
from helpers.encodes import read_parts, write_jsonl

from steps.common.embeddings import pipeline
from steps.common.embeddings.job import Job, Limits
from steps.common.embeddings.pipeline import Result, peak_rss_mb
from steps.common.embeddings.windows import Counts
from steps.common.errors import UserError
from steps.common.storage import place as files
from steps.common.storage.output import Output

# Seconds after which a test that waits for another thread has failed.
PATIENCE = 20


class NumberingBackend(CountingBackend):
    """Embeds a text as [window, position in the window, 12]: what is computed twice has two vectors."""

    def embed(self, tokens, on_rows=None):
        super().embed(tokens, on_rows)
        return np.array([[len(self.embedded), i, 12] for i in range(len(tokens.texts))], np.float32).reshape(-1, 3)


class FailingBackend(CountingBackend):
    """Raises an error in one of its methods, as soon as it is given a certain text."""

    def __init__(self, method, text, error):
        super().__init__()
        whole = getattr(self, method)

        def failing(given, *arguments):
            if text in getattr(given, "texts", given):
                raise error
            return whole(given, *arguments)

        setattr(self, method, failing)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    def threads():
        return {thread for thread in threading.enumerate() if not thread.daemon}

    before = threads()
    yield
    assert threads() <= before


class HearingOutput(Output):
    """Tells of every part that was put in its place."""

    def __init__(self, folder, on_part):
        super().__init__(files.locate(folder), folder)
        self.on_part = on_part

    def put(self, temporary, name):
        super().put(temporary, name)
        if name.startswith("part-"):
            self.on_part(self.place.local / name)


def encode_corpus(corpus, backend, folder, options, on_part=lambda path: None, **limits):
    output = HearingOutput(folder, on_part)
    output.make()
    job = Job(corpus, options, backend.dim, limits=Limits(**limits))
    return pipeline.encode_corpus(job, backend, output)


def options(**given):
    """Those of the other tests, but with all rows in one part."""
    return parts.options(**{"rows_per_part": 1000} | given)


def corpus_of(tmp_path, *texts):
    return open_corpus(write_jsonl(tmp_path / "corpus.jsonl", texts))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def embeddings_in(folder):
    return read_parts(folder).column("embedding").to_pylist()


def names_in(folder):
    """What a user sees but the digests, and anything that was left half done."""
    left = [path.name for path in (folder / ".encode").glob("*.tmp")]
    return sorted([path.name for path in folder.iterdir() if not path.name.startswith((".", "digests"))] + left)


def test_every_row_gets_its_own_embedding_beside_its_id_and_text(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "one two", "three", "four"), CountingBackend(), folder, options())
    assert read_parts(folder).to_pydict() == {
        "id": [0, 1, 2],
        "text": ["one two", "three", "four"],
        "embedding": [[7, 2, 12], [5, 1, 12], [4, 1, 12]],
    }


def test_rows_keep_their_order_over_windows_and_parts(tmp_path, folder):
    texts = ["x" * ((7 * i) % 11 + 1) for i in range(25)]
    result = encode_corpus(corpus_of(tmp_path, *texts), CountingBackend(), folder, options(rows_per_part=3), rows=4)
    assert read_parts(folder).column("text").to_pylist() == texts
    assert [row[0] for row in embeddings_in(folder)] == [len(text) for text in texts]
    assert [part.rows for part in result.parts] == [3] * 8 + [1]


def test_every_file_of_a_corpus_is_embedded_with_its_own_ids(tmp_path, folder):
    for name, line in (("a", "k1,one"), ("b", "k2,three")):
        (tmp_path / f"{name}.csv").write_text(f"id,text\n{line}\n")
    encode_corpus(open_corpus(f"{tmp_path}/*.csv", id_column="id"), CountingBackend(), folder, options(keep_text=False))
    assert read_parts(folder).to_pydict() == {"id": ["k1", "k2"], "embedding": [[3, 1, 12], [5, 1, 12]]}


def test_a_null_text_is_never_embedded_and_gets_a_null_embedding(tmp_path, folder):
    backend = CountingBackend()
    result = encode_corpus(corpus_of(tmp_path, "one", None, "three"), backend, folder, options())
    assert embeddings_in(folder) == [[3, 1, 12], None, [5, 1, 12]]
    assert read_parts(folder).column("text").to_pylist() == ["one", None, "three"]
    assert backend.seen == ["one", "three"]
    assert (result.rows, result.null_rows) == (3, 1)


def test_a_null_in_a_later_window_is_still_null(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "a", "b", "c", None), CountingBackend(), folder, options(rows_per_part=1), rows=2)
    assert [row is None for row in embeddings_in(folder)] == [False, False, False, True]


def test_a_corpus_of_nothing_but_null_is_written(tmp_path, folder):
    result = encode_corpus(
        corpus_of(tmp_path, None, None), CountingBackend(), folder, options(normalize=True, truncate_dim=2)
    )
    assert embeddings_in(folder) == [None, None]
    assert (result.rows, result.null_rows, result.computed_rows) == (2, 2, 0)
    assert (result.tokens, result.truncated_rows) == (0, 0)
    assert result.samples == []


def test_the_embeddings_are_of_fixed_size_where_no_text_is_null(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "a"), CountingBackend(), folder, options())
    assert read_parts(folder).schema.field("embedding").type == pa.list_(pa.float32(), 3)


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


def test_counts_add_up_over_windows(tmp_path, folder):
    result = encode_corpus(
        corpus_of(tmp_path, "a b c", None, "", "a b c", None, "a"),
        CountingBackend(max_tokens=4),
        folder,
        options(),
        rows=2,
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
    assert backend.tokenized == backend.embedded == []
    assert names_in(folder) == []


def test_normalize_scales_what_is_left_after_the_cut(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "a b "), CountingBackend(), folder, options(normalize=True, truncate_dim=2))
    np.testing.assert_allclose(embeddings_in(folder), [[4 / np.sqrt(20), 2 / np.sqrt(20)]], rtol=1e-6)


def test_float16_is_written_and_recorded(tmp_path, folder):
    result = encode_corpus(corpus_of(tmp_path, "one"), CountingBackend(), folder, options(dtype="float16"))
    assert read_parts(folder).schema.field("embedding").type == pa.list_(pa.float16(), 3)
    assert embeddings_in(folder) == [[3, 1, 12]]
    assert result.dtype == "float16"


def test_samples_are_the_first_texts_with_their_embeddings(tmp_path, folder):
    result = encode_corpus(
        corpus_of(tmp_path, None, "one", "three", "seven", "nine"), CountingBackend(), folder, options(), rows=2
    )
    texts, embeddings = zip(*result.samples)
    assert texts == ("one", "three", "seven")
    np.testing.assert_array_equal(embeddings, [[3, 1, 12], [5, 1, 12], [5, 1, 12]])


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


# repeats


def test_a_text_that_comes_again_is_computed_once_in_its_part(tmp_path, folder):
    backend = CountingBackend()
    texts = ["a", "b b", "a", "c", "a", "b b", "ccc", "ccc"]
    result = encode_corpus(corpus_of(tmp_path, *texts), backend, folder, options(rows_per_part=6), rows=2)
    assert backend.embedded == [["a", "b b"], ["c"], [], ["ccc"]]
    assert backend.tokenized == backend.embedded
    assert embeddings_in(folder) == [vector_of(text) for text in texts]
    assert (result.rows, result.computed_rows) == (8, 4)


def test_a_text_that_comes_again_in_another_part_is_computed_again(tmp_path, folder):
    backend = CountingBackend()
    texts = ["a", "b", "a", "a", "b", "c", "a", "c"]
    result = encode_corpus(corpus_of(tmp_path, *texts), backend, folder, options(rows_per_part=3), rows=2)
    assert backend.embedded == [["a", "b"], [], ["a", "b"], ["c"], ["a", "c"]]
    assert embeddings_in(folder) == [vector_of(text) for text in texts]
    assert result.metrics()["encode/computed_rows"] == 7


def test_a_text_that_comes_again_after_what_is_read_ahead_is_computed_again(tmp_path, folder):
    backend = CountingBackend()
    texts = ["aaaa", "bbbb", "aaaa", "bbbb", "aaaa", "bbbb", "aaaa"]
    # A row has 16 bytes beside its text: its id and its line.
    encode_corpus(corpus_of(tmp_path, *texts), backend, folder, options(), rows=1, ahead=3 * 20)
    assert backend.embedded == [["aaaa"], ["bbbb"], [], ["bbbb"], ["aaaa"], [], ["aaaa"]]
    assert embeddings_in(folder) == [vector_of(text) for text in texts]


def test_a_repeat_has_the_very_vector_of_the_first(tmp_path, folder):
    encode_corpus(corpus_of(tmp_path, "a", "b", "b", "c", "c", "a"), NumberingBackend(), folder, options(), rows=2)
    a, b, c = [1, 0, 12], [1, 1, 12], [2, 0, 12]
    assert embeddings_in(folder) == [a, b, b, c, c, a]


def test_repeats_that_cannot_be_kept_are_computed_again(tmp_path, folder):
    backend = CountingBackend()
    texts = ["a", "bb", "a", "bb", "a", "bb"]
    result = encode_corpus(
        corpus_of(tmp_path, *texts), backend, folder, options(), rows=2, kept=4 * CountingBackend.dim
    )
    assert backend.embedded == [["a", "bb"], ["bb"], ["bb"]]
    assert embeddings_in(folder) == [vector_of(text) for text in texts]
    assert result.computed_rows == 4


def test_repeats_count_like_every_other_row(tmp_path, folder):
    texts = ["a b c", "", "a b c", "a", "a b c", "", "a b c", None]
    result = encode_corpus(corpus_of(tmp_path, *texts), CountingBackend(max_tokens=4), folder, options(), rows=2)
    assert (result.tokens, result.truncated_rows) == (4 * 4 + 2 * 2 + 3, 4)
    assert (result.rows, result.empty_rows, result.null_rows, result.computed_rows) == (8, 2, 1, 3)


def test_repeats_are_found_over_the_files_of_a_corpus(tmp_path, folder):
    for name, texts in (("a", ["one", "two words"]), ("b", ["two words", None, "one"])):
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    backend = CountingBackend()
    encode_corpus(open_corpus(f"{tmp_path}/*.jsonl"), backend, folder, options(), rows=1)
    assert backend.seen == ["one", "two words"]
    assert embeddings_in(folder) == [[3, 1, 12], [9, 2, 12], [9, 2, 12], None, [3, 1, 12]]


def test_repeats_are_cut_and_normalised_once(tmp_path, folder):
    encode_corpus(
        corpus_of(tmp_path, *["a b "] * 3), CountingBackend(), folder, options(truncate_dim=2, normalize=True), rows=1
    )
    np.testing.assert_allclose(embeddings_in(folder), [[4 / np.sqrt(20), 2 / np.sqrt(20)]] * 3, rtol=1e-6)


@pytest.mark.parametrize("seed", range(24))
def test_any_corpus_comes_back_in_order_whatever_its_windows(tmp_path, folder, seed):
    rng = random.Random(seed)
    limits = {name: rng.randint(1, most) for name, most in (("rows", 9), ("bytes", 60), ("read", 9))}
    all_kept = seed % 2 == 0
    if not all_kept:
        limits |= {"kept": 4 * CountingBackend.dim * rng.randint(0, 3), "ahead": rng.randint(1, 900)}
    known = [None, "", "  ", "\n", *("x" * i for i in range(1, 13))][: rng.randint(1, 16)]
    texts = [rng.choice(known) for _ in range(rng.randint(1, 60))]
    cuts = sorted(rng.choices(range(len(texts) + 1), k=2))
    for name, first, end in zip("abc", [0, *cuts], [*cuts, len(texts)]):
        write_jsonl(tmp_path / f"{name}.jsonl", texts[first:end])
    backend = CountingBackend(max_tokens=2)

    rows_per_part = rng.randint(3, 20)
    result = encode_corpus(
        open_corpus(f"{tmp_path}/*.jsonl"), backend, folder, options(rows_per_part=rows_per_part), **limits
    )
    table = read_parts(folder)
    assert table.column("id").to_pylist() == list(range(len(texts)))
    assert table.column("text").to_pylist() == texts
    assert table.column("embedding").to_pylist() == [vector_of(text) for text in texts]
    present = [text for text in texts if text is not None]
    assert (result.rows, result.null_rows) == (len(texts), len(texts) - len(present))
    assert result.empty_rows == sum(not text.strip() for text in present)
    assert result.truncated_rows == sum(bool(text.strip()) for text in present)
    assert result.tokens == 2 * len(present)
    assert result.computed_rows == len(backend.seen)
    if all_kept:
        parts = [texts[first : first + rows_per_part] for first in range(0, len(texts), rows_per_part)]
        assert backend.seen == [text for part in parts for text in dict.fromkeys(part) if text is not None]


def test_a_window_that_is_computed_belongs_to_one_part(tmp_path, folder):
    backend = CountingBackend()
    encode_corpus(corpus_of(tmp_path, *"abcdefghij"), backend, folder, options(rows_per_part=6), rows=4)
    assert ["".join(window) for window in backend.embedded] == ["abcd", "ef", "ghij"]


def test_long_texts_make_small_windows(tmp_path, folder):
    backend = CountingBackend()
    encode_corpus(corpus_of(tmp_path, "x" * 11, "a", "b", "x" * 8, "c"), backend, folder, options(), read=1, bytes=10)
    assert [len(window) for window in backend.embedded] == [1, 3, 1]


def test_the_next_window_is_tokenised_while_this_one_is_computed(tmp_path, folder):
    texts = ["a", "b", "c"]
    tokenized = {text: threading.Event() for text in texts}

    class Backend(CountingBackend):
        def tokenize(self, texts):
            tokenized[texts[0]].set()
            return super().tokenize(texts)

        def embed(self, tokens, on_rows=None):
            upcoming = texts[: texts.index(tokens.texts[0]) + 2]
            assert all(tokenized[text].wait(PATIENCE) for text in upcoming)
            assert len(self.tokenized) <= len(upcoming)
            return super().embed(tokens, on_rows)

    encode_corpus(corpus_of(tmp_path, *texts), Backend(), folder, options(), rows=1)
    assert read_parts(folder).column("text").to_pylist() == texts


def test_the_next_window_is_computed_while_this_one_is_written(tmp_path, folder, monkeypatch):
    computed = {text: threading.Event() for text in "abc"}

    class Backend(CountingBackend):
        def embed(self, tokens, on_rows=None):
            computed[tokens.texts[0]].set()
            return super().embed(tokens, on_rows)

    following = {"part-00000.parquet": "b", "part-00001.parquet": "c", "part-00002.parquet": "c"}
    heard = []
    encode_corpus(
        corpus_of(tmp_path, *"abc"),
        Backend(),
        folder,
        options(rows_per_part=1),
        lambda path: heard.append(computed[following[path.name]].wait(PATIENCE)),
    )
    assert heard == [True] * 3


# errors


@pytest.mark.parametrize("method", ["tokenize", "embed"])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), UserError("a worker died"), KeyboardInterrupt()])
def test_an_error_in_the_backend_leaves_the_whole_parts_and_nothing_else(tmp_path, folder, method, error):
    backend = FailingBackend(method, "g", error)
    with pytest.raises(type(error)) as caught:
        encode_corpus(corpus_of(tmp_path, *"abcdefgh"), backend, folder, options(rows_per_part=4), rows=2)
    assert caught.value is error
    assert backend.seen == list("abcdef")
    assert names_in(folder) == ["part-00000.parquet"]
    assert read_parts(folder).column("text").to_pylist() == list("abcd")


def test_an_error_in_the_first_window_leaves_nothing(tmp_path, folder):
    with pytest.raises(RuntimeError, match="no GPU"):
        encode_corpus(corpus_of(tmp_path, "a"), FailingBackend("embed", "a", RuntimeError("no GPU")), folder, options())
    assert names_in(folder) == []


@pytest.mark.parametrize("texts", ["abcde", "abcdefg ", "abcdefgh"])
def test_a_corpus_that_changed_makes_no_part(tmp_path, folder, texts):
    corpus = corpus_of(tmp_path, *"abcdefg")
    write_jsonl(tmp_path / "corpus.jsonl", texts)
    with pytest.raises(UserError, match="corpus.jsonl has changed"):
        encode_corpus(corpus, CountingBackend(), folder, options(rows_per_part=2))
    assert names_in(folder) == []


def test_a_corpus_that_changes_meanwhile_makes_no_part_of_its_last_rows(tmp_path, folder):
    # More rows than are read ahead while the first part is put in its place.
    texts = "abcdefghijklmnopqrstuvwx"
    corpus = corpus_of(tmp_path, *texts)
    with pytest.raises(UserError, match="corpus.jsonl has changed"):
        encode_corpus(
            corpus,
            CountingBackend(),
            folder,
            options(rows_per_part=2),
            lambda path: write_jsonl(tmp_path / "corpus.jsonl", texts + "y"),
            read=1,
            rows=1,
        )
    assert read_parts(folder).column("text").to_pylist()[:2] == ["a", "b"]
    assert len(names_in(folder)) < 12


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("rows", [8, 7])
def test_an_error_in_on_part_ends_the_run_as_itself(tmp_path, folder, part, rows):
    error, heard = RuntimeError("the store is gone"), []

    def on_part(path):
        heard.append(path.name)
        if len(heard) == part + 1:
            raise error

    with pytest.raises(RuntimeError) as caught:
        encode_corpus(
            corpus_of(tmp_path, *"abcdefgh"[:rows]),
            CountingBackend(),
            folder,
            options(rows_per_part=2),
            on_part,
            rows=2,
        )
    assert caught.value is error
    assert heard == names_in(folder) == [f"part-{i:05d}.parquet" for i in range(part + 1)]


def test_an_output_folder_that_goes_away_ends_the_run(tmp_path, folder):
    with pytest.raises(UserError, match="cannot be written: .*run the same command again"):
        encode_corpus(
            corpus_of(tmp_path, *"abcdefgh"),
            CountingBackend(),
            folder,
            options(rows_per_part=2),
            lambda path: shutil.rmtree(folder),
        )
    assert not (folder / "manifest.json").exists()


def test_a_backend_that_fails_after_the_writer_is_what_the_run_ends_with(tmp_path, folder):
    failed = threading.Event()
    error = KeyboardInterrupt()

    class Backend(CountingBackend):
        def embed(self, tokens, on_rows=None):
            if "b" in tokens.texts:
                failed.wait(PATIENCE)
                raise error
            return super().embed(tokens, on_rows)

    def on_part(path):
        failed.set()
        raise OSError("no space left on device")

    with pytest.raises(KeyboardInterrupt) as caught:
        encode_corpus(corpus_of(tmp_path, *"ab"), Backend(), folder, options(rows_per_part=1), on_part)
    assert caught.value is error
    assert names_in(folder) == ["part-00000.parquet"]


# results


def test_metrics_are_numbers_and_rates_follow_from_the_seconds():
    found = {"rows": 10, "tokens": 40, "long_rows": 1, "truncated_rows": 1, "empty_rows": 2, "null_rows": 3}
    found |= {"computed_rows": 6, "reused_rows": 2}
    metrics = Result(**found, own=Counts(**found), seconds=2.0).metrics()
    assert metrics.pop("encode/peak_rss_mb") > 1
    assert metrics == {
        "encode/rows": 10,
        "encode/resumed_rows": 0,
        "encode/long_rows": 1,
        "encode/seconds": 2.0,
        "encode/rows_per_second": 5.0,
        "encode/tokens_per_second": 20.0,
        "encode/truncated_rows": 1,
        "encode/empty_rows": 2,
        "encode/null_rows": 3,
        "encode/computed_rows": 6,
        "encode/reused_rows": 2,
    }


def test_rates_are_those_of_the_rows_that_this_run_has_computed():
    own = Counts(rows=5, tokens=30, computed_rows=4)
    metrics = Result(rows=10, resumed_rows=5, tokens=40, computed_rows=9, own=own, seconds=2.0).metrics()
    assert (metrics["encode/rows_per_second"], metrics["encode/tokens_per_second"]) == (2.5, 15.0)
    assert (metrics["encode/rows"], metrics["encode/computed_rows"]) == (10, 4)


def test_padding_is_a_metric_where_the_backend_knows_it(tmp_path, folder):
    known, unknown = CountingBackend(), CountingBackend()
    unknown.padding_share = None
    corpus = corpus_of(tmp_path, "a")
    assert encode_corpus(corpus, known, folder, options()).metrics()["encode/padding_share"] == 0.25
    assert "encode/padding_share" not in encode_corpus(corpus, unknown, folder, options()).metrics()


def test_metrics_of_no_time_at_all_are_finite():
    assert all(np.isfinite(value) for value in Result(rows=1).metrics().values())


def test_the_result_measures_its_time_and_describes_itself_for_the_manifest(tmp_path, folder):
    result = encode_corpus(
        corpus_of(tmp_path, "a b c", None),
        CountingBackend(max_tokens=4),
        folder,
        options(dtype="float16", truncate_dim=2),
    )
    assert result.seconds > 0
    expected = {
        "rows": 2,
        "written_rows": 2,
        "null_rows": 1,
        "empty_rows": 0,
        "long_rows": 1,
        "truncated_rows": 1,
        "tokens": 4,
        "dim": 2,
        "dtype": "float16",
        "ranges": None,
    }
    manifest = result.manifest()
    assert manifest.pop("rejects").name == "rejects.parquet" and manifest.pop("reused") is None
    assert manifest == expected


def test_peak_memory_is_in_megabytes():
    assert 10 < peak_rss_mb() < 1_000_000


def test_progress_of_a_corpus_counts_every_row_once(tmp_path, folder, shown):
    texts = ["a", None, "b", "a", "a", "a", None, None, None, "b", "c"]
    encode_corpus(corpus_of(tmp_path, *texts), CountingBackend(), folder, options(), rows=3)
    # Texts that are computed one by one, then the window they are in.
    assert [done for done, _ in shown()] == [1, 2, 3, 6, 9, 10, 11]
    assert {total for _, total in shown()} == {11}
