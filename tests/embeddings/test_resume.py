"""An encode that was stopped goes on, and its result is that of one that was not."""

import dataclasses
import datetime
import decimal
import json
import random
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from helpers.counting import CountingBackend, Words
from helpers.encodes import read_parts, write_jsonl
from helpers.outputs import make_manifest
from helpers.parts import Letters, WindowBackend, content, job_of, options, output_of, some_texts

from steps.common.embeddings import encoder, pipeline, records
from steps.common.embeddings import manifest as manifests
from steps.common.embeddings.plan import code_digest, find_differences, shown
from steps.common.errors import UserError


class StoppingBackend(WindowBackend):
    """Is stopped in the middle of a call."""

    def __init__(self, calls):
        super().__init__()
        self.calls_left = calls

    def embed(self, tokens, on_rows=None):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KeyboardInterrupt
        return super().embed(tokens, on_rows)


def encode(corpus, backend, folder, options, *, on_rows=lambda rows: None, **more):
    return pipeline.encode_corpus(job_of(corpus, options, **more), backend, output_of(folder), on_rows=on_rows)


@pytest.mark.parametrize("seed", range(30))
def test_stops_anywhere_change_no_byte_and_cost_no_finished_part(tmp_path, seed):
    rng = random.Random(seed)
    limits = {"rows": rng.randint(1, 7), "bytes": rng.randint(5, 60), "read": rng.randint(1, 9)}
    if rng.random() < 0.3:
        limits["kept"] = 4 * 3 * rng.randint(0, 3)
    if rng.random() < 0.3:
        limits["ahead"] = rng.randint(1, 900)
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", some_texts(rng, rng.randint(20, 80))))
    given = options(
        dtype=rng.choice(["float32", "float16", "int8", "binary"]),
        rows_per_part=rng.randint(1, 12),
        format=rng.choice(["parquet", "npy"]),
        row_per_chunk=(chunks := rng.random() < 0.3) and rng.random() < 0.5,
    )
    more = {"ranges": np.array([[-1] * 3, [40] * 3], np.float32), "chunker": Letters() if chunks else None, **limits}
    whole = encode(corpus, WindowBackend(), tmp_path / "whole", given, **more)

    for _ in range(200):
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
        backend = StoppingBackend(rng.randint(0, 20))
        try:
            result = encode(corpus, backend, tmp_path / "out", given, **more)
            break
        except KeyboardInterrupt:
            pass
        after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
        assert before.items() <= after.items()
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert result.parts == whole.parts
    assert result.manifest() == whole.manifest()
    assert result.resumed_rows == sum(part.rows for part in result.parts if part.name in before)


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_finished_part_that_was_damaged_is_encoded_again(tmp_path, format):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", some_texts(random.Random(1), 30)))
    encode(corpus, WindowBackend(), tmp_path / "whole", options(format=format))
    for damage in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"x"),
        lambda path: path.write_bytes(b"x" * path.stat().st_size),
    ):
        encode(corpus, WindowBackend(), tmp_path / "out", options(format=format))
        part = sorted((tmp_path / "out").glob(f"part-*.{format}"))[2]
        damage(part)
        result = encode(corpus, WindowBackend(), tmp_path / "out", options(format=format))
        assert result.resumed_rows == 25
        assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_output_that_is_whole_needs_no_computing(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", some_texts(random.Random(2), 30)))
    first = encode(corpus, WindowBackend(), tmp_path / "out", options())
    backend = WindowBackend()
    second = encode(corpus, backend, tmp_path / "out", options())
    assert backend.seen == []
    assert (second.resumed_rows, second.parts, second.manifest()) == (30, first.parts, first.manifest())
    assert second.metrics()["encode/rows_per_second"] == 0


def test_records_without_their_parts_do_not_count(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a"] * 10))
    encode(corpus, WindowBackend(), tmp_path / "out", options())
    for path in (tmp_path / "out").glob("part-*"):
        path.unlink()
    assert encode(corpus, WindowBackend(), tmp_path / "out", options()).resumed_rows == 0


def test_parts_without_their_records_do_not_count(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a"] * 10))
    encode(corpus, WindowBackend(), tmp_path / "out", options())
    for path in (tmp_path / "out" / ".encode" / "done").glob("part-*"):
        path.unlink()
    assert encode(corpus, WindowBackend(), tmp_path / "out", options()).resumed_rows == 0


@pytest.mark.parametrize("counts", [{}, {"rows": 2, "other": 1}])
def test_a_part_whose_counts_are_others_is_encoded_again(tmp_path, counts):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a", None, "b", "c"]))
    encode(corpus, WindowBackend(), tmp_path / "out", options(rows_per_part=2))
    output = output_of(tmp_path / "out")
    record = records.read_record(output, "part-00000")
    part = dataclasses.replace(record.part, counts=counts)
    records.write_record(output, part, record.read_rejects(corpus.id_type))
    result = encode(corpus, WindowBackend(), tmp_path / "out", options(rows_per_part=2))
    assert (result.resumed_rows, result.null_rows) == (2, 1)


def test_rejects_and_counts_survive_a_stop(tmp_path):
    texts = ["one", None, "three", None, "", "six words are more than two", "seven"]
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", texts))

    class Backend(StoppingBackend):
        max_tokens = 4

        def __init__(self, calls):
            super().__init__(calls)
            self.max_tokens = 4

    with pytest.raises(KeyboardInterrupt):
        encode(corpus, Backend(2), tmp_path / "out", options(rows_per_part=2))
    result = encode(corpus, Backend(99), tmp_path / "out", options(rows_per_part=2))
    assert (result.rows, result.null_rows, result.empty_rows, result.long_rows, result.truncated_rows) == (
        7,
        2,
        1,
        1,
        1,
    )
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    path = str(tmp_path / "corpus.jsonl")
    assert rejects == [
        {"row": 1, "id": 1, "file": path, "line": 2, "reason": "null"},
        {"row": 3, "id": 3, "file": path, "line": 4, "reason": "null"},
    ]


def test_a_part_says_where_its_rows_stand_in_the_corpus(tmp_path):
    for name, texts in (("a", ["1", "2", "3"]), ("b", ["4", "5"])):
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    result = encode(open_corpus(f"{tmp_path}/*.jsonl"), WindowBackend(), tmp_path / "out", options(rows_per_part=2))
    places = [(part.source["first"], part.source["last"]) for part in result.parts]
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    assert places == [
        ({"file": a, "row": 0}, {"file": a, "row": 1}),
        ({"file": a, "row": 2}, {"file": b, "row": 0}),
        ({"file": b, "row": 1}, {"file": b, "row": 1}),
    ]


# chunks


def test_the_vector_of_a_long_text_is_the_mean_of_its_pieces(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["abcdefg", "ab", None, "abcdefg"]))
    encode(corpus, CountingBackend(), tmp_path / "out", options(), chunker=Letters())
    column = pq.read_table(tmp_path / "out" / "part-00000.parquet").column("embedding").to_pylist()
    mean = np.mean([[3, 1, 12], [3, 1, 12], [1, 1, 12]], axis=0)
    np.testing.assert_allclose(column[0], mean, rtol=1e-6)
    assert column[1:3] == [[2, 1, 12], None] and column[3] == column[0]


def test_the_mean_of_unit_vectors_is_one_where_the_model_normalises(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["abcdefg", "ab"]))
    given = options(normalize_mean=True)
    encode(corpus, CountingBackend(), tmp_path / "out", given, chunker=Letters())
    first, second = pq.read_table(tmp_path / "out" / "part-00000.parquet").column("embedding").to_pylist()
    assert np.linalg.norm(first) == pytest.approx(1)
    assert second == [2, 1, 12]


def test_a_long_text_may_have_a_row_for_each_piece(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["abcdefg", None, "ab", "abcdefg"]))
    given = options(row_per_chunk=True, rows_per_part=2)
    result = encode(corpus, CountingBackend(), tmp_path / "out", given, chunker=Letters())
    parts = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert parts[0].to_pydict() == {
        "id": [0, 0, 0, 1],
        "chunk": [0, 1, 2, 0],
        "text": ["abc", "def", "g", None],
        "embedding": [[3, 1, 12], [3, 1, 12], [1, 1, 12], None],
    }
    assert parts[1].column("id").to_pylist() == [2, 3, 3, 3]
    assert [(part.rows, part.written_rows) for part in result.parts] == [(2, 4), (2, 4)]
    assert (
        manifests.check_files(output_of(tmp_path / "out"), [file for part in result.parts for file in part.files]) == []
    )


def test_long_rows_are_counted_and_not_cut_where_they_are_chunked(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a b c d e f", "a"]))
    backend = CountingBackend(max_tokens=4)
    result = encode(corpus, backend, tmp_path / "out", options(), chunker=Letters())
    assert (result.long_rows, result.truncated_rows) == (1, 0)


# ranges and plans


def find_ranges(job, backend):
    return encoder.sample_ranges(job, backend, encoder.sample_texts(job, range(job.corpus.rows)))


def test_ranges_are_those_of_texts_taken_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "RANGE_TEXTS", 4)
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", [None if i == 2 else "x" * (i + 1) for i in range(8)]))
    backend = CountingBackend()
    ranges = find_ranges(job_of(corpus, options(dtype="int8"), read=3), backend)
    assert backend.seen == ["x", "x" * 5, "x" * 7]
    assert ranges.tolist() == [[1, 1, 12], [7, 1, 12]]


@pytest.mark.parametrize("per_part", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_parts_on_their_own_give_the_sample_and_the_long_texts_of_all_rows(tmp_path, monkeypatch, per_part, count):
    """As the workers of another engine look through them."""
    monkeypatch.setattr(encoder, "RANGE_TEXTS", count)
    (tmp_path / "corpus").mkdir()
    texts = [None if i % 5 == 2 else f"text{i} " + "word " * (i % 4) for i in range(23)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", texts[:10])
    write_jsonl(tmp_path / "corpus" / "b.jsonl", texts[10:])
    job = job_of(open_corpus(tmp_path / "corpus"), options(rows_per_part=per_part), read=3)
    parts = [job.rows_of(number) for number in range(job.parts)]
    assert [text for rows in parts for text in encoder.sample_texts(job, rows)] == [
        text for text in texts[:: max(1, 23 // count)] if text is not None
    ]
    backend = CountingBackend(max_tokens=5)
    found = [encoder.find_long(job, backend, rows) for rows in parts]
    lines = []
    for one in (found, [encoder.find_long(job, backend, range(23))]):
        with pytest.raises(UserError) as refused:
            encoder.refuse_long(one, 5)
        lines.append(str(refused.value))
    assert lines[0] == lines[1]
    # Of texts 3, 7, 11, ... 7 is one of those that are null.
    assert "error: 4 texts are longer than the 5 tokens" in lines[0] and "a.jsonl line 4 with 6." in lines[0]
    encoder.refuse_long([encoder.find_long(job, CountingBackend(), rows) for rows in parts], None)


@pytest.mark.parametrize("row_per_chunk", [True, False])
def test_ranges_of_chunked_texts_are_those_of_what_is_stored(tmp_path, row_per_chunk):
    # Every text is a group of its own.
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a b c d e f", None, "a", "abcdefgh"]))
    chunked = {"chunker": Letters()}
    encode(corpus, CountingBackend(), tmp_path / "f", options(row_per_chunk=row_per_chunk), **chunked)
    column = pq.read_table(tmp_path / "f" / "part-00000.parquet").column("embedding").drop_null()
    stored = np.array(column.to_pylist())
    ranges = find_ranges(job_of(corpus, options(row_per_chunk=row_per_chunk), bytes=1, **chunked), CountingBackend())
    assert ranges.tolist() == [stored.min(axis=0).tolist(), stored.max(axis=0).tolist()]


def test_a_corpus_without_a_text_has_ranges_of_nothing(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", [None]))
    assert find_ranges(job_of(corpus, options(dtype="int8")), CountingBackend()).tolist() == [[0] * 3] * 2


def test_ranges_that_are_not_finite_are_refused(tmp_path):
    class Broken(CountingBackend):
        def embed(self, tokens, on_rows=None):
            return super().embed(tokens, on_rows) * np.float32("nan")

    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a", "b"]))
    with pytest.raises(UserError, match="some embeddings of this model are NaN or infinite"):
        find_ranges(job_of(corpus, options(dtype="int8")), Broken())


def test_int8_and_binary_are_those_of_the_library(tmp_path):
    from sentence_transformers import quantize_embeddings

    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a", "b b", "c c c", "dddd"]))
    ranges = np.array([[0, 0, 0], [3, 3, 24]], np.float32)
    vectors = CountingBackend().embed(Words(["a", "b b", "c c c", "dddd"], None), lambda rows: None)
    for dtype in ("int8", "binary"):
        encode(corpus, CountingBackend(), tmp_path / dtype, options(dtype=dtype), ranges=ranges)
        stored = pq.read_table(tmp_path / dtype / "part-00000.parquet").column("embedding").to_pylist()
        assert stored == quantize_embeddings(vectors, dtype, ranges=ranges).tolist()


def test_plans_differ_where_a_leaf_does():
    before = {"model": {"files": "a"}, "corpus": {"sources": {"0 c": "x"}}, "code": "1"}
    assert find_differences(before, json.loads(json.dumps(before))) == {}
    now = {"model": {"files": "b"}, "corpus": {"sources": {"0 c": "x", "1 d": "y"}}, "code": "2"}
    assert find_differences(before, now) == {
        "model.files": "model.files was a, is now b",
        "code": "code was 1, is now 2",
        "corpus.sources.1 d": "corpus.sources.1 d was None, is now y",
    }
    assert find_differences(before, now, ("code", "corpus")).keys() == {"model.files"}


def test_many_differences_are_counted():
    lines = [f"line {i}" for i in range(9)]
    assert shown(lines) == "line 0; line 1; line 2; line 3; line 4; line 5; and 3 more"


def test_the_code_is_known_by_its_files(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "a.py").write_text("1")
    before = code_digest(tmp_path)
    (tmp_path / "README.md").write_text("text")
    assert code_digest(tmp_path) == before
    (tmp_path / "common" / "a.py").write_text("2")
    assert code_digest(tmp_path) != before


# what a resumed run says of itself


def test_a_run_that_goes_on_counts_what_it_has_computed_itself(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "corpus.jsonl", [f"text {i}" for i in range(20)]))
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, StoppingBackend(3), tmp_path / "out", options())
    told, backend = [], WindowBackend()
    result = encode(corpus, backend, tmp_path / "out", options(), on_rows=told.append)
    assert 0 < result.resumed_rows < 20
    assert told[0] == result.resumed_rows and told[-1] == 20
    metrics = result.metrics()
    assert metrics["encode/computed_rows"] == len(backend.seen) == 20 - result.resumed_rows
    assert metrics["encode/tokens_per_second"] * result.seconds == pytest.approx(4 * len(backend.seen))
    again = encode(corpus, WindowBackend(), tmp_path / "out", options()).metrics()
    assert (again["encode/rows"], again["encode/computed_rows"], again["encode/tokens_per_second"]) == (20, 0, 0)


def test_a_corpus_that_moved_between_two_runs_is_named_where_it_is(tmp_path):
    texts = ["one", None, "three", None, "five", None]
    old, new = tmp_path / "old.jsonl", tmp_path / "moved" / "old.jsonl"
    corpus = open_corpus(write_jsonl(old, texts))
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, StoppingBackend(1), tmp_path / "out", options(rows_per_part=2))
    new.parent.mkdir()
    moved = open_corpus(old.rename(new))
    result = encode(moved, WindowBackend(), tmp_path / "out", options(rows_per_part=2))
    assert result.resumed_rows == 2
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [row["file"] for row in rejects] == [str(new)] * 3
    assert {end["file"] for part in result.parts for end in part.source.values()} == {str(new)}
    whole = encode(moved, WindowBackend(), tmp_path / "whole", options(rows_per_part=2))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert result.manifest() == whole.manifest() and result.parts == whole.parts


# rejects, whatever the type of their ids

MOMENT = 1_700_000_000
ID_TYPES = {
    "date32": pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3, 4)]),
    "date64": pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3, 4)], pa.date64()),
    **{
        f"timestamp[{unit}] {zone}": pa.array([MOMENT, MOMENT + 1, None, -1], pa.timestamp(unit, zone))
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "Europe/Berlin")
    },
    "time32": pa.array([1, 2, 3, 4], pa.time32("s")),
    "time64": pa.array([1, 2, 3, 4], pa.time64("ns")),
    "duration": pa.array([1, 2, 3, -4], pa.duration("ns")),
    "decimal128": pa.array([decimal.Decimal("1.50"), decimal.Decimal("-2.25"), None, decimal.Decimal("9" * 30)]),
    "decimal256": pa.array([decimal.Decimal(n) for n in (1, 2, 3, 10**50)], pa.decimal256(60, 2)),
    "binary": pa.array([b"\xff", b"", None, b"\0"]),
    "fixed binary": pa.array([b"ab", b"\xff\xfe", None, b"\0\0"], pa.binary(2)),
    "uuid": pa.array([uuid.UUID(int=n).bytes for n in (1, 2, 3, 4)], pa.uuid()),
    "float": pa.array([1.5, float("nan"), float("-inf"), -0.0]),
    "float16": pa.array(np.array([1.5, np.nan, np.inf, 3], np.float16)),
    "uint64": pa.array([2**64 - 1, 2**63, 0, 1], pa.uint64()),
    "bool": pa.array([True, False, None, True]),
    "string view": pa.array(["a", "b" * 40, None, ""], pa.string_view()),
    "dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "list": pa.array([[1], [], None, [2, None]]),
    "struct": pa.array([{"a": datetime.date(2024, 1, 1), "b": [n]} for n in (b"\xff", b"2", None, b"4")]),
    "struct of seconds": pa.array([{"a": n} for n in (1, 2, 3, 4)], pa.struct([("a", pa.timestamp("s"))])),
    "map": pa.array([[("k", 1)], [], None, [("l", 2)]], pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("name", ID_TYPES)
def test_rows_without_an_embedding_keep_an_id_of_any_type(tmp_path, name):
    ids = pa.concat_arrays([ID_TYPES[name]] * 2)
    table = pa.table({"text": ["one", None, None, "four", "five", "six", None, None], "key": ids})
    with pa.ipc.new_file(tmp_path / "corpus.arrow", table.schema) as writer:
        writer.write_table(table)
    corpus = open_corpus(tmp_path / "corpus.arrow", id_column="key")
    given, out = options(rows_per_part=4), tmp_path / "out"
    encode(corpus, WindowBackend(), tmp_path / "whole", given)
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, StoppingBackend(1), out, given)
    result = encode(corpus, WindowBackend(), out, given)
    assert result.resumed_rows == 4
    assert content(out) == content(tmp_path / "whole")

    rejects = pq.read_table(out / "rejects.parquet")
    assert rejects.column("row").to_pylist() == [1, 2, 6, 7]
    parts = read_parts(out)
    assert rejects.column("id").type == parts.column("id").type
    # Compared as they are written: NaN equals nothing.
    found, ids = rejects.column("id").to_pylist(), parts.column("id").to_pylist()
    assert repr(found) == repr([ids[row] for row in (1, 2, 6, 7)])

    # A whole output that is damaged has its records made again, from rejects.parquet.
    output = output_of(out)
    manifests.write_manifest(output, make_manifest(result.parts, **result.manifest()))
    output.clear_work()
    (out / "part-00001.parquet").unlink()
    records.restore(output)
    assert encode(corpus, WindowBackend(), out, given).resumed_rows == 4
    for name in (manifests.MANIFEST, manifests.COPY):
        (out / name).unlink()
    assert content(out) == content(tmp_path / "whole")


def test_long_values_of_a_plan_are_shown_from_where_they_differ():
    (line,) = find_differences({"a": "x" * 200 + "old"}, {"a": "x" * 200 + "new"}).values()
    assert line == f"a was ...{'x' * 20}old, is now ...{'x' * 20}new"
