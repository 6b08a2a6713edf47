"""Reuse: a new output takes the vectors of an old one for the texts that it holds."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.encodes import content, manifest_of, some_texts, write_jsonl
from helpers.steps import last_json


def vectors_of(folder):
    rows = [row for path in sorted(Path(folder).glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["text"]: np.float32(row["embedding"]).tobytes() for row in rows}


def test_only_what_is_new_is_computed(encode, step, tmp_path):
    old_texts = some_texts(35)
    write_jsonl(tmp_path / "old.jsonl", old_texts)
    assert encode(tmp_path / "old.jsonl")[0] == 0
    texts = [*reversed(old_texts[5:]), "the new cat", "the red stone is new", old_texts[7]]
    write_jsonl(tmp_path / "new.jsonl", texts)
    code, out, err = encode(tmp_path / "new.jsonl", f"reuse={tmp_path / 'out'}", "rows_per_part=7", output=tmp_path / "new")
    assert code == 0, err
    found = last_json(out)
    assert (found["encode/reused_rows"], found["encode/computed_rows"], found["encode/rows"]) == (31, 2, 33)
    old, new = vectors_of(tmp_path / "out"), vectors_of(tmp_path / "new")
    assert {text: old[text] for text in old_texts[5:]} == {text: new[text] for text in old_texts[5:]}
    assert step("verify", f"output={tmp_path / 'new'}")[0] == 0
    assert manifest_of(tmp_path / "new")["reused"]["rows"] == 31
