"""What verify finds, and what the same encode repairs."""

from pathlib import Path

import pytest
from helpers.encodes import content
from helpers.outputs import flip_a_byte
from helpers.steps import last_json


def test_verify_finds_an_output_whole(step, encode, corpus, tmp_path):
    import mlflow

    _, out, _ = encode(corpus)
    encoded = last_json(out)
    assert encoded["next"].endswith(f"steps.verify output={tmp_path / 'out'}")
    code, out, err = step("verify", f"--output={tmp_path / 'out'}")
    assert code == 0, err
    run = mlflow.get_run(last_json(out)["run_id"])
    assert (run.data.metrics["verify/rows"], run.data.metrics["verify/findings"]) == (35, 0)
    assert run.data.tags["upstream_run_id"] == encoded["run_id"]


def test_verify_finds_damage_and_the_same_encode_mends_it(step, encode, corpus, tmp_path):
    encode(corpus)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "part-00001.parquet").write_bytes(b"torn")
    (tmp_path / "out" / "part-00002.parquet").unlink()
    code, out, err = step("verify", f"--output={tmp_path / 'out'}")
    assert code == 1
    assert "part-00001.parquet has 4 bytes" in out and "part-00002.parquet is missing" in out
    assert "2 finding(s)" in err
    code, out, err = encode(corpus)
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 15
    assert content(tmp_path / "out") == before
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_byte])
def test_verify_finds_a_damaged_copy_of_the_manifest_and_the_same_encode_writes_it_again(
    step, encode, corpus, tmp_path, damage
):
    encode(corpus)
    damage(tmp_path / "out" / ".manifest.json")
    code, _, err = step("verify", f"--output={tmp_path / 'out'}")
    assert code == 1
    assert "1 finding(s): .manifest.json, the copy of the manifest, " in err
    assert "Run the same encode again to repair it." in err
    code, out, err = encode(corpus)
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 35
    assert step("verify", f"--output={tmp_path / 'out'}")[0] == 0


def test_verify_reads_what_a_run_holds(step, encode, corpus):
    _, out, _ = encode(corpus, output=None)
    code, _, err = step("verify", f"--output={last_json(out)['embeddings']}")
    assert code == 0, err
