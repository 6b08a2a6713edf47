"""A part made alone: in any order, in any process, with the same bytes."""

import json
import pickle
import random

import pyarrow.parquet as pq
import pytest
from helpers.corpora import open_corpus
from helpers.encodes import write_jsonl
from helpers.outputs import ORIGIN
from helpers.parts import Letters, WindowBackend, content, job_of, options, output_of, some_texts

from steps.common.corpus.opening import SCAN
from steps.common.corpus.readers import jsonl
from steps.common.embeddings import pipeline

# Makes every second part of some jobs, from the last on.
MAKE_PARTS = """
import pickle, sys
from pathlib import Path
from helpers.parts import WindowBackend, open_beside
from steps.common.embeddings import pipeline
for job, folder in pickle.loads(Path(sys.argv[1]).read_bytes()):
    for part in range(job.parts - int(sys.argv[2]), -1, -2):
        pipeline.make_part(job, part, WindowBackend(), open_beside(folder))
print(hash("a text"))
"""


def test_parts_made_in_reverse_order_by_two_processes_are_those_of_one_encode(tmp_path, forks):
    """Texts have other hashes in them than in this process."""
    rng = random.Random(7)
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", some_texts(rng, 50))
    corpus, limits = open_corpus(f"{tmp_path}/*.jsonl"), {"rows": 5, "read": 7, "kept": 48, "ahead": 300}
    given = {
        "plain": ({}, {}),
        "matrices": ({"format": "npy", "dtype": "float16"}, {}),
        "means": ({}, {"chunker": Letters()}),
        "chunks": ({"row_per_chunk": True}, {"chunker": Letters()}),
    }
    jobs = [
        (job_of(corpus, options(rows_per_part=12, **wanted), origin=ORIGIN, **limits, **more), tmp_path / name)
        for name, (wanted, more) in given.items()
    ]
    for _, folder in jobs:
        output_of(folder)
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    processes = [forks.start("-c", MAKE_PARTS, tmp_path / "jobs", last) for last in (1, 2)]
    said = [process.communicate(300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all(int(out) != hash("a text") for out, _ in said)

    for job, folder in jobs:
        whole_folder, backend = folder.with_suffix(".whole"), WindowBackend()
        whole = pipeline.encode_corpus(job, WindowBackend(), output_of(whole_folder))
        result = pipeline.encode_corpus(job, backend, output_of(folder))
        assert backend.seen == []
        assert content(folder) == content(whole_folder)
        assert (result.parts, result.manifest()) == (whole.parts, whole.manifest())


def test_a_part_is_returned_as_its_record_says(tmp_path):
    job = job_of(
        open_corpus(write_jsonl(tmp_path / "corpus.jsonl", ["a", "b", None, "d", "e"])), options(rows_per_part=2)
    )
    part = pipeline.make_part(job, 1, WindowBackend(), output_of(tmp_path / "out"))
    assert (part.name, part.first_row, part.rows, part.counts["null_rows"]) == ("part-00001.parquet", 2, 2, 1)
    assert pq.read_table(tmp_path / "out" / part.name).column("text").to_pylist() == [None, "d"]
    assert pipeline.find_finished(job, output_of(tmp_path / "out")) == {1}


@pytest.fixture
def read(monkeypatch):
    """What was read of a corpus: the row and the mark that reading began with, and the rows that came, file by file."""
    calls, read = [], jsonl.FORMAT.read

    def counting(request):
        call = [request.first, request.mark.row, 0]
        calls.append(call)
        for rows in read(request):
            call[2] += len(rows)
            yield rows

    monkeypatch.setattr(jsonl.FORMAT, "read", counting)
    return calls


def test_an_encode_with_its_last_part_missing_reads_from_the_mark_before_it(tmp_path, read):
    path = write_jsonl(tmp_path / "corpus.jsonl", [f"text {i}" for i in range(30_000)])
    corpus, given = open_corpus(path), options(rows_per_part=10_000)
    noted = json.loads(json.dumps(corpus.noted()))
    pipeline.encode_corpus(job_of(corpus, given), WindowBackend(), output_of(tmp_path / "out"))
    # Once through, and once for the parts together.
    assert read == [[0, 0, 30_000]] * 2
    (tmp_path / "out" / "part-00002.parquet").unlink()
    read.clear()
    result = pipeline.encode_corpus(
        job_of(open_corpus(path, noted=noted), given), WindowBackend(), output_of(tmp_path / "out")
    )
    assert result.resumed_rows == 20_000
    # Marks are as far from each other as the read-through has read at a time.
    assert read == [[20_000, 20_000 // SCAN * SCAN, 10_000]]


def test_missing_parts_that_follow_each_other_are_read_in_one_go(tmp_path, read):
    job = job_of(open_corpus(write_jsonl(tmp_path / "corpus.jsonl", "abcdefghij")), options(rows_per_part=2))
    pipeline.encode_corpus(job, WindowBackend(), output_of(tmp_path / "out"))
    for part in (0, 2, 3):
        (tmp_path / "out" / f"part-0000{part}.parquet").unlink()
    read.clear()
    backend = WindowBackend()
    pipeline.encode_corpus(job, backend, output_of(tmp_path / "out"))
    assert backend.seen == list("abefgh")
    assert [first for first, _, _ in read] == [0, 4]
