"""What only a process of its own can show: what a start imports, signals, flat memory, an unreachable Hub."""

import json
import os
import subprocess
import sys

import pytest
from helpers.forks import LIGHT, Forks
from helpers.project import PROJECT

RESERVED_PORT = 9  # discard: nothing listens there


@pytest.fixture(scope="module")
def light_forks(tmp_path_factory):
    """Begins processes that have imported what each step imports first, and nothing heavy."""
    forks = Forks(tmp_path_factory.mktemp("light"), LIGHT)
    yield forks
    forks.close()


@pytest.fixture
def python(light_forks, forks):
    """Run `python ...` in a process of its own that has torch and mlflow imported already, unless `light`."""

    def run(*argv, light=False, **extra):
        return (light_forks if light else forks).run(*argv, env=os.environ | extra)

    return run


# Each takes seconds to import. Times are printed by tests/times.py and asserted nowhere: they are the machine's.
HEAVY = ("mlflow", "torch", "transformers", "sentence_transformers", "pandas")
IMPORTS = f"""
import runpy, sys
step = sys.argv[1]
sys.argv[:2] = [f"steps.{{step}}"]
try:
    runpy.run_module(f"steps.{{step}}", run_name="__main__", alter_sys=True)
finally:
    print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.fixture
def imports(python):
    """Run a step; returns its result, and which of HEAVY it imported."""

    def run(step, *argv):
        done = python("-c", IMPORTS, step, *argv, light=True)
        *lines, last = done.stderr.splitlines()
        done.stderr = "".join(f"{line}\n" for line in lines)
        return done, last.split()

    return run


@pytest.mark.parametrize("step", ["main", "log_model", "validate", "encode", "benchmark"])
def test_help_answers_at_once(imports, step):
    done, heavy = imports(step, "--help")
    assert done.returncode == 0
    assert f"{step}: " in done.stdout.splitlines()[0]
    assert "mlflow run . " in done.stdout
    assert heavy == []


def test_a_config_error_answers_at_once(imports):
    done, heavy = imports("encode", "--backend.batch_size", "abc")
    assert done.returncode == 1
    assert done.stderr == "error: backend.batch_size takes an integer, not abc. Type backend.batch_size=<an integer>.\n"
    assert heavy == []


@pytest.mark.parametrize(
    "step, words, typed",
    [
        ("encode", ["--corpus", "nothing.csv"], "for example: corpus="),
        ("benchmark", ["--corpus", "nothing.csv"], "for example: corpus="),
        ("main", ["--corpus", "nothing.csv"], "for example: corpus="),
        ("log_model", ["--model", "local", "--model.path", "nothing.csv"], "for example: model.path="),
        ("validate", ["--suite.path", "nothing.csv"], "for example: suite.path="),
        ("verify", ["--output", "nothing.csv"], "for example: output="),
    ],
)
def test_a_missing_file_is_found_before_anything_heavy_is_imported(imports, step, words, typed):
    done, heavy = imports(step, *words)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{typed}{PROJECT / 'nothing.csv'}" in done.stderr
    assert heavy == []


def test_a_filter_that_is_no_json_is_refused_before_anything_heavy_is_imported(imports):
    done, heavy = imports("search", "query=a", "filter={n: 2}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: filter={n: 2} is not JSON (") and len(done.stderr.splitlines()) == 1
    assert heavy == []


def test_an_unreachable_tracking_server_fails_at_once(python):
    done = python("-m", "steps.encode", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{RESERVED_PORT}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"the tracking server at http://127.0.0.1:{RESERVED_PORT} cannot be reached" in done.stderr


def test_the_reason_of_a_config_error_is_on_the_run_that_mlflow_made(python, store):
    import mlflow

    client = mlflow.MlflowClient()
    run_id = client.create_run("0").info.run_id
    done = python("-m", "steps.encode", "nope=1", MLFLOW_RUN_ID=run_id)
    assert done.returncode == 1
    assert client.get_run(run_id).data.tags["error"].startswith("encode has no config key 'nope'")


def test_cfg_shows_the_config_with_overrides(python):
    done = python("-m", "steps.encode", "--cfg", "job", "--corpus", "my file.csv")
    assert done.returncode == 0, done.stderr
    assert "path: my file.csv" in done.stdout


def test_hydra_full_error_shows_the_traceback(python):
    done = python("-m", "steps.encode", "nope=1", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_unreachable_hub_fails_in_time_and_says_what_works_offline(tmp_path):
    # The Hub's library reads these when it is imported, so nothing may be imported already.
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{RESERVED_PORT}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "steps.log_model", "model=hub", "model.name=some/model"],
        cwd=PROJECT, env=os.environ | hub, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be reached" in done.stderr
    assert "model=all-MiniLM-L6-v2" in done.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(forks, tiny_model_folder, tmp_path):
    """Peak memory for 200,000 rows is within 10 % of that for 20,000."""
    code = f"""
import json, sys
from pathlib import Path
from sentence_transformers import SentenceTransformer
from steps.common.storage import place as files; from steps.common.embeddings import pipeline
from helpers.corpora import open_corpus
from steps.common.embeddings.job import Job, Options
from steps.common.storage.output import Output
from steps.common.backends import Settings
from steps.common.backends.load import load_backend
model = SentenceTransformer({str(tiny_model_folder)!r}, device="cpu")
backend = load_backend(Settings("torch", "f32", 256, None, "cpu", None, None), model, store=None, calibration=list)
options = Options(dtype="float32", truncate_dim=None, normalize=False, rows_per_part=50_000, keep_text=True)
peaks = []
for rows in (20_000, 200_000):
    path = Path({str(tmp_path)!r}) / f"{{rows}}.csv"
    with path.open("w") as stream:
        stream.write("id,text\\n")
        stream.writelines(f"{{i}},the cat {{i}} is on the house\\n" for i in range(rows))
    out = path.with_suffix(".out")
    output = Output(files.locate(out), out)
    output.make()
    job = Job(open_corpus(path, id_column="id"), options, backend.dim)
    result = pipeline.encode_corpus(job, backend, output)
    assert result.rows == rows
    peaks.append(result.metrics()["encode/peak_rss_mb"])
print(json.dumps(peaks))
"""
    done = forks.run("-c", code, timeout=1500)
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout)
    assert large <= 1.1 * small, (small, large)
