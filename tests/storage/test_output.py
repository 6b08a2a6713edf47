"""A folder that one encode at a time writes to, where every file is whole or not there."""

import errno
import hashlib
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from helpers.errors import refusal

from steps.common.errors import UserError
from steps.common.storage import output as module
from steps.common.storage import place as files
from steps.common.storage.claim import Claim, _find_start, _machine
from steps.common.storage.output import WORK, Output


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path):
    """An output on this machine, and one in an object store."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    where = tmp_path / "out" if request.param == "local" else f"{request.getfixturevalue('s3')}/{tmp_path.name}/out"
    output = Output(files.locate(where), scratch)
    output.make()
    return output


def claims_in(output):
    return [name for name in output.names() if "claim-" in name]


def foreign_claim(output, **changed):
    """A claim as another process would have left it."""
    held = {"machine": "elsewhere", "host": "elsewhere", "pid": 1, "started": 0.0, "run_id": "other"} | changed
    output.write_text(f"{WORK}/claim-other.json", json.dumps(held))


def put(output, name, content):
    temporary = output.workspace / f"{name}.tmp"
    temporary.write_bytes(content)
    output.put(temporary, name)


def test_a_file_that_is_put_has_its_name_and_leaves_no_other(output):
    put(output, "part-00000.parquet", b"rows")
    assert output.names() == ["part-00000.parquet"]
    assert output.size("part-00000.parquet") == 4
    assert output.read_bytes("part-00000.parquet") == b"rows"
    assert not list(output.workspace.glob("*.tmp"))


def test_facts_are_size_and_digest_of_what_is_there(output):
    put(output, "a", b"rows")
    assert output.facts("a") == (4, hashlib.sha256(b"rows").hexdigest())
    assert output.facts("b") is None


def test_a_text_replaces_the_one_before_it(output):
    for text in ("first", "second"):
        output.write_text(f"{WORK}/done/x.json", text)
    assert output.read_bytes(f"{WORK}/done/x.json") == b"second"
    assert output.read_json(f"{WORK}/done/x.json") is None
    assert output.read_json(f"{WORK}/done/nothing.json") is None


def test_what_was_kept_for_going_on_can_be_cleared(output):
    put(output, "part-00000.parquet", b"rows")
    output.write_text(f"{WORK}/done/plan.json", "{}")
    output.clear_work()
    output.tidy()
    assert output.names() == ["part-00000.parquet"]


def test_nothing_needs_to_be_cleared(output):
    output.clear_work()
    output.tidy()
    assert output.names() == []


def test_what_a_killed_encode_had_not_finished_is_removed(output):
    (output.workspace / "part-00003.parquet.tmp").write_bytes(b"half")
    output.make()
    assert list(output.workspace.iterdir()) == []


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    output = Output(files.locate(tmp_path / "file" / "out"), tmp_path)
    assert refusal(output.make).endswith(
        "cannot be written: Not a directory. Correct that and run the same command again, or give another output."
    )


def test_a_full_disk_says_that_parts_are_kept_where_there_are_any(output):
    def fill():
        with output.explain_errors():
            raise OSError(errno.ENOSPC, "No space left on device")

    assert refusal(fill).endswith(
        "No space left on device. Correct that and run the same command again, or give another output."
    )
    output.write_text("part-00000.parquet", "")
    assert refusal(fill).endswith(
        "No space left on device. The finished parts are kept. Correct that and run the same command again to resume, or give another output."
    )


def test_a_file_in_place_of_an_output_is_read_and_not_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be read: "):
        Output(files.locate(tmp_path / "file"), tmp_path).names()


def test_a_full_disk_is_one_line_and_leaves_nothing_half(tmp_path, monkeypatch):
    output = Output(files.locate(tmp_path / "out"), tmp_path)
    output.make()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        output.write_text("manifest.json", "{}")
    assert output.names() == []


# claims


def test_a_claim_is_there_while_it_is_held(output):
    with Claim(output, "run") as claim:
        assert len(claims_in(output)) == 1
        claim.check()
    assert output.names() == []


def test_a_second_claim_is_refused_and_says_who_holds_the_first(output):
    with Claim(output, "first"):
        with (
            pytest.raises(UserError, match=rf"run first, process {os.getpid()} on .*Wait for it or stop it"),
            Claim(output, "second"),
        ):
            pass
        assert len(claims_in(output)) == 1
    with Claim(output, "third"):
        pass


def test_the_claim_of_a_process_that_died_here_is_taken_at_once(output):
    gone = multiprocessing.get_context("spawn").Process(target=int)
    gone.start()
    pid, started = gone.pid, _find_start(gone.pid)
    gone.join()
    foreign_claim(output, machine=_machine(), pid=pid, started=started)
    with Claim(output, "run"):
        assert len(claims_in(output)) == 1


def test_the_number_of_a_dead_process_may_be_another_ones_now(output):
    foreign_claim(output, machine=_machine(), pid=os.getpid(), started=_find_start(os.getpid()) - 100)
    with Claim(output, "run"):
        pass


@pytest.mark.parametrize("held", ["{}", "not json", '{"machine": null}'])
def test_a_claim_nobody_can_read_counts_for_its_time(tmp_path, held):
    output = Output(files.locate(tmp_path / "out"), tmp_path)
    output.make()
    output.write_text(f"{WORK}/claim-odd.json", held)
    with pytest.raises(UserError, match="is being written by another encode"), Claim(output, "run"):
        pass
    os.utime(tmp_path / "out" / WORK / "claim-odd.json", (time.time() - 100, time.time() - 100))
    with Claim(output, "run"):
        pass


def test_a_claim_of_another_machine_counts_until_its_time_is_over(output):
    foreign_claim(output)
    with pytest.raises(UserError, match="on elsewhere, last heartbeat"), Claim(output, "run"):
        pass
    # The clock of an object store shows whole seconds.
    time.sleep(2.1)
    with Claim(output, "run", lease=1.0):
        assert len(claims_in(output)) == 1


def test_a_claim_that_is_renewed_outlives_its_time(output):
    with Claim(output, "run", beat=0.2):
        (name,) = claims_in(output)
        first = Claim(output, "other")._times()[name]
        end = time.monotonic() + 60
        # The clock of an object store shows whole seconds; a claim that is not renewed keeps its time.
        while Claim(output, "other")._times()[name] < first + 2:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_whoever_lost_a_claim_hears_of_it(output):
    with Claim(output, "run") as claim:
        output.delete(claims_in(output)[0])
        with pytest.raises(UserError, match="another encode took over because this one's heartbeat lapsed"):
            claim.check()


def test_of_many_that_come_at_once_at_most_one_gets_the_output(tmp_path):
    output = Output(files.locate(tmp_path / "out"), tmp_path)
    output.make()
    start, leave, holders, refused = threading.Barrier(8), threading.Event(), [], []

    def come(number):
        start.wait()
        try:
            with Claim(output, f"run {number}"):
                holders.append(number)
                leave.wait(20)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=come, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while len(holders) + len(refused) < 8:
        time.sleep(0.01)
    leave.set()
    for thread in threads:
        thread.join()
    assert len(holders) <= 1 and len(refused) >= 7
    assert claims_in(output) == []


def test_the_folder_of_an_output_stays_hidden(tmp_path):
    output = Output(files.locate(tmp_path / "out"), tmp_path)
    output.make()
    assert output.workspace == Path(tmp_path / "out" / ".encode")


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="only Linux says when a process began by another clock"
)
def test_a_clock_that_is_set_does_not_make_a_writer_look_dead(output, monkeypatch):
    with Claim(output, "first"):
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
        with pytest.raises(UserError, match=r"is being written by another encode \(run first"), Claim(output, "second"):
            raise AssertionError("a second writer")
