"""The commands of the README, read from it and run: from a clone, from a git URL, against a real server.

test_docs.py runs those that need no process of their own.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from helpers.pages import PROJECT, find_page
from helpers.servers import free_port, wait_for

from steps.common.model.find import find_model

README = find_page("README.md")
SETUP = [command for command in README.commands() if command.startswith("pip install")]
CHAIN = README.blocks("bash")[1].splitlines()
SERVING = find_page("docs/serving-and-registry.md").commands()


@pytest.fixture
def git_url(clone, start) -> str:
    """The clone behind a git daemon, with `main` one commit behind the branch `work`."""
    subprocess.run(["git", "config", "uploadpack.allowAnySHA1InWant", "true"], cwd=clone, check=True)
    subprocess.run(["git", "branch", "work"], cwd=clone, check=True)
    port = free_port()
    process = start(
        "git",
        "daemon",
        "--reuseaddr",
        "--export-all",
        f"--base-path={clone.parent}",
        "--listen=127.0.0.1",
        f"--port={port}",
        str(clone.parent),
    )
    url = f"git://127.0.0.1:{port}/clone"
    for _ in range(100):
        assert process.poll() is None
        if subprocess.run(["git", "ls-remote", url], capture_output=True).returncode == 0:
            return url
        time.sleep(0.1)
    raise AssertionError("git daemon did not answer")


def run_id_in(stdout: str, step: str) -> str:
    return re.search(rf'"step": "{step}", "run_id": "([0-9a-f]{{32}})"', stdout).group(1)


def runs_of(folder: Path):
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")


def test_the_setup_lines_pin_the_mlflow_of_conda_yaml():
    pip = next(
        entry["pip"]
        for entry in yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
        if isinstance(entry, dict)
    )
    pinned = next(line for line in pip if line.startswith("mlflow=="))
    assert all(line.startswith(f"pip install {pinned} uv && mlflow run .") for line in SETUP)
    assert len(SETUP) == 2


def test_ci_runs_the_test_line_of_the_readme():
    assert SETUP[1] in (PROJECT / ".ci" / "run").read_text()


def test_conda_yaml_pins_every_dependency_exactly():
    dependencies = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pip)
    assert {"mlflow", "sentence-transformers", "hydra-core", "numpy", "pytest"} <= {
        line.partition("==")[0] for line in pip
    }


@pytest.mark.slow
def test_the_chain_runs_from_a_git_url_at_a_branch_and_a_commit(shell, git_url, clone):
    """The three lines of the README with a git URL in place of `.`, each run ID from the line before."""
    (shell.folder / "texts.csv").write_text('text,n\n"Stars, and planets",1\nBread and butter,2\n')
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout.strip()
    before = sorted(path.relative_to(clone) for path in clone.rglob("*") if ".git" not in path.parts)
    ids = {}
    for line, version in zip(CHAIN, (["-v", "work"], ["-v", commit], [])):
        line = line.replace("<log_model run>", ids.get("log_model", "")).replace(
            "<validate run>", ids.get("validate", "")
        )
        words = line.replace("run . ", f"run {git_url} ").replace("--env-manager uv", "--env-manager local").split()
        step = words[words.index("-e") + 1]
        if step == "validate":
            # int8, among the candidates, is calibrated for half a minute, and the test below scores every suite. A load of one
            # second will do.
            words += ["-P", "candidates=[]", "-P", "suite=builtin", "-P", "serving.load_seconds=1"]
        done = shell(*words, *version)
        assert done.returncode == 0, done.stdout + done.stderr
        ids[step] = run_id_in(done.stdout, step)
        assert f"mlflow run {git_url} -e" in done.stdout or step == "encode"
        assert f"-v {commit}" in done.stdout or step == "encode"

    assert sorted(path.name for path in shell.folder.iterdir()) == ["embeddings", "mlflow.db", "mlruns", "texts.csv"]
    assert (
        sorted(
            path.relative_to(clone)
            for path in clone.rglob("*")
            if ".git" not in path.parts and "__pycache__" not in path.parts
        )
        == before
    )
    client = runs_of(shell.folder)
    runs = {step: client.get_run(run_id) for step, run_id in ids.items()}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert all(run.data.tags["mlflow.source.git.commit"] == commit for run in runs.values())
    assert runs["validate"].data.tags["upstream_run_id"] == ids["log_model"]
    assert runs["encode"].data.tags["upstream_run_id"] == ids["validate"]
    assert runs["encode"].data.metrics["encode/rows"] == 2
    assert sorted(path.name for path in (shell.folder / "embeddings").glob("[!.]*")) == [
        "digests",
        "manifest.json",
        "part-00000.parquet",
    ]
    assert (
        runs["log_model"].data.tags["weights_sha256"]
        == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )


@pytest.mark.slow
def test_main_lands_on_a_real_server_and_the_model_serves(shell, clone, start, all_forks, monkeypatch):
    """The first line of the README, with MLFLOW_TRACKING_URI set; then the lines of docs/ for serving."""
    import mlflow

    path = shell.env["PATH"]
    # For the servers.
    shell.env["PATH"] = f"{all_forks.programs}{os.pathsep}{path}"
    port = free_port()
    store = shell.folder.parent / "server"
    store.mkdir()
    server = start(
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--backend-store-uri",
        f"sqlite:///{store}/server.db",
        "--artifacts-destination",
        str(store / "artifacts"),
        "--workers",
        "1",
    )
    wait_for(f"http://127.0.0.1:{port}/health", server)
    uri = f"http://127.0.0.1:{port}"
    line = SETUP[0].partition(" && ")[2]
    if shutil.which("uv", path=shell.env["PATH"]) is None:
        line = line.replace("--env-manager uv", "--env-manager local")
    done = shell(
        *line.split(),
        "--experiment-name",
        "weekly",
        "-P",
        "rows_per_part=100",
        "-P",
        "register=weekly",
        # The suites that ship are scored once, by the model itself: test_weights.py compares backends.
        "-P",
        "candidates=[]",
        # The model is served below, and by validate itself in the test above.
        "-P",
        "serving.enabled=false",
        cwd=clone,
        timeout=600,
        MLFLOW_TRACKING_URI=uri,
        PATH=path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"next: open {uri} in a browser" in done.stdout
    # Those of its steps, too, in the environment that was typed.
    commands = re.findall("^next: (mlflow run .*)", done.stdout, re.MULTILINE)
    assert len(commands) == 3 and all(f" {line[line.index('--env-manager') :]} " in command for command in commands)
    assert not (clone / "mlruns").exists()
    assert not (clone / "mlflow.db").exists()

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("weekly")
    runs = client.search_runs([experiment.experiment_id])
    by_step = {run.data.tags["step"]: run for run in runs}
    assert set(by_step) == {"main", "log_model", "validate", "encode"}
    parent = by_step.pop("main")
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in by_step.values())
    assert by_step["encode"].data.metrics["encode/rows"] == 240
    assert by_step["encode"].data.params["overrides"] == "rows_per_part=100"
    version = client.get_model_version_by_alias("weekly", "champion")
    assert version.tags["validate_run_id"] == by_step["validate"].info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = find_model("models:/weekly@champion", preceding="validate", experiment_id=experiment.experiment_id)
    assert (found.registered, found.run_id) == ("weekly/1", by_step["log_model"].info.run_id)
    files = {file.path for file in client.list_artifacts(by_step["encode"].info.run_id, "embeddings")}
    assert files == {
        "embeddings/digests",
        "embeddings/manifest.json",
        *(f"embeddings/part-0000{i}.parquet" for i in range(3)),
    }

    serve = next(command for command in SERVING if command.startswith("mlflow models serve"))
    port = free_port()
    words = (
        serve.replace("<log_model run>", by_step["log_model"].info.run_id)
        .replace("5001", str(port))
        .replace("--env-manager uv", "--env-manager local")
        .split()
    )
    shell.env["MLFLOW_TRACKING_URI"] = uri
    model = start(*words)
    wait_for(f"http://127.0.0.1:{port}/ping", model)
    curl = next(command for command in SERVING if command.startswith("curl"))
    answer = shell("bash", "-c", curl.replace("5001", str(port)))
    assert len(json.loads(answer.stdout)["predictions"][0]) == 384


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_ui_command_of_the_readme_shows_the_runs(shell, start, step, tiny_run):
    port = free_port()
    command = next(command for command in README.commands() if command.startswith("mlflow ui")).replace(
        "sqlite:///mlflow.db", os.environ["MLFLOW_TRACKING_URI"]
    )
    ui = start(*command.split(), "--port", str(port), "--workers", "1")
    wait_for(f"http://127.0.0.1:{port}/health", ui)
    import mlflow

    assert mlflow.MlflowClient(f"http://127.0.0.1:{port}").get_run(tiny_run["run_id"]).info.status == "FINISHED"
