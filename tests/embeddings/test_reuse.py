"""Vectors of another output: which are taken, which are computed, and what is refused."""

import dataclasses
import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from helpers.counting import CountingBackend
from helpers.encodes import read_parts, write_jsonl
from helpers.outputs import make_manifest
from helpers.parts import Letters, WindowBackend, content, job_of, open_beside, options, output_of, some_texts

from steps.common.embeddings import copies, encoder, pipeline
from steps.common.embeddings import manifest as manifests
from steps.common.embeddings.changes import write_changes
from steps.common.embeddings.digests import Index, digest_keys, digest_texts
from steps.common.embeddings.reuse import CHECKED, Reuse, check_alike, open_reuse
from steps.common.errors import UserError
from steps.common.storage.output import Output
from steps.common.vectors import nearest_stored

LIMITS = {"rows": 5, "read": 7, "kept": 48, "ahead": 300}


class Backend(CountingBackend):
    precision = "f32"


class Shifted(Backend):
    """Computes something else than `Backend`."""

    def embed(self, tokens, on_rows=None):
        return super().embed(tokens, on_rows) * np.float32([1, -1, 1])


def encode(job, folder, backend):
    return pipeline.encode_corpus(job, backend, output_of(folder))


def old_output(job, folder, backend=None, **facts):
    """A whole output, and what can be taken from it without a sample being computed anew."""
    result = encode(job, folder, backend or WindowBackend())
    output = open_beside(folder)
    given = result.manifest() | {"plan": {}} | facts
    manifests.write_manifest(output, make_manifest(result.parts, **given))
    return reused(folder)


def reused(folder, unchecked=0):
    reuse = open_reuse(open_beside(folder), str(folder))
    reuse.unchecked = unchecked
    return reuse


def vectors_of(folder):
    """Each text of an output of float32, or piece of a text, and its vectors' bytes."""
    found: dict = {}
    for row in read_parts(folder).to_pylist():
        if row["text"] is not None:
            found.setdefault(row["text"], set()).add(np.float32(row["embedding"]).tobytes())
    return found


def two_corpora(tmp_path, seed=3):
    """A corpus with repeats, nulls and empty texts; and another order of it with rows removed, changed and added."""
    rng = random.Random(seed)
    old = some_texts(rng, 60)
    new = [f"{text} changed" if text and rng.random() < 0.1 else text for text in old[7:]] + ["new", None, "", "newer"]
    rng.shuffle(new)
    return (
        open_corpus(write_jsonl(tmp_path / "old.jsonl", old)),
        open_corpus(write_jsonl(tmp_path / "new.jsonl", new)),
        new,
    )


@pytest.mark.parametrize(
    ("wanted", "more"),
    [
        ({}, {}),
        ({"keep_text": False}, {}),
        ({"format": "npy"}, {}),
        ({}, {"chunker": Letters()}),
        ({"row_per_chunk": True}, {"chunker": Letters()}),
    ],
    ids=["plain", "without text", "matrices", "means of chunks", "a row for each chunk"],
)
def test_texts_that_the_old_output_holds_are_copied_and_the_others_computed(tmp_path, wanted, more):
    old, new, _ = two_corpora(tmp_path)
    old_job = job_of(old, options(rows_per_part=12, **wanted), **LIMITS, **more)
    whole_job = job_of(new, options(rows_per_part=9, **wanted), **LIMITS, **more)
    reuse, backend = old_output(old_job, tmp_path / "old"), WindowBackend()
    result = encode(dataclasses.replace(whole_job, reuse=reuse), tmp_path / "new", backend)
    # The same of parts that are made alone, in another order, each by a process of its own.
    for part in reversed(range(whole_job.parts)):
        job = pickle.loads(pickle.dumps(dataclasses.replace(whole_job, reuse=reuse, chunker=None)))
        job.reuse.unchecked = 0
        job = dataclasses.replace(job, chunker=whole_job.chunker)
        pipeline.make_part(job, part, WindowBackend(), output_of(tmp_path / "alone"))
    alone = content(tmp_path / "alone")
    assert alone == {name: data for name, data in content(tmp_path / "new").items() if name in alone} and len(alone) > 6

    whole = encode(whole_job, tmp_path / "whole", WindowBackend())
    same = ("rows", "tokens", "long_rows", "null_rows", "empty_rows", "written_rows")
    assert [getattr(result, name) for name in same] == [getattr(whole, name) for name in same]
    digests = [
        set(pq.read_table(sorted((tmp_path / name / "digests").glob("*"))).column("digest").to_pylist())
        for name in ("old", "new", "whole")
    ]
    assert digests[1] == digests[2]
    # Those that are computed are no text, or no piece, of the old output.
    computed = set(digest_texts(pa.array(backend.seen)).to_pylist())
    if "chunker" not in more or wanted:
        assert computed == digests[1] - digests[0] - {None}
    assert 0 < result.reused_rows < result.rows
    if wanted in ({}, {"row_per_chunk": True}):
        before, now = vectors_of(tmp_path / "old"), vectors_of(tmp_path / "new")
        assert all(now[text] <= before[text] for text in now.keys() & before.keys())


def test_repeats_of_a_reused_text_count_as_reused_in_later_windows_too(tmp_path):
    job = job_of(open_corpus(write_jsonl(tmp_path / "old.jsonl", ["a", "b"])), options(rows_per_part=12), rows=2)
    reuse = old_output(job, tmp_path / "old", Backend())
    texts = ["a", "x", "a", "y", "x", "a", None, "b"]
    job = job_of(open_corpus(write_jsonl(tmp_path / "new.jsonl", texts)), options(rows_per_part=12), rows=2)
    backend = Backend()
    result = encode(dataclasses.replace(job, reuse=reuse), tmp_path / "new", backend)
    assert backend.seen == ["x", "y"]
    assert (result.reused_rows, result.computed_rows, result.rows, result.null_rows) == (4, 2, 8, 1)


def without_digests(folder, **facts):
    """Make of an output what an older version has written."""
    output = open_beside(folder)
    manifest = manifests.find_manifest(output)
    parts = [
        dataclasses.replace(part, beside=[file for file in part.beside if not file.name.startswith("digests/")])
        for part in manifest.parts
    ]
    for path in (folder / "digests").iterdir():
        path.unlink()
    manifests.write_manifest(output, dataclasses.replace(manifest, parts=parts, **facts))


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_an_output_without_digests_is_known_by_its_texts(tmp_path, format):
    old, new, _ = two_corpora(tmp_path)
    wanted = options(rows_per_part=12, format=format)
    old_output(job_of(old, wanted, **LIMITS), tmp_path / "old")
    job = job_of(new, wanted, **LIMITS)
    expected = encode(dataclasses.replace(job, reuse=reused(tmp_path / "old")), tmp_path / "expected", WindowBackend())
    without_digests(tmp_path / "old")
    backend = WindowBackend()
    result = encode(dataclasses.replace(job, reuse=reused(tmp_path / "old")), tmp_path / "new", backend)
    assert content(tmp_path / "new") == content(tmp_path / "expected")
    assert result.manifest() == expected.manifest()


def test_an_output_with_neither_texts_nor_digests_is_refused(tmp_path):
    job = job_of(open_corpus(write_jsonl(tmp_path / "old.jsonl", ["a", "b"])), options(keep_text=False))
    old_output(job, tmp_path / "old", Backend())
    without_digests(tmp_path / "old")
    with pytest.raises(
        UserError, match="holds neither texts nor their digests, so it cannot be reused.*keep_text=false"
    ):
        reused(tmp_path / "old").find(["a"])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "part-00001.parquet"),
        lambda folder: (folder / "part-00001.parquet").unlink(),
        lambda folder: (folder / "part-00001.parquet").write_bytes(b""),
        lambda folder: flip(folder / "digests" / "part-00001.parquet"),
        lambda folder: (folder / "digests" / "part-00001.parquet").unlink(),
    ],
    ids=["changed", "missing", "empty", "changed digests", "missing digests"],
)
def test_a_part_that_does_not_match_its_manifest_is_computed_with_a_warning(tmp_path, caplog, damage):
    corpus = open_corpus(write_jsonl(tmp_path / "old.jsonl", "abcdefghij"))
    job = job_of(corpus, options(rows_per_part=4))
    old_output(job, tmp_path / "old", Backend())
    damage(tmp_path / "old")
    backend = Backend()
    result = encode(dataclasses.replace(job, reuse=reused(tmp_path / "old")), tmp_path / "new", backend)
    assert backend.seen == list("efgh")
    assert (result.reused_rows, result.computed_rows) == (6, 4)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "part-00001.parquet of" in warnings[0] and "is not reused: " in warnings[0]
    assert content(tmp_path / "new").keys() == {"part-00000.parquet", "part-00001.parquet", "part-00002.parquet"}


def test_an_encode_that_is_stopped_at_any_file_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    old, new, _ = two_corpora(tmp_path)
    old_output(job_of(old, options(rows_per_part=12), **LIMITS), tmp_path / "old")
    job = job_of(new, options(rows_per_part=20), **LIMITS)
    put_file, calls = Output.put, []

    def put_until(last):
        def put(self, temporary, name):
            calls.append(name)
            if len(calls) == last:
                raise KeyboardInterrupt
            put_file(self, temporary, name)

        return put

    def run(folder, last=None):
        with monkeypatch.context() as patch:
            patch.setattr(Output, "put", put_until(last))
            return encode(dataclasses.replace(job, reuse=reused(tmp_path / "old")), folder, WindowBackend())

    whole = run(tmp_path / "whole")
    files = {*calls}
    for last in range(1, len(files) + 1):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / f"{last}", last)
        result = run(tmp_path / f"{last}")
        assert content(tmp_path / f"{last}") == content(tmp_path / "whole")
        assert result.manifest() == whole.manifest()
    assert len(files) > 9


def test_copies_that_the_disk_has_no_room_for_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "SHARE", 10**15)
    texts = [f"text {i}" for i in range(40)]
    job = job_of(open_corpus(write_jsonl(tmp_path / "old.jsonl", texts)), options(rows_per_part=4))
    reuse = old_output(job, tmp_path / "old", Backend())
    for _ in range(2):
        held = reuse.find([*reversed(texts), "new"])
        assert held.found.tolist() == [True] * 40 + [False]
        assert held.vectors[:40].tolist() == [[len(text), 2, 12] for text in reversed(texts)]
        assert held.lengths[:40].tolist() == [4] * 40


def test_an_index_finds_the_first_row_of_a_digest():
    keys = digest_keys(digest_texts(pa.array(["a", None, "b", "a", ""])))
    index = Index.build(keys[:, 0].copy(), keys[:, 1].copy())
    asked = digest_keys(digest_texts(pa.array(["b", "a", "c", ""])))
    assert index.find(asked).tolist() == [2, 0, -1, 4]
    # Half a digest is not enough.
    assert index.find(asked ^ np.uint64([0, 1])).tolist() == [-1] * 4
    assert Index.build(np.empty(0, np.uint64), np.empty(0, np.uint64)).find(asked).tolist() == [-1] * 4


def test_digests_are_those_of_the_text_wherever_an_array_begins():
    texts = pa.array(["x", "ä", None, "", "y"])
    whole = digest_texts(texts).to_pylist()
    assert digest_texts(texts.slice(1, 3)).to_pylist() == whole[1:4] and whole[2] is None
    assert digest_keys(digest_texts(texts).slice(2)).tolist() == digest_keys(digest_texts(texts)).tolist()[2:]
    assert len({*whole}) == 5


# the sample


def all_texts(job):
    return encoder.sample_texts(job, range(job.corpus.rows))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("more", [{}, {"row_per_chunk": True}])
def test_vectors_that_the_same_model_has_made_agree_with_those_computed_now(tmp_path, caplog, dtype, more):
    caplog.set_level("INFO")
    given = {"chunker": Letters()} if more else {}
    job = job_of(
        open_corpus(write_jsonl(tmp_path / "old.jsonl", [f"text {i}" * i for i in range(40)])),
        options(dtype=dtype, **more),
        **given,
    )
    job = dataclasses.replace(job, ranges=encoder.make_ranges(job, Backend(), all_texts))
    old_output(job, tmp_path / "old", Backend())
    backend = Backend()
    encode(dataclasses.replace(job, reuse=reused(tmp_path / "old", CHECKED)), tmp_path / "new", backend)
    assert 0 < len(backend.seen) <= CHECKED
    assert "computed again and agree within" in caplog.text
    said = r"differ from those computed now: .* of .* reused texts by up to .* \(relative\); at most .* is expected of"
    with pytest.raises(UserError, match=said):
        encode(dataclasses.replace(job, reuse=reused(tmp_path / "old", CHECKED)), tmp_path / "other", Shifted())
    assert [path.name for path in (tmp_path / "other").glob("part-*")] == []


def test_new_texts_beyond_the_ranges_of_the_old_output_are_a_warning(tmp_path, caplog):
    old = job_of(open_corpus(write_jsonl(tmp_path / "old.jsonl", ["a b", "a b c d"])), options(dtype="int8"))
    old = dataclasses.replace(old, ranges=encoder.make_ranges(old, Backend(), all_texts))
    old_output(old, tmp_path / "old", Backend())
    for name, texts, warnings in (("like", ["a b", "a b c"], 0), ("unlike", ["a b", *["word " * 90] * 7], 1)):
        new = job_of(open_corpus(write_jsonl(tmp_path / f"{name}.jsonl", texts)), options(dtype="int8"))
        job = dataclasses.replace(new, reuse=reused(tmp_path / "old"), ranges=old.ranges)
        caplog.clear()
        encode(job, tmp_path / name, Backend())
        assert caplog.text.count("are outside the int8 ranges of reuse=") == warnings


def test_a_stored_number_stands_for_all_that_are_stored_as_it():
    ranges = np.float32([[0, 0], [255, 255]])
    vectors = np.float32([[10.7, 300], [20, -5]])
    stored = np.int8([[10 - 128, 127], [90 - 128, -128]])
    assert nearest_stored(vectors, stored, "int8", ranges).tolist() == [[np.float32(10.7), 300], [89, -5]]
    bits = np.packbits(np.array([[1, 0]], bool), axis=1).astype(np.int16) - 128
    assert nearest_stored(np.float32([[2, 3]]), bits.astype(np.int8), "binary", None).tolist() == [[2, 0]]


# what is refused


PLAN = {
    "model": {"files": "ab", "prompt": None},
    "backend": {"name": "openvino", "precision": "f32", "digest": "1", "device": "cpu", "batch_size": 64},
    "embedding": {"dtype": "float32", "truncate_dim": None},
    "corpus": {"long_text": "truncate", "chunk_overlap": 32, "chunk_pooling": "mean", "sources": {"a": "x"}},
    "rows_per_part": 5,
    "code": "1",
    "versions": {"torch": "2"},
}


def changed(**keys):
    """The plan with other values, by dotted keys with __ for the dot."""
    plan = {name: dict(value) if isinstance(value, dict) else value for name, value in PLAN.items()}
    for key, value in keys.items():
        node, _, name = key.partition("__")
        if name:
            plan[node][name] = value
        else:
            plan[node] = value
    return plan


def check(before, now):
    check_alike(Reuse(open_beside(Path("old")), make_manifest([], plan=before), "old"), now)


@pytest.mark.parametrize(
    "keys",
    [
        {"code": "2", "versions": {"torch": "3"}, "rows_per_part": 7},
        {"corpus__sources": {"b": "y"}, "backend__batch_size": 8, "backend__digest": "2"},
        {"corpus__long_text": "error", "corpus__chunk_overlap": 3},
    ],
)
def test_what_does_not_decide_a_vector_may_differ(keys):
    check(PLAN, changed(**keys))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"model__files": "cd"}, "model.files was ab, is now cd"),
        ({"model__prompt": "query: "}, "model.prompt was None, is now query: "),
        ({"backend__precision": "bf16"}, "backend.precision was f32, is now bf16"),
        ({"backend__name": "torch"}, "backend.name was openvino, is now torch"),
        ({"embedding__truncate_dim": 7}, "embedding.truncate_dim was None, is now 7"),
        ({"embedding__dtype": "int8"}, "embedding.dtype was float32, is now int8"),
        ({"corpus__long_text": "chunk"}, "corpus.long_text was truncate, is now chunk"),
    ],
)
def test_what_decides_a_vector_may_not(keys, line):
    with pytest.raises(
        UserError, match=f"reuse=old holds vectors of other settings: .*{line}.*Vectors of two models do not mix"
    ):
        check(PLAN, changed(**keys))


def test_int8_that_was_converted_again_is_another_model():
    with pytest.raises(UserError, match="backend.digest was 1, is now 2"):
        check(changed(backend__precision="int8"), changed(backend__precision="int8", backend__digest="2"))


def test_of_a_plan_that_is_known_in_part_that_part_is_compared():
    check(PLAN, {"backend": {"batch_size": 1}, "embedding": PLAN["embedding"], "corpus": PLAN["corpus"]})
    check(PLAN, {"model": {"files": "ab"}})
    with pytest.raises(UserError, match="backend.name was openvino, is now torch"):
        check(PLAN, {"backend": {"name": "torch"}})


# changes


def changes_of(tmp_path, old, new, **wanted):
    """What write_changes says of two corpora, each as ids and texts; in how it is written and in its counts."""
    sides = []
    for name, (ids, texts) in {"before": old, "now": new}.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"key": ids, "text": pa.array(texts, pa.string())}), path)
        chunker = {"chunker": Letters()} if wanted else {}
        job = job_of(open_corpus(path, id_column="key"), options(rows_per_part=3, **wanted), **chunker)
        sides.append((open_beside(tmp_path / name), encode(job, tmp_path / name, Backend()).parts))
    changes = write_changes(*sides)
    table = pq.read_table(tmp_path / "now" / "changes.parquet")
    assert not manifests.check_files(sides[1][0], [changes.file])
    found = {
        what: [row["id"] for row in table.to_pylist() if row["what"] == what]
        for what in ("added", "changed", "removed")
    }
    assert [len(ids) for ids in found.values()] == [changes.added, changes.changed, changes.removed]
    return found


@pytest.mark.parametrize("wanted", [{}, {"keep_text": False}, {"row_per_chunk": True}])
def test_ids_are_added_changed_or_removed_whatever_row_they_are_in(tmp_path, wanted):
    old = (list("abcdefg"), ["one", "two", "three of it", None, "five", "six", "seven"])
    new = (list("gfxdcbay"), ["seven", None, "one", "4", "three of at", "two", "one", None])
    assert changes_of(tmp_path, old, new, **wanted) == {
        "added": ["x", "y"],
        "changed": ["f", "d", "c"],
        "removed": ["e"],
    }


def test_an_id_that_stands_there_twice_is_listed_once(tmp_path):
    old = ([1, 1, 2, 2, 3, 3, 4, 4], list("abcdefgh"))
    new = ([2, 2, 1, 3, 3, 5, 5, 4], list("cxaefmng"))
    # 1 and 4 have lost one of their texts; 2 has another one.
    assert changes_of(tmp_path, old, new) == {"added": [5], "changed": [2, 1, 4], "removed": []}


def test_ids_of_two_types_are_the_same_where_they_read_the_same(tmp_path):
    found = changes_of(tmp_path, ([1, 2, 3], list("abc")), (["1", "2", "x"], list("abc")))
    assert found == {"added": ["x"], "changed": [], "removed": ["3"]}


def test_a_null_is_an_id_of_its_own_beside_the_number_zero(tmp_path):
    found = changes_of(tmp_path, (pa.array([None, 0, 5]), list("abc")), (pa.array([0, 5]), ["b", "c"]))
    assert found == {"added": [], "changed": [], "removed": [None]}


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.string_view()], ids=str)
def test_ids_of_rare_types_are_compared_too(tmp_path, kind):
    ids = [one if kind == pa.string_view() else b"\xff" + one.encode() for one in ("a", "b" * 20, "c", "d")]
    old, new = (
        (pa.array(ids[:3], pa.string() if kind == pa.string_view() else pa.binary()).cast(kind), list("xyz")),
        ids[1:],
    )
    found = changes_of(tmp_path, old, (pa.array(new).cast(kind), ["y", "q", "r"]))
    assert found == {"added": ids[3:], "changed": [ids[2]], "removed": [ids[0]]}


def test_of_an_output_that_is_damaged_throughout_every_id_is_new(tmp_path):
    path = tmp_path / "now.parquet"
    pq.write_table(pa.table({"key": ["a", "b"], "text": ["x", "y"]}), path)
    parts = encode(job_of(open_corpus(path, id_column="key"), options()), tmp_path / "now", Backend()).parts
    changes = write_changes((open_beside(tmp_path / "gone"), []), (open_beside(tmp_path / "now"), parts))
    assert (changes.added, changes.changed, changes.removed) == (2, 0, 0)


def test_nothing_changed_is_an_empty_table(tmp_path):
    found = changes_of(tmp_path, ([1, 2], ["a", "b"]), ([2, 1], ["b", "a"]))
    assert found == {"added": [], "changed": [], "removed": []}


def by_hand(old, new):
    """What changed between two lists of (id, text), as sets of ids written as Python writes them."""
    then, now = ({repr(key): {text for one, text in side if one == key} for key, _ in side} for side in (old, new))
    return {
        "added": {key for key in now if key not in then},
        "changed": {key for key in now if key in then and now[key] != then[key]},
        "removed": {key for key in then if key not in now},
    }


@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda i: {"a": i}, pa.struct([("a", pa.int64())])),
        (lambda i: {"a": i % 5, "b": {"c": [f"é{i}", None]}}, None),
        (lambda i: [i, i + 1], pa.list_(pa.int32())),
        (lambda i: [i / 4, i + 1.5], pa.list_(pa.float32(), 2)),
        (lambda i: [(f"k{i}", i)], pa.map_(pa.string(), pa.int64())),
        (lambda i: {"a": b"\xff%d" % i}, pa.struct([("a", pa.binary())])),
    ],
    ids=["struct", "nested struct", "list", "fixed list", "map", "struct of bytes"],
)
def test_changes_of_ids_that_are_structs_or_lists_are_those_of_two_sets(tmp_path, make, kind):
    rng = random.Random(5)
    old = [(make(i), rng.choice("abc")) for i in range(40)]
    new = [(key, rng.choice([text, text, "d"])) for key, text in old[6:]] + [(make(i), "n") for i in range(40, 45)]
    rng.shuffle(new)
    sides = [(pa.array([key for key, _ in side], kind), [text for _, text in side]) for side in (old, new)]
    found = changes_of(tmp_path, *sides)
    wanted = by_hand(old, new)
    assert {what: {repr(key) for key in keys} for what, keys in found.items()} == wanted
    assert all(wanted.values()) and all(len(keys) == len(wanted[what]) for what, keys in found.items())


def test_structs_of_two_types_are_the_same_where_they_read_the_same(tmp_path):
    old = pa.array([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, None])
    new = pa.array([{"b": "x", "a": 1}, {"b": "z", "a": 2}], pa.struct([("b", pa.string()), ("a", pa.int32())]))
    found = changes_of(tmp_path, (old, list("pqr")), (new, list("pq")))
    assert found == {"added": ['{"a": 2, "b": "z"}'], "changed": [], "removed": ['{"a": 2, "b": "y"}', None]}
