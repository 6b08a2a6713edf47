"""A model as a service: real `mlflow models serve` processes on loopback, what they answer and what they leave behind."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from helpers.project import PROJECT
from helpers.servers import command_of
from helpers.steps import error_of, last_json

from steps.common.errors import UserError
from steps.common.ports import HOST, free_port, listen
from steps.common.project import child_path
from steps.common.validation import environment, serving
from steps.common.validation.checks import Check
from steps.common.validation.server import serve

TEXTS = ["the cat is on the house", "a red car", "the dog"]


def embed(texts, params=None) -> np.ndarray:
    """A model that is no model: the lengths of a text, cut by params."""
    vectors = np.array([[len(text), 1.0, -1.0] for text in texts], np.float32)
    return vectors[:, : params["truncate_dim"]] if params else vectors


def scoring_app(change):
    """An ASGI app that answers as the scoring server does, but for what `change(payload, predictions)` makes of it."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        status, answer = 200, {}
        try:
            payload = json.loads(body)
            texts = (
                payload.get("inputs")
                or [row["text"] for row in payload.get("dataframe_records", [])]
                or [row[0] for row in payload["dataframe_split"]["data"]]
            )
            texts = [texts] if isinstance(texts, str) else texts
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError("no texts")
            params = payload.get("params")
            if dict(scope["headers"])[b"content-type"] != b"application/json" or "many" in (params or {}).values():
                raise ValueError("no such type")
            status, answer = change(payload, embed(texts, params).tolist())
        except (ValueError, KeyError) as error:
            status, answer = 400, {"message": repr(error)}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return app


def protocol(change) -> dict[str, Check]:
    checks = serving.check_protocol(serving.InProcess(scoring_app(change)), embed, TEXTS, {"truncate_dim": 2}, 1e-5)
    return {check.name.removeprefix("serving/"): check for check in checks}


def test_a_server_that_answers_every_payload_as_the_model_does_passes():
    checks = protocol(lambda payload, predictions: (200, {"predictions": predictions}))
    assert all(check.passed for check in checks.values()), checks
    assert set(checks) == {
        "inputs", "single_string", "dataframe_split", "dataframe_records", "params",
        "refuses_wrong_key", "refuses_number", "refuses_null", "refuses_object", "refuses_malformed_json",
        "refuses_param_type", "refuses_content_type",
    }  # fmt: skip


def test_a_server_that_ignores_params_fails_that_check_alone():
    checks = protocol(
        lambda payload, _: (
            200,
            {"predictions": embed(TEXTS[: 1 if payload.get("inputs") == TEXTS[0] else 3]).tolist()},
        )
    )
    assert [name for name, check in checks.items() if not check.passed] == ["params"]


def test_a_server_that_fails_shows_status_and_reason():
    checks = protocol(
        lambda payload, predictions: (
            (500, {"message": "out of\nmemory"}) if "inputs" in payload else (200, {"predictions": predictions})
        )
    )
    assert (checks["inputs"].value, checks["inputs"].passed) == ("500: out of memory", False)
    assert checks["dataframe_split"].passed


def test_an_answer_without_embeddings_is_no_answer():
    checks = protocol(lambda payload, predictions: (200, {"message": "hello"}))
    assert checks["inputs"].value == "200, but no embeddings: hello"


def test_a_refusal_without_a_reason_or_with_a_5xx_is_none():
    app = scoring_app(lambda payload, predictions: (200, {}))

    async def speechless(scope, receive, send):
        async def silent(message):
            if message["type"] == "http.response.start":
                message["status"] = 500 if message["status"] == 400 else message["status"]
            await send(message)

        await app(scope, receive, silent)

    checks = serving.check_protocol(serving.InProcess(speechless), embed, TEXTS, {"truncate_dim": 2}, 1e-5)
    refusals = [check for check in checks if "refuses" in check.name]
    assert len(refusals) == 7 and not any(check.passed for check in refusals)


def test_the_load_reports_percentiles_and_throughput_of_what_was_answered():
    load = serving.Load(np.arange(1.0, 101.0), [], 2.0)
    assert load.check().passed
    assert load.metrics() == {
        "serving/requests": 100.0,
        "serving/failed_requests": 0.0,
        "serving/requests_per_second": 50.0,
        "serving/p50_ms": 50.5,
        "serving/p95_ms": pytest.approx(95.05),
        "serving/p99_ms": pytest.approx(99.01),
    }


def test_one_failed_request_fails_the_load_and_is_shown():
    check = serving.Load(np.ones(9), ["503: too busy"], 1.0).check()
    assert (check.value, check.passed) == ("1, such as 503: too busy", False)
    assert not serving.Load(np.array([]), [], 1.0).check().passed


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_in_use_is_one_line_before_the_work(step, tiny_run, taken_port):
    result = step("validate", f"run_id={tiny_run['run_id']}", f"serving.port={taken_port}")
    assert (
        error_of(result)
        == f"serving.port={taken_port} cannot be used on 127.0.0.1 (Address already in use). Give another one, or serving.port=null for a free one."
    )
    assert "validating" not in result[2]


def test_a_port_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="serving.port is 70000; expected a port from 1 to 65535"):
        listen(70000, "serving.port")
    for port in (free_port(), None):
        listen(port, "serving.port").close()


def test_without_serving_the_same_payloads_go_to_the_code_of_the_server(step, tiny_run, tiny_suite):
    import mlflow

    code, out, err = step(
        "validate", f"run_id={tiny_run['run_id']}", f"suite.path={tiny_suite}", "candidates=[]", "serving.enabled=false"
    )
    assert code == 0, err
    checks = mlflow.artifacts.load_dict(f"runs:/{last_json(out)['run_id']}/validation.json")["checks"]
    names = [check["name"] for check in checks if check["name"].startswith("serving/")]
    assert len(names) == 12
    assert "serving/starts" not in names


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def ended(processes: list[psutil.Process], seconds: float = 15) -> bool:
    """Whether none of them is left, not even as a zombie."""
    return not psutil.wait_procs(processes, seconds)[1] and not any(p.is_running() for p in processes)


@pytest.mark.slow
def test_validate_serves_the_model_and_leaves_nothing_running(step, tiny_run, tiny_suite):
    """The one test with a whole server behind validate; port, load and refusals are real."""
    import mlflow

    port = free_port()
    words = [
        f"suite.path={tiny_suite}",
        "candidates=[]",
        f"serving.port={port}",
        "serving.load_seconds=1",
        "serving.clients=3",
    ]
    code, out, err = step("validate", f"run_id={tiny_run['run_id']}", *words)
    assert code == 0, err
    result = last_json(out)
    checks = {c["name"]: c for c in mlflow.artifacts.load_dict(f"runs:/{result['run_id']}/validation.json")["checks"]}
    assert len([name for name in checks if name.startswith("serving/")]) == 14
    assert checks["serving/starts"]["passed"] and checks["serving/failed_requests"]["value"] == "0"
    metrics = {metric.key: metric.value for metric in mlflow.get_logged_model(tiny_run["model_id"]).metrics}
    assert metrics["serving/ok"] == 1
    assert metrics["serving/requests"] > 3
    assert 0 < metrics["serving/p50_ms"] <= metrics["serving/p95_ms"] <= metrics["serving/p99_ms"]
    assert metrics["serving/requests_per_second"] > 1
    listen(port, "serving.port").close()
    assert not [p for p in psutil.Process().children(recursive=True) if "uvicorn" in " ".join(command_of(p))]


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_and_one_that_is_interrupted_ends(tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: no.such.module}}\n")
    with serve(tmp_path, None) as server:
        reason = server.wait(60)
    assert "it ended with exit code 1." in reason
    assert "No module named 'no'" in reason

    processes = []
    with pytest.raises(KeyboardInterrupt), serve(tmp_path, None) as server:
        processes = family(server.process.pid)
        raise KeyboardInterrupt
    assert ended(processes)


@pytest.mark.slow
def test_a_server_ends_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: no.such.module}}\n")
    code = f"""
import time
from pathlib import Path
from steps.common.validation.server import serve
with serve(Path({str(tmp_path)!r}), None) as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert psutil.pid_exists(pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 45
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.1)


UV_NO_VERSION = """\
Using CPython 3.11.7
  × No solution found when resolving dependencies:
  ╰─▶ Because there is no version of tokenizers==99.1 and you require
      tokenizers==99.1, we can conclude that your requirements are
      unsatisfiable.
"""
UV_FETCH = """\
error: Failed to fetch: `https://example.org/simple/torch/`
  Caused by: Could not connect, are you offline?
Traceback (most recent call last):
mlflow.utils.process.ShellCommandException: Non-zero exit code: 2
"""
REQUIREMENTS = ["mlflow==3.17.2", "torch==2.13.0", "tokenizers==99.1"]


@pytest.mark.parametrize(
    "output, starts, holds",
    [
        (UV_NO_VERSION, "tokenizers==99.1 cannot be installed: No solution found", "UV_FIND_LINKS"),
        (UV_FETCH, "torch==2.13.0 cannot be installed: Failed to fetch", "are you offline?"),
        (
            "ModuleNotFoundError: No module named 'einops.layers'\n",
            "the requirements lack einops: ",
            "Log the model again",
        ),
        (
            "ValueError: bad weights\nmlflow.exceptions.MlflowException: it failed\n",
            "built, but the model does not predict in it: ValueError: bad weights",
            "versions",
        ),
        ("", "built, but the model does not predict in it: no output", "versions"),
    ],
)
def test_an_environment_that_cannot_be_built_names_the_package_and_what_to_do(output, starts, holds):
    line = environment.explain(output, REQUIREMENTS)
    assert line.startswith(starts)
    assert holds in line
    assert "\n" not in line and "\x1b" not in line and "╰" not in line


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv", path=child_path()) is None, reason="there is no uv")
def test_uv_itself_fails_over_a_package_that_does_not_exist(tmp_path, monkeypatch):
    """uv really runs, on a requirement that nobody offers; no network, so no build dependencies either."""
    import platform

    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    (tmp_path / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: no.such.module, env: {virtualenv: python_env.yaml, conda: conda.yaml}}}\n"
    )
    (tmp_path / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\ndependencies: [-r requirements.txt]\n"
    )
    (tmp_path / "requirements.txt").write_text("no-such-package-of-ours==1.0\n")
    environment.check_uv()
    (check,) = environment.check_fresh_environment(
        str(tmp_path), tmp_path / "requirements.txt", TEXTS, embed(TEXTS), 1e-5
    )
    assert (check.name, check.passed) == ("environment/predicts", False)
    assert check.value.startswith("no-such-package-of-ours==1.0 cannot be installed: ")


def test_a_fresh_environment_without_uv_is_one_line_before_the_work(step, monkeypatch):
    monkeypatch.setattr(environment, "child_path", lambda: "/nowhere")
    code, _, err = step("validate", "fresh_environment=true")
    assert code == 1
    assert "error: fresh_environment=true makes an environment with uv, and there is no uv on the PATH." in err
