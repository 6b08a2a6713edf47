"""What this process may compute with: cores, their number formats, and devices."""

import math
import os
from pathlib import Path

import psutil

from steps.common.errors import UserError

CGROUP = Path("/sys/fs/cgroup")

# What lets a CPU pass for a lesser one: oneDNN's and torch's own variables, with their values that rule bfloat16 out.
WITHOUT_BFLOAT16 = {
    "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"),
    "ATEN_CPU_CAPABILITY": ("DEFAULT", "AVX2"),
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


def without_bfloat16() -> str | None:
    """The variable that rules bfloat16 instructions out, as NAME=value; None where none does."""
    return next(
        (
            f"{name}={os.environ[name]}"
            for name, values in WITHOUT_BFLOAT16.items()
            if os.environ.get(name, "").upper() in values
        ),
        None,
    )


def why_emulated(precision: str, device: str) -> str | None:
    """Why torch computes a precision on a device with the instructions of another; None where it has its own.

    Of those that torch has on a CPU this is bfloat16, where a product is ten times and more slower than in float32. int8
    without VNNI is not meant: OpenVINO computes it with AVX2's own instructions, 1.8 times as fast as float32 on two
    cores of an AMD EPYC.
    """
    import torch

    if device != "cpu" or precision != "bf16":
        return None
    if ruled_out := without_bfloat16():
        return f"{ruled_out} rules bfloat16 instructions out, so torch emulates them"
    there = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    flags = torch.cpu.get_capabilities()
    if there and flags.get("architecture") == "x86_64":
        # oneDNN also accepts what it emulates with AVX-512.
        there = any(flags.get(name) for name in ("avx512_bf16", "amx_bf16", "avx_ne_convert"))
    return None if there else "this CPU has no bfloat16 instructions, so torch emulates them"


def pick_devices(device: str) -> list[str]:
    """The torch devices that `backend.device` names; `auto` is every CUDA device, else MPS, else the CPU.

    Several are separated by commas (cuda:0,cuda:1).

    Raises:
        UserError: a device that this machine does not have.
    """
    import torch

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
