"""What this process may compute with: cores, their number formats, and devices."""

import math
import os
from pathlib import Path

import psutil
import torch

from steps.common.errors import UserError

CGROUP = Path("/sys/fs/cgroup")

# Instructions of x86-64 that compute in a precision, one of them each, by torch's names of CPU flags.
INSTRUCTIONS = {
    # oneDNN also accepts what it emulates with AVX-512.
    "bf16": ("avx512_bf16", "amx_bf16", "avx_ne_convert"),
    # VNNI: without it a product of bytes takes several instructions.
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}

# What lets a CPU pass for a lesser one: oneDNN's and torch's own variables, with their values that rule a precision out.
LESSER = {
    "bf16": {
        "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"),
        "ATEN_CPU_CAPABILITY": ("DEFAULT", "AVX2"),
    },
    "int8": {
        "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX", "AVX2", "AVX512_CORE"),
        "ATEN_CPU_CAPABILITY": ("DEFAULT", "AVX2"),
    },
}


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may keep busy: its affinity, cut by the CPU quota of its container, hyper-threads not counted.

    Two hyper-threads share one core's multipliers, so a second thread there adds nothing to matrix products.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = min(allowed, psutil.cpu_count(logical=False) or allowed)
    quota = cpu_quota(cgroup)
    return max(1, min(allowed, math.ceil(quota)) if quota else allowed)


def cpu_quota(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of time that the container's cgroup (version 2, else 1) grants; None where there is no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        return None if quota == "max" or float(quota) <= 0 else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def ruled_out(precision: str) -> str | None:
    """The variable that rules the instructions of a precision out, as NAME=value; None where none does."""
    return next(
        (
            f"{name}={os.environ[name]}"
            for name, values in LESSER[precision].items()
            if os.environ.get(name, "").upper() in values
        ),
        None,
    )


def why_emulated(precision: str, device: str) -> str | None:
    """Why a precision is computed on a device with the instructions of another; None where it has its own.

    On a CPU without them a product of torch in bfloat16 is ten times and more slower than in float32; int8 by OpenVINO
    is 0.7 times as fast as its float32 for all-MiniLM-L6-v2 on two cores of an AMD EPYC with AVX2.
    """
    if device != "cpu" or precision not in INSTRUCTIONS:
        return None
    if variable := ruled_out(precision):
        return f"{variable} rules out the instructions for {precision}, so it is emulated"
    flags = torch.cpu.get_capabilities()
    there = True
    if precision == "bf16":
        there = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if there and flags.get("architecture") == "x86_64":
        there = any(flags.get(name) for name in INSTRUCTIONS[precision])
    return None if there else f"this CPU has no instructions for {precision}, so it is emulated"


def pick_devices(device: str) -> list[str]:
    """The torch devices that `backend.device` names; `auto` is every CUDA device, else MPS, else the CPU.

    Several are separated by commas (cuda:0,cuda:1). Raises UserError for a device that this machine does not have.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        kind = next(name for name in ("cuda", "mps", "cpu") if there[name])
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] if kind == "cuda" else [kind]
    devices = [name.strip() for name in device.split(",")]
    for name in devices:
        kind, colon, _ = name.partition(":")
        if not there.get(kind) or (colon and name not in [f"cuda:{i}" for i in range(torch.cuda.device_count())]):
            names = ", ".join(["auto", *(name for name, is_there in there.items() if is_there)])
            raise UserError(f"backend.device={device} is not on this machine; expected one of {names}.")
    return devices
