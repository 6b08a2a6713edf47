"""What is shown of a job of Spark on the way, by the records of its parts."""

import logging

from helpers.corpora import open_corpus
from helpers.counting import CountingBackend
from helpers.encodes import write_jsonl
from helpers.parts import job_of, options, output_of

from steps.common.embeddings import progress
from steps.common.embeddings.pipeline import make_part
from steps.common.engines.parts import Lookout


def test_the_log_says_how_many_parts_are_there_whoever_has_made_them(tmp_path, monkeypatch, caplog):
    write_jsonl(tmp_path / "a.jsonl", [f"text {i}" for i in range(23)])
    job, output = job_of(open_corpus(tmp_path / "a.jsonl"), options(rows_per_part=5)), output_of(tmp_path / "out")
    for number in (0, 2, 4):
        make_part(job, number, CountingBackend(), output)
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0)
    told = []
    with progress.Progress(23, 5) as shown, caplog.at_level(logging.INFO, "steps"):
        logging.getLogger("steps").propagate = True
        # Part 0 was there before.
        Lookout(job, output, [1, 2, 3, 4], shown, told.append)()
    assert told == [13]
    assert caplog.messages[-1].startswith("13 of 23 rows (57 %)") and caplog.messages[-1].endswith("; 3 of 5 parts")
