"""What this process may compute with: cores, their number formats, and devices."""

import math
import os
from pathlib import Path

import psutil

from steps.common.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


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
