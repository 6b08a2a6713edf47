"""The right to write to an output, held by one process."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

import psutil
from pyarrow import fs

from steps.common.errors import UserError
from steps.common.storage.output import WORK, Output

logger = logging.getLogger("steps")

# Seconds after its last heartbeat for which the encode of another machine counts as alive, and between two heartbeats.
LEASE = 60.0

BEAT = 10.0


class Claim:
    """The right to write to an output, held by one process and shown by a file that is renewed while it lives.

    Each writer publishes its claim before listing others, so of two that start together at least one sees the other
    (object stores list what was written before). A claim counts as long as its process lives or, on another machine,
    for LEASE seconds after its last heartbeat, by the clock of the store.
    """

    def __init__(self, output: Output, run_id: str, lease: float = LEASE, beat: float = BEAT):
        self._output, self._lease, self._beat = output, lease, beat
        self.name = f"{WORK}/claim-{uuid.uuid4().hex}.json"
        me = {"pid": os.getpid(), "started": _find_start(os.getpid())}
        self._content = json.dumps({"machine": _machine(), "host": socket.gethostname(), "run_id": run_id, **me})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def __enter__(self) -> "Claim":
        """Raises UserError where another process holds one."""
        self._output.write_text(self.name, self._content)
        try:
            self._look_for_others()
        except BaseException:
            self._output.delete(self.name)
            raise
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(UserError):
            self._output.delete(self.name)
        self._output.tidy()

    def check(self) -> None:
        """Raises UserError where another process took over, because this one seemed dead."""
        check_claim(self._output, self.name)

    def _look_for_others(self) -> None:
        times = self._times()
        now = times.pop(self.name)
        for name, seen in times.items():
            age = max(0.0, now - seen)
            held = self._output.read_json(name) or {}
            if self._is_alive(held, age):
                raise UserError(
                    f"output {self._output} is being written by another encode (run {held.get('run_id', 'unknown')}, process {held.get('pid')} on {held.get('host')}, last heartbeat {age:.0f} s ago). Wait for it or stop it, or give another output. A claim left by a dead process on another machine expires after {self._lease:.0f} s."
                )
            with contextlib.suppress(UserError):
                self._output.delete(name)

    def _times(self) -> dict[str, float]:
        """When each claim was last renewed, in seconds by the clock of the store."""
        place = self._output.place
        with self._output.explain_errors():
            infos = place.filesystem.get_file_info(fs.FileSelector(place.joined(WORK).path, allow_not_found=True))
        return {
            f"{WORK}/{info.base_name}": info.mtime_ns / 1e9 if info.mtime_ns else time.time()
            for info in infos
            if info.base_name.startswith("claim-") and info.base_name.endswith(".json")
        }

    def _is_alive(self, held: dict, age: float) -> bool:
        if held.get("machine") != _machine():
            return age < self._lease
        try:
            return psutil.Process(held["pid"]).is_running() and abs(_find_start(held["pid"]) - held["started"]) < 1
        except (psutil.Error, KeyError, TypeError, ValueError):
            return False

    def _renew(self) -> None:
        while not self._stop.wait(self._beat):
            try:
                self.check()
                self._output.write_text(self.name, self._content)
            except UserError as error:
                logger.warning("the claim on the output could not be renewed: %s", error)


def check_claim(output: Output, name: str) -> None:
    """Claim.check in any process, by the claim's name."""
    if output.size(name) is None:
        raise UserError(
            f"output {output}: another encode took over because this one's heartbeat lapsed. Wait for that one."
        )


def _find_start(pid: int) -> float:
    """When a process of this machine began; on Linux in clock ticks since boot, which no change of the wall clock moves.

    Raises psutil.NoSuchProcess where there is none.
    """
    with contextlib.suppress(OSError):
        # The name of the program, in brackets, may hold spaces; starttime is the 20th field behind it (man proc_pid_stat).
        return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return psutil.Process(pid).create_time()


def _machine() -> str:
    """This machine since its last boot and this process's pid namespace: where a pid names one process."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return " ".join(parts)
