"""Reuse: a new output takes the vectors of an old one for the texts that it holds."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from helpers.encodes import manifest_of, some_texts, write_jsonl
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
    code, out, err = encode(
        tmp_path / "new.jsonl", f"reuse={tmp_path / 'out'}", "rows_per_part=7", output=tmp_path / "new"
    )
    assert code == 0, err
    found = last_json(out)
    assert (found["encode/reused_rows"], found["encode/computed_rows"], found["encode/rows"]) == (31, 2, 33)
    old, new = vectors_of(tmp_path / "out"), vectors_of(tmp_path / "new")
    assert {text: old[text] for text in old_texts[5:]} == {text: new[text] for text in old_texts[5:]}
    assert step("verify", f"output={tmp_path / 'new'}")[0] == 0
    assert manifest_of(tmp_path / "new")["reused"]["rows"] == 31


def test_ids_that_were_added_changed_and_removed_are_listed(encode, step, tmp_path):
    write_jsonl(tmp_path / "old.jsonl", ["a", "b", "c", "d", "e"], key=["1", "2", "3", "4", "5"])
    assert encode(tmp_path / "old.jsonl", "corpus.id_column=key")[0] == 0
    write_jsonl(tmp_path / "new.jsonl", ["x", "e", "b", "a", "f"], key=["4", "5", "2", "1", "6"])
    given = ("corpus.id_column=key", f"reuse={tmp_path / 'out'}")
    code, out, err = encode(tmp_path / "new.jsonl", *given, output=tmp_path / "new")
    assert code == 0, err
    assert pq.read_table(tmp_path / "new" / "changes.parquet").to_pydict() == {
        "id": ["6", "4", "3"],
        "what": ["added", "changed", "removed"],
    }
    assert step("verify", f"output={tmp_path / 'new'}")[0] == 0
