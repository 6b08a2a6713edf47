"""Cores and devices: quotas from files, counts and devices that are said to be there."""

import os
from types import SimpleNamespace

import psutil
import pytest
from helpers.errors import refusal

from steps.common.backends import hardware
from steps.common.backends.hardware import cpu_quota, pick_devices, usable_cores, why_emulated


@pytest.fixture
def cgroup(tmp_path):
    """Write a cgroup folder: of version 2 with one file, of version 1 with two."""
    folder = tmp_path / "cgroup"
    folder.mkdir()

    def write(quota=None, period=None, *, max=None):
        if max is not None:
            (folder / "cpu.max").write_text(max)
        if quota is not None:
            (folder / "cpu").mkdir(exist_ok=True)
            (folder / "cpu/cpu.cfs_quota_us").write_text(quota)
        if period is not None:
            (folder / "cpu/cpu.cfs_period_us").write_text(period)
        return folder

    return write


@pytest.fixture
def machine(monkeypatch):
    """Say how many cores there are: hyper-threads, whole ones, and those this process may use."""

    def describe(logical, physical, affinity=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity or logical)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: logical)
        monkeypatch.setattr(psutil, "cpu_count", lambda logical=True, counts=(physical, logical): counts[logical])

    return describe


@pytest.fixture
def devices(monkeypatch):
    """Say which devices torch finds."""

    def describe(*, cuda=0, mps=False):
        torch = SimpleNamespace(
            cuda=SimpleNamespace(is_available=lambda: cuda > 0, device_count=lambda: cuda),
            backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        )
        monkeypatch.setattr(hardware, "torch", torch)

    return describe


# quota


def test_version_2_without_a_limit_has_no_quota(cgroup):
    assert cpu_quota(cgroup(max="max 100000\n")) is None


def test_version_2_grants_quota_over_period(cgroup):
    assert cpu_quota(cgroup(max="150000 100000\n")) == 1.5


def test_version_1_without_a_limit_has_no_quota(cgroup):
    assert cpu_quota(cgroup("-1\n", "100000\n")) is None


def test_version_1_grants_quota_over_period(cgroup):
    assert cpu_quota(cgroup("50000\n", "100000\n")) == 0.5


def test_version_2_goes_before_version_1(cgroup):
    assert cpu_quota(cgroup("50000\n", "100000\n", max="300000 100000\n")) == 3


def test_where_there_is_no_cgroup_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "missing") is None
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize("garbage", ["", "max", "100000", "a b", "1 2 3", "0 100000", "\0"])
def test_what_is_no_quota_is_none(cgroup, garbage):
    assert cpu_quota(cgroup(max=garbage)) is None


def test_half_of_version_1_is_no_quota(cgroup):
    assert cpu_quota(cgroup("50000\n")) is None
    assert cpu_quota(cgroup("", "100000\n")) is None


# cores


def test_hyper_threads_are_no_cores(machine, tmp_path):
    machine(logical=8, physical=4)
    assert usable_cores(tmp_path) == 4


def test_cores_without_hyper_threads_are_all_used(machine, tmp_path):
    machine(logical=8, physical=8)
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize("affinity", [1, 2, 6])
def test_cores_outside_the_affinity_are_not_used(machine, tmp_path, affinity):
    machine(logical=8, physical=8, affinity=affinity)
    assert usable_cores(tmp_path) == affinity


@pytest.mark.parametrize(("affinity", "cores"), [(2, 2), (4, 4), (6, 4)])
def test_an_affinity_of_hyper_threads_is_no_more_than_the_cores(machine, tmp_path, affinity, cores):
    machine(logical=8, physical=4, affinity=affinity)
    assert usable_cores(tmp_path) == cores


def test_a_machine_that_does_not_say_its_cores_has_those_of_the_affinity(machine, tmp_path):
    machine(logical=None, physical=None, affinity=3)
    assert usable_cores(tmp_path) == 3


def test_a_machine_without_affinity_has_its_cores(machine, monkeypatch, tmp_path):
    machine(logical=8, physical=4)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 4


@pytest.mark.parametrize(
    ("quota", "cores"), [("max", 4), ("50000", 1), ("100000", 1), ("150000", 2), ("400000", 4), ("900000", 4)]
)
def test_a_quota_is_rounded_up_and_is_no_more_than_the_cores(machine, cgroup, quota, cores):
    machine(logical=4, physical=4)
    assert usable_cores(cgroup(max=f"{quota} 100000\n")) == cores


def test_the_least_of_affinity_and_quota_counts(machine, cgroup):
    machine(logical=8, physical=8, affinity=2)
    assert usable_cores(cgroup(max="400000 100000\n")) == 2
    assert usable_cores(cgroup(max="100000 100000\n")) == 1


def test_this_machine_has_a_core():
    assert usable_cores() >= 1


# devices


def test_auto_takes_the_cpu_where_there_is_nothing_else(devices):
    devices()
    assert pick_devices("auto") == ["cpu"]


def test_auto_takes_every_cuda_device(devices):
    devices(cuda=3, mps=True)
    assert pick_devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]


def test_auto_takes_mps_before_the_cpu(devices):
    devices(mps=True)
    assert pick_devices("auto") == ["mps"]


@pytest.mark.parametrize(
    ("device", "picked"),
    [
        ("cpu", ["cpu"]),
        ("cuda", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:1, cuda:0", ["cuda:1", "cuda:0"]),
        ("cuda:0,cpu", ["cuda:0", "cpu"]),
        ("cpu,cpu", ["cpu", "cpu"]),
    ],
)
def test_devices_that_are_there_are_picked_in_their_order(devices, device, picked):
    devices(cuda=2)
    assert pick_devices(device) == picked


def test_mps_is_picked_where_it_is(devices):
    devices(mps=True)
    assert pick_devices("mps") == ["mps"]


@pytest.mark.parametrize(
    "device",
    [
        "cuda:2",
        "cuda:5",
        "cuda:-1",
        "cuda:x",
        "cuda:0:0",
        "cuda:0,cuda:5",
        "cpu:0",
        "mps",
        "xpu",
        "CPU",
        "",
        "cpu,",
        "auto,cpu",
    ],
)
def test_devices_that_are_not_there_are_refused_with_those_that_are(devices, device):
    devices(cuda=2)
    assert (
        refusal(pick_devices, device)
        == f"backend.device={device} is not on this machine; expected one of auto, cpu, cuda."
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_a_machine_with_a_cpu_only_expects_that(devices, device):
    devices()
    assert (
        refusal(pick_devices, device) == f"backend.device={device} is not on this machine; expected one of auto, cpu."
    )


@pytest.mark.parametrize("device", ["cpu:", "cuda:", "cuda:²"])
def test_half_a_device_is_refused(devices, device):
    devices(cuda=2)
    assert f"backend.device={device} is not on this machine" in refusal(pick_devices, device)


# Number formats


@pytest.fixture
def cpu(monkeypatch):
    """Say what torch finds out about the CPU."""
    import torch

    def describe(mkldnn, **flags):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn, raising=False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)

    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    return describe


@pytest.mark.parametrize(
    "mkldnn, flags, emulated",
    [
        (False, {"architecture": "x86_64"}, True),
        # oneDNN has it with AVX-512 alone, emulated.
        (True, {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        (True, {"architecture": "x86_64", "avx512_bf16": True}, False),
        (True, {"architecture": "x86_64", "amx_bf16": True}, False),
        (True, {"architecture": "aarch64"}, False),
        (False, {"architecture": "aarch64"}, True),
    ],
)
def test_a_cpu_without_bfloat16_is_known(cpu, mkldnn, flags, emulated):
    cpu(mkldnn, **flags)
    assert bool(why_emulated("bf16", "cpu")) == emulated
    assert why_emulated("bf16", "cuda:0") is None
    assert why_emulated("f32", "cpu") is None


@pytest.mark.parametrize(
    "flags, emulated",
    [
        ({"architecture": "x86_64", "avx512_vnni": False, "avx_vnni": False}, True),
        ({"architecture": "x86_64", "avx512_vnni": True}, False),
        ({"architecture": "x86_64", "avx_vnni": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_a_cpu_without_instructions_for_int8_is_known(cpu, monkeypatch, flags, emulated):
    cpu(False, **flags)
    assert bool(why_emulated("int8", "cpu")) == emulated
    assert why_emulated("int8", "cuda:0") is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert (
        why_emulated("int8", "cpu") == "ONEDNN_MAX_CPU_ISA=AVX2 rules out the instructions for int8, so it is emulated"
    )


@pytest.mark.parametrize(
    "name, value, emulated",
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", True),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", False),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", False),
        ("ATEN_CPU_CAPABILITY", "avx2", True),
        ("ATEN_CPU_CAPABILITY", "default", True),
        ("ATEN_CPU_CAPABILITY", "avx512", False),
    ],
)
def test_a_cpu_passes_for_a_lesser_one(cpu, monkeypatch, name, value, emulated):
    cpu(True, architecture="x86_64", avx512_bf16=True)
    monkeypatch.setenv(name, value)
    reason = why_emulated("bf16", "cpu")
    assert (reason and reason.startswith(f"{name}={value} rules out the instructions for bf16")) == (emulated or None)
