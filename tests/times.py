"""Print how long a start takes; asserted nowhere, because it is the machine's time.

python tests/times.py
"""

import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = [
    *([step, "--help"] for step in ("main", "log_model", "validate", "encode", "verify", "benchmark")),
    ["encode", "backend.batch_size=abc"],
    ["encode", "corpus=nothing.csv"],
]

if __name__ == "__main__":
    for step, *words in COMMANDS:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", f"steps.{step}", *words], cwd=PROJECT, capture_output=True)
            seconds.append(time.perf_counter() - start)
        print(f"{min(seconds):6.2f} s  {' '.join([step, *words])}")
