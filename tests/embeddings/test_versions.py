"""Outputs of versions 2, 3 and 4, as the code of then wrote them: 5 rows in parts of 2, one of them null."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.outputs import ORIGIN, flip_a_byte, put_part, record_of, table_of

from steps.common.embeddings import manifest as manifests
from steps.common.embeddings import pipeline, records, resume, verify
from steps.common.errors import UserError
from steps.common.storage import place as files
from steps.common.storage.output import PLAN, Output

# What a plan says, and the version that said it first.
NOTED_SINCE = {"plan": 2, "runs": 2, "ranges": 2, "format_version": 3, "origin": 4}


@pytest.fixture(params=[2, 3, 4])
def old_version(request):
    return request.param


@pytest.fixture
def old_output(tmp_path, old_version):
    shutil.copytree(Path(__file__).with_name(f"output_v{old_version}"), tmp_path / "old")
    output = Output(files.locate(tmp_path / "old"), tmp_path)
    output.make()
    return output


def interrupt_old(output, version):
    """The records of an old version, as it wrote them before the manifest."""
    manifest = json.loads(output.read_bytes(manifests.MANIFEST))
    plan = {name: manifest[name] for name, since in NOTED_SINCE.items() if since <= version}
    records.restore(output)
    output.write_text(PLAN, json.dumps(plan))
    output.delete(manifests.MANIFEST)


def test_an_output_of_an_old_version_is_verified(old_output, old_version):
    manifest, findings = verify.verify_output(old_output)
    assert (manifest.format_version, manifest.rows, findings) == (old_version, 5, [])
    model_id = None if old_version < 4 else manifest.model["model_id"]
    assert (manifest.origin and manifest.origin.model_id) == model_id
    flip_a_byte(old_output.place.local / "part-00001.parquet")
    (finding,) = verify.verify_output(old_output)[1]
    assert finding.startswith("part-00001.parquet has SHA-256")


@pytest.mark.parametrize("state", ["whole", "interrupted"])
def test_an_output_of_an_old_version_goes_on_with_its_plan(old_output, old_version, state):
    before = manifests.find_manifest(old_output)
    plan = before.plan
    if state == "interrupted":
        interrupt_old(old_output, old_version)
    assert verify.state_of(old_output) == state
    now = plan | {"code": "new", "corpus": plan["corpus"] | {"on_bad_row": "keep_nulls"}}
    begun = resume.begin(old_output, record_of(now, "next"), ["code"], lambda: None)
    # A version that says what made its parts goes on saying that, and of what commit the code is now.
    origin = dataclasses.replace(before.origin, git_commit=ORIGIN.git_commit) if before.origin else ORIGIN
    assert (begun.ranges_of_int8, begun.runs, begun.origin) == (None, [before.run_id, "next"], origin)
    rows = [range(0, 2), range(2, 4), range(4, 5)]
    job = types.SimpleNamespace(parts=3, stem="part-0000{}".format, rows_of=rows.__getitem__, origin=origin)
    assert pipeline.find_finished(job, old_output) == {0, 1, 2}
    rejects = records.read_record(old_output, "part-00001").read_rejects(pa.int64())
    assert rejects.select(["row", "id", "reason"]).to_pylist() == [{"row": 3, "id": 3, "reason": "null"}]
    assert manifests.read_plan(old_output).format_version == 5


@pytest.mark.parametrize("state", ["whole", "interrupted"])
def test_an_output_of_an_old_version_with_another_plan_is_refused_and_says_so(old_output, old_version, state):
    plan = manifests.find_manifest(old_output).plan
    if state == "interrupted":
        interrupt_old(old_output, old_version)
    before = {path: path.read_bytes() for path in old_output.place.local.rglob("*") if path.is_file()}
    plan["corpus"]["on_bad_row"] = "keep_nulls"
    started = f"was started by an older version of this project \\(format {old_version}\\) with other settings: "
    with pytest.raises(
        UserError,
        match=started + "keep_text was True, is now False. Run encode with that version, or give another output.$",
    ):
        resume.begin(old_output, record_of(plan | {"keep_text": False}, "next"), [], lambda: None)
    with pytest.raises(UserError, match=started + "code was .*, or accept that with -P accept_changes=.code."):
        resume.check_plan(old_output.place, {"code": "new"}, [])
    assert (
        before.items()
        <= {path: path.read_bytes() for path in old_output.place.local.rglob("*.*") if path.is_file()}.items()
    )


def test_a_plan_of_an_unknown_version_is_refused(output):
    put_part(output, 0, table_of(0, 3))
    output.write_text(PLAN, '{"format_version": 6, "plan": {}, "runs": [], "ranges": null}')
    with pytest.raises(UserError, match="has format 6, this version of the project reads formats 2 to 5"):
        manifests.read_plan(output)


@pytest.mark.parametrize("content", ["{", "3", '{"plan": {}, "runs": []}', '{"plan": 3, "runs": [], "ranges": null}'])
def test_a_plan_that_is_damaged_is_none(output, content):
    output.write_text(PLAN, content)
    assert manifests.read_plan(output) is None
