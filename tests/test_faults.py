"""What happens to an encode from outside: kill -9, Ctrl-C, a full disk, a read-only disk, a tracking server that is away.

$KILLS and $FILLS say how many random moments and sizes are tried.
"""

import contextlib
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.encodes import RESUME, WORDS
from helpers.project import PROJECT
from helpers.servers import free_port, wait_for
from helpers.steps import error_of, last_json

KILLS = int(os.environ.get("KILLS", 2))
FILLS = int(os.environ.get("FILLS", 3))


def write_corpus(path: Path, rows: int) -> Path:
    """Texts of which every twentieth stands there twice."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) + f" {i}" for i in range(rows)]
    for i in range(20, rows, 20):
        texts[i] = texts[i - 17]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def finished(output: Path) -> dict[str, int]:
    """When each part was written that is noted as finished."""
    stems = {path.stem for path in (output / ".encode" / "done").glob("part-*.json")}
    return {path.name: path.stat().st_mtime_ns for path in output.glob("part-*") if path.stem in stems}


class Encoding:
    """A process of encode."""

    def __init__(self, forks, run_id: str, corpus: Path, output: Path | None, *more: str, counts: Path, **env: str):
        self.counts = counts
        counts.touch()
        self._before = counts.stat().st_size
        self.process = forks.start(
            PROJECT / "tests" / "helpers" / "counted_encode.py",
            f"run_id={run_id}",
            f"corpus.path={corpus}",
            *more,
            *([f"output={output}"] if output else []),
            "backend=torch",
            env=os.environ | {"COUNTS": str(counts)} | env,
        )

    def computes(self) -> bool:
        return self.counts.stat().st_size > self._before

    def wait_until_it_computes(self) -> None:
        end = time.time() + 120
        while not self.computes() and self.process.poll() is None:
            assert time.time() < end
            time.sleep(0.01)

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_byte(forks, tiny_run, tmp_path):
    # Parts of several windows where many moments are tried, as in practice; few rows where it has to be quick.
    # A part may be on its way to the disk while the next is begun; where each is one window, a third is written meanwhile.
    parts, rows, at_once = (24, 500, 3) if KILLS < 10 else (24, 10_000, 2)
    corpus = write_corpus(tmp_path / "corpus.txt", parts * rows)
    given = (f"rows_per_part={rows}",)
    whole_counts, counts = tmp_path / "whole.counts", tmp_path / "counts"
    encoding = Encoding(forks, tiny_run["run_id"], corpus, tmp_path / "whole", *given, counts=whole_counts)
    begun = time.time()
    encoding.wait_until_it_computes()
    start_seconds, begun = time.time() - begun, time.time()
    code, _, err = encoding.ended()
    assert code == 0, err
    part_seconds = (time.time() - begun) / parts

    rng, killed, outputs = random.Random(KILLS), 0, [tmp_path / "out0"]
    while killed < KILLS:
        output = outputs[-1]
        before = finished(output)
        encoding = Encoding(forks, tiny_run["run_id"], corpus, output, *given, counts=counts)
        if killed % 5 == 4:
            time.sleep(rng.uniform(0, start_seconds))
        else:
            encoding.wait_until_it_computes()
            time.sleep(rng.uniform(0, part_seconds))
        encoding.process.kill()
        code, _, _ = encoding.ended()
        after = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
        assert before.items() <= after.items(), "a finished part was written again"
        killed += code == -signal.SIGKILL
        if (output / "manifest.json").exists():
            outputs.append(tmp_path / f"out{len(outputs)}")
    last = len(finished(outputs[-1]))
    code, out, err = Encoding(forks, tiny_run["run_id"], corpus, outputs[-1], *given, counts=counts).ended()
    assert code == 0, err
    for output in outputs:
        assert content(output) == content(tmp_path / "whole")
        assert len(content(output)) == parts
    assert not (outputs[-1] / ".encode").exists()

    once, in_all = (sum(map(int, path.read_text().split())) for path in (whole_counts, counts))
    twice = in_all - once * len(outputs)
    print(
        f"{killed} kills, {len(outputs)} output(s) of {parts} parts, the last encode found {last}; of {once} texts {twice} were computed twice, {twice / killed / rows:.2f} parts a kill"
    )
    assert twice <= at_once * killed * rows


@pytest.mark.slow
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_encode_says_how_it_goes_on_and_does(forks, sent, code, tiny_run, tmp_path):
    import mlflow

    corpus = write_corpus(tmp_path / "my corpus, 100 %.txt", 12_000)
    output = tmp_path / "out put"
    encoding = Encoding(
        forks,
        tiny_run["run_id"],
        f"'{corpus}'",
        f"'{output}'",
        "rows_per_part=1000",
        "embedding.normalize=true",
        counts=tmp_path / "counts",
    )
    encoding.wait_until_it_computes()
    while not list(output.glob("part-*")):
        time.sleep(0.05)
    encoding.process.send_signal(sent)
    found, _, err = encoding.ended()
    assert found == code, err
    assert "Traceback" not in err
    run = mlflow.search_runs(search_all_experiments=True, filter_string="tags.step = 'encode'", output_format="list")[0]
    assert run.info.status == "KILLED"
    assert run.data.tags["error"] == {130: "interrupted (Ctrl-C)", 143: "stopped (SIGTERM)"}[code]
    assert not (output / "manifest.json").exists()
    assert not list((output / ".encode").glob("*.tmp")) and not list((output / ".encode").glob("claim-*"))
    before = finished(output)
    assert before

    (line,) = [line for line in err.splitlines() if line.startswith(RESUME)]
    words = shlex.split(line.removeprefix(RESUME))
    assert words[:3] == ["python", "-m", "steps.encode"]
    done = forks.run(*words[1:])
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["encode/resumed_rows"] == 1000 * len(before)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}.items()


@contextlib.contextmanager
def small_disk(folder: Path, size: int, options: str = ""):
    """A filesystem of so many bytes at a folder; skips where this process may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no filesystem can be mounted here ({mounted.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_fills_up_costs_no_finished_part(step, tiny_run, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.txt", 2_400)
    given = (f"--run_id={tiny_run['run_id']}", f"--corpus={corpus}", "rows_per_part=200", "backend=torch")
    code, _, err = step("encode", *given, f"--output={tmp_path / 'whole'}")
    assert code == 0, err
    whole = content(tmp_path / "whole")
    size = sum(map(len, whole.values()))
    rng = random.Random(FILLS)
    for number in range(FILLS):
        disk = tmp_path / f"disk{number}"
        with small_disk(disk, rng.randint(size // 20, size)):
            line = error_of(step("encode", *given, f"--output={disk / 'out'}"))
            assert "No space left on device" in line and "again" in line
            kept = content(disk / "out")
            assert kept.items() <= whole.items()
            noted = finished(disk / "out")
            assert not (disk / "out" / "manifest.json").exists()
            code, _, err = step("verify", f"--output={disk / 'out'}")
            assert code == 1 and ("is not complete" in err or "has no manifest.json" in err)
            subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(disk)], check=True)
            code, out, err = step("encode", *given, f"--output={disk / 'out'}")
            assert code == 0, err
            assert content(disk / "out") == whole
            assert last_json(out)["encode/resumed_rows"] == 200 * len(noted)
            assert step("verify", f"--output={disk / 'out'}")[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_cannot_be_written_is_found_before_anything_is_loaded(step, tiny_run, tmp_path):
    with small_disk(tmp_path / "disk", 1_000_000, ",ro"):
        code, _, err = step("encode", f"--run_id={tiny_run['run_id']}", f"--output={tmp_path / 'disk' / 'out'}")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: output ") and "Read-only file system" in err
    assert "encode: run" not in err


# A tracking server that goes away.


@pytest.fixture
def server(quick_programs, start, tmp_path, tiny_run):
    """A tracking server over the store of this test, that can be stopped and started again."""

    class Server:
        def __init__(self):
            self.port = free_port()
            self.url = f"http://127.0.0.1:{self.port}"

        def start(self):
            self.process = start(
                str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path / "served"),
            )  # fmt: skip
            wait_for(f"{self.url}/health", self.process)

        def stop(self):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    server = Server()
    server.start()
    return server


def encode_runs(server) -> list:
    import mlflow

    return mlflow.MlflowClient(server.url).search_runs(["1"], "tags.step = 'encode'", order_by=["start_time ASC"])


@pytest.fixture
def encode_tracked(forks, server, tiny_run, tmp_path):
    """Begin an encode of 12,000 texts into tmp_path/out, or go on with it; its run is on the server."""
    corpus, counts = write_corpus(tmp_path / "corpus.txt", 12_000), tmp_path / "counts"

    def begin(**env: str) -> Encoding:
        env["MLFLOW_TRACKING_URI"] = server.url
        output = tmp_path / "out"
        return Encoding(forks, tiny_run["run_id"], corpus, output, "rows_per_part=1000", counts=counts, **env)

    return begin


@pytest.mark.slow
def test_a_tracking_server_may_be_away_while_embeddings_are_made(encode_tracked, server, tmp_path):
    encoding = encode_tracked(MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="1")
    encoding.wait_until_it_computes()
    server.stop()
    while not (tmp_path / "out" / "manifest.json").exists():
        assert encoding.process.poll() is None, encoding.ended()
        time.sleep(0.1)
    server.start()
    code, out, err = encoding.ended()
    assert code == 0, err
    (run,) = encode_runs(server)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["encode/rows"] == 12_000
    assert run.data.tags["embeddings"] == str(tmp_path / "out")


@pytest.mark.slow
def test_what_a_tracking_server_has_not_taken_is_recorded_by_the_same_command(encode_tracked, server, tmp_path):
    impatience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    encoding = encode_tracked(**impatience)
    encoding.wait_until_it_computes()
    server.stop()
    code, _, err = encoding.ended()
    assert code == 1
    assert re.search(
        r"error: the embeddings at .*out are whole, but the tracking server has not taken the results", err
    )
    assert "Traceback" not in err
    assert (tmp_path / "out" / "manifest.json").exists()
    server.start()
    (lost,) = encode_runs(server)
    assert lost.info.status == "RUNNING"
    code, out, err = encode_tracked(**impatience).ended()
    assert code == 0, err
    assert last_json(out)["encode/resumed_rows"] == 12_000
    lost, last = encode_runs(server)
    assert (lost.info.status, last.info.status) == ("KILLED", "FINISHED")
    assert last.data.metrics["encode/rows"] == 12_000
