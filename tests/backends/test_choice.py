"""Which backend is taken, with which precision."""

import dataclasses
import functools
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.architectures import (
    CALIBRATION,
    TEXTS,
)
from helpers.errors import refusal
from helpers.models import backend_settings, needs_precision
from helpers.project import PROJECT

from steps.common.backends import Passed, load
from steps.common.backends.check import TOLERANCE, relative_errors
from steps.common.backends.kinds import check_candidates
from steps.common.backends.load import Candidate, candidates

PASSED = {"torch/bf16": Passed(50.0), "openvino/int8": Passed(300.0, "digest"), "openvino/f32": Passed(100.0)}
ON_A_GPU = ["torch/fp16", "torch/bf16", "torch/f32"]


@pytest.mark.parametrize(
    "name, precision, on_gpu, passed, expected",
    [
        ("torch", "auto", False, {}, ["torch/f32"]),
        ("torch", "auto", False, PASSED, ["torch/f32"]),
        ("torch", "auto", True, {}, ON_A_GPU),
        ("torch", "bf16", False, {}, ["torch/bf16"]),
        ("torch", "fp16", True, {}, ["torch/fp16"]),
        ("openvino", "auto", False, PASSED, ["openvino/f32"]),
        ("openvino", "int8", False, {}, ["openvino/int8"]),
        ("auto", "auto", False, {}, ["openvino/f32", "torch/f32"]),
        ("auto", "auto", False, PASSED, ["openvino/int8", "openvino/f32", "torch/bf16", "torch/f32"]),
        ("auto", "auto", True, PASSED, ON_A_GPU),
        ("auto", "bf16", True, PASSED, ["torch/bf16"]),
        ("auto", "bf16", False, PASSED, ["openvino/bf16", "torch/bf16"]),
        ("auto", "int8", False, {}, ["openvino/int8"]),
    ],
)
def test_backends_are_tried_in_this_order(name, precision, on_gpu, passed, expected):
    found = candidates(backend_settings(name, precision, 32), on_gpu=on_gpu, passed=passed)
    assert [candidate.key for candidate in found] == expected


def test_a_candidate_has_to_be_what_was_validated():
    found = candidates(backend_settings("auto", "auto", 32), on_gpu=False, passed=PASSED)
    assert [candidate.digest for candidate in found] == ["digest", None, None, None]
    assert found[0] == Candidate(
        "openvino", "int8", "the fastest that validate has passed for this model", digest="digest"
    )


@pytest.mark.parametrize(
    "name, precision, on_gpu, message",
    [
        ("onnx", "f32", False, "there is no backend 'onnx'; expected one of auto, torch, openvino."),
        ("torch", "int8", False, "backend=torch computes in f32, bf16, fp16, not in int8"),
        ("torch", "int8", True, "backend=torch computes in f32, bf16, fp16, not in int8"),
        ("auto", "int8", True, "a GPU computes in f32, bf16, fp16, not in int8"),
    ],
)
def test_a_backend_there_is_not_is_one_line(name, precision, on_gpu, message):
    found = refusal(candidates, backend_settings(name, precision, 32), on_gpu=on_gpu, passed={})
    assert found.startswith(message)


def test_a_list_of_backends_is_checked():
    check_candidates(["torch/f32", "openvino/int8"])
    assert refusal(check_candidates, ["torch/f32", "auto/f32"]).startswith(
        "candidates: there is no backend 'auto/f32'; expected some of torch/f32, "
    )


def test_settings_for_openvino_are_those_for_the_cpu():
    settings = backend_settings("auto", "auto", 32, batch_tokens=100, device="cuda", threads=2)
    ours = dataclasses.replace(settings, name="torch", precision="fp16")
    assert settings.of("torch/fp16") == ours
    assert settings.of("openvino/int8") == dataclasses.replace(ours, name="openvino", precision="int8", device="cpu")


@pytest.fixture
def emulated(monkeypatch):
    """Say why the CPU emulates bfloat16; None: it does not."""
    return lambda why: monkeypatch.setattr(
        load, "why_emulated", lambda precision, device: why if precision == "bf16" else None
    )


def test_auto_leaves_out_what_this_machine_emulates_unless_it_was_asked_for(tiny, emulated, said):
    emulated("it has none")
    backend = tiny.load("Dense", "auto", passed={"torch/bf16": Passed(200.0)})
    assert (backend.name, backend.precision) == ("openvino", "f32")
    assert said() == ["backend=auto leaves out torch/bf16: it has none"]
    assert tiny.load("Dense", "torch", "bf16").precision == "bf16"


def test_auto_takes_the_fastest_that_has_passed(tiny, int8, emulated, said):
    emulated(None)
    slower = {"openvino/f32": Passed(100.0), "torch/f32": Passed(50.0)}
    backend = tiny.load("Dense", "auto", passed={**slower, "torch/bf16": Passed(200.0)})
    assert (backend.name, backend.precision) == ("torch", "bf16")

    passed = {**slower, "openvino/int8": Passed(200.0, int8().digest)}
    backend = tiny.load("Dense", "auto", calibration=lambda: CALIBRATION, passed=passed)
    assert (backend.name, backend.precision) == ("openvino", "int8")
    assert said() == []


def test_auto_leaves_out_a_model_that_is_not_the_validated_one(tiny, int8, said):
    passed = {"openvino/int8": Passed(200.0, "0" * 64)}
    backend = tiny.load("Dense", "auto", calibration=lambda: CALIBRATION, passed=passed)
    assert (backend.name, backend.precision) == ("openvino", "f32")
    (warning,) = said()
    assert warning == (
        "backend=auto leaves out openvino/int8: its converted model is not the one that was validated; run validate again"
    )


def test_auto_takes_an_exact_backend_that_was_converted_anew_since(tiny, said):
    """Its digest is another than the validated one, but it equals torch, and is checked to."""
    backend = tiny.load("mean", "auto", passed={"openvino/f32": Passed(200.0, "0" * 64)})
    assert (backend.name, backend.precision) == ("openvino", "f32")
    (warning,) = said()
    assert "leaves out openvino/f32: its converted model is not the one that was validated" in warning


@pytest.fixture
def no_bfloat16(monkeypatch):
    """A CPU without bfloat16."""
    import openvino

    from steps.common.backends import openvino as module

    class Core(openvino.Core):
        def get_property(self, device, name):
            found = super().get_property(device, name)
            return [kind for kind in found if kind != "BF16"] if name == "OPTIMIZATION_CAPABILITIES" else found

    monkeypatch.setattr(module, "core", functools.cache(Core))


MODEL_FREED_BY_ANOTHER_THREAD = """
import os, signal, threading
import openvino as ov
from openvino import opset13 as ops
from steps.common.backends.openvino import core

given = ops.parameter([2, 2], float)
compiled = [core().compile_model(ov.Model([ops.add(given, given)], [given]), "CPU")]
thread = threading.Thread(target=compiled.clear)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(10)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_a_model_was_freed_by_another_thread_is_no_crash():
    command = [sys.executable, "-c", MODEL_FREED_BY_ANOTHER_THREAD]
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit it.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, preexec_fn=default)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_bfloat16_is_refused_where_the_cpu_has_none(tiny, no_bfloat16):
    message = refusal(tiny.load, "mean", "openvino", "bf16")
    assert "cannot be used: this CPU has no bfloat16 instructions (OpenVINO finds " in message


def test_auto_goes_on_where_the_cpu_lacks_what_was_validated(tiny, no_bfloat16, said):
    backend = tiny.load("mean", "auto", passed={"openvino/bf16": Passed(200.0)})
    assert (backend.name, backend.precision) == ("openvino", "f32")
    (warning,) = said()
    assert warning.startswith("backend=auto leaves out openvino/bf16: this CPU has no bfloat16 instructions")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_is_near_the_model_and_not_the_model(tiny, backend):
    if backend == "openvino":
        needs_precision("bf16")
    loaded = tiny.load("mean", backend, "bf16")
    assert loaded.precision == "bf16"
    found = loaded.encode(TEXTS)
    assert found.dtype == np.float32
    assert 1e-3 < relative_errors(found, tiny.expected("mean")).max() < TOLERANCE["bf16"]


@pytest.mark.parametrize(
    "backend, precision, reason",
    [
        ("torch", "int8", "backend=torch computes in f32, bf16, fp16, not in int8"),
        ("torch", "fp16", "fp16 is for a GPU; a CPU computes it more slowly than f32"),
        ("openvino", "fp16", "backend=openvino computes in f32, bf16, int8, not in fp16; backend=torch does"),
    ],
)
def test_a_precision_a_backend_does_not_have_is_refused(tiny, backend, precision, reason):
    assert reason in refusal(tiny.load, "mean", backend, precision, device="cpu")


def test_a_device_that_is_not_there_is_one_line(tiny):
    message = refusal(tiny.load, "mean", "torch", device="tpu")
    assert message.startswith("backend.device=tpu is not on this machine; expected one of auto, cpu")


def test_openvino_has_one_cpu(tiny):
    assert "OpenVINO computes on the CPU, not on cpu,cpu" in refusal(tiny.load, "mean", "openvino", device="cpu,cpu")


@pytest.mark.parametrize(
    "name, precision, error, line",
    [
        ("torch", "f32", 8.1e-07, "backend torch f32 on cpu (what the served model computes with)"),
        (
            "openvino",
            "f32",
            8.1e-07,
            "(asked for); vectors of 7 test texts differ from torch's in float32 by less than 0.1% of their",
        ),
        (
            "openvino",
            "int8",
            0.1149,
            "(asked for); vectors of 7 test texts differ from torch's in float32 by at most 11.5% of their",
        ),
    ],
)
def test_the_log_says_why_a_backend_is_taken_and_how_far_it_is_off(caplog, monkeypatch, name, precision, error, line):
    backend = SimpleNamespace(name=name, precision=precision, device="cpu")
    monkeypatch.setattr(load, "_load_checked", lambda candidate, request, expected: (backend, error))
    request = SimpleNamespace(settings=backend_settings(name, precision, 32), devices=["cpu"])
    with caplog.at_level("INFO", "steps"):
        load._load_best(request, np.zeros((7, 4)), {})
    assert line in caplog.text and ("differ" in caplog.text) is (name != "torch")
