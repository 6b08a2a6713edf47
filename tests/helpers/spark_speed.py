"""How fast engine=spark is beside engine=local, whether executors add up, and what killing them changes.

    PYTHONPATH=.:tests python -m helpers.spark_speed rate|executors|kills [--model FOLDER] [--rows 20000] [--rows-per-part 2500]
        [--repeats 3] [--kills 10]

rate: `local[2]` and one process in turn, with torch in float32; the start of the session is not counted in the rate.
executors: a standalone cluster of one and of two executors of one core, with the start of their Python workers.
kills: executors of that cluster are ended with -9 at random moments, and the parts compared with those of one process.

The figures of docs/spark.md come from it.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.gpu_speed import digests, run_step
from helpers.project import PROJECT
from helpers.spark import Cluster, environment
from helpers.steps import last_json

WORDS = (
    "library for parsing simple fast tool client api data python web framework async wrapper command line utilities machine "
    "learning image text server plugin test support cloud json config"
)

# Kills in one job: Spark gives a task up that failed four times.
TOGETHER = 3


class Bench:
    """A folder with a corpus, a model that was logged, and outputs."""

    def __init__(self, folder: Path, model: str, rows: int, rows_per_part: int):
        rng = random.Random(3)
        self.folder, self.made = folder, 0
        self.corpus = folder / "texts.txt"
        self.corpus.write_text(
            "".join(f"{' '.join(rng.choices(WORDS.split(), k=rng.randint(4, 12)))} {i}\n" for i in range(rows)),
            encoding="utf-8",
        )
        found = run_step("log_model", f"model={model}", store=folder)
        self.given = [
            f"run_id={found['run_id']}",
            f"corpus={self.corpus}",
            f"rows_per_part={rows_per_part}",
            "backend=torch",
        ]

    def new_output(self) -> Path:
        self.made += 1
        return self.folder / f"out{self.made}"

    def start(self, *words: str, output: Path, log: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "steps.encode", *self.given, f"output={output}", *words]
        env = os.environ | environment()
        env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db", "HF_HUB_OFFLINE": "1"}
        with log.open("w") as out, log.with_suffix(".err").open("w") as err:
            return subprocess.Popen(command, cwd=PROJECT, env=env, stdout=out, stderr=err)

    def encode(self, *words: str) -> dict:
        """What an encode says at its end, with its output and the seconds of its process."""
        output, log, begun = self.new_output(), self.folder / "log.out", time.perf_counter()
        if self.start(*words, output=output, log=log).wait():
            raise SystemExit(log.with_suffix(".err").read_text())
        return last_json(log.read_text()) | {"output": output, "process": time.perf_counter() - begun}


def tell(name: str, found: list[dict]) -> float:
    """Print the rates and times of some encodes; returns the median rate."""
    rates = [one["encode/rows_per_second"] for one in found]
    rate = statistics.median(rates)
    seconds = statistics.median(one["process"] - one["encode/seconds"] for one in found)
    print(f"{name:14} {rate:8.0f} rows/s ({min(rates):.0f} to {max(rates):.0f}), {seconds:.1f} s beside it", flush=True)
    return rate


def compare_rates(bench: Bench, repeats: int) -> None:
    local, spark = [], []
    for _ in range(repeats):
        local.append(bench.encode("engine=local"))
        spark.append(bench.encode("engine=spark", "engine.master=local[2]"))
    ratio = tell("local[2]", spark) / tell("one process", local)
    same = all(digests(one["output"]) == digests(local[0]["output"]) for one in [*local, *spark])
    print(f"ratio {ratio:.2f}; parts {'the same' if same else 'DIFFER'}", flush=True)


def compare_executors(bench: Bench, repeats: int) -> None:
    rates = []
    for hosts in (("127.0.0.1",), ("127.0.0.1", "127.0.0.2")):
        cluster = Cluster(bench.folder / f"cluster{len(hosts)}", hosts)
        try:
            words = ("engine=spark", f"engine.master={cluster.master}", "engine.shared_files=true")
            rates.append(tell(f"{len(hosts)} executor(s)", [bench.encode(*words) for _ in range(repeats)]))
        finally:
            cluster.close()
    print(f"ratio {rates[1] / rates[0]:.2f}", flush=True)


def kill_executors(bench: Bench, kills: int) -> None:
    """Raises SystemExit where a job cannot be finished or a byte differs."""
    rng, killed, jobs, resumed = random.Random(kills), 0, 0, 0
    begun = time.perf_counter()
    whole = digests(bench.encode("engine=local")["output"])
    cluster = Cluster(bench.folder / "cluster")
    words = ("engine=spark", f"engine.master={cluster.master}", "engine.shared_files=true")
    try:
        seconds = bench.encode(*words)["encode/seconds"]
        while killed < kills:
            output, log = bench.new_output(), bench.folder / "log.out"
            jobs += 1
            process = bench.start(*words, output=output, log=log)
            for _ in range(min(TOGETHER, kills - killed)):
                # Its executors are there once parts can be made.
                while process.poll() is None and not cluster.executors():
                    time.sleep(0.1)
                time.sleep(rng.uniform(0, seconds))
                if process.poll() is None and cluster.executors():
                    cluster.kill_executor(rng.randrange(2))
                    killed += 1
            while process.wait():
                resumed += 1
                print(log.with_suffix(".err").read_text().splitlines()[-1], flush=True)
                process = bench.start(*words, output=output, log=log)
            if digests(output) != whole:
                raise SystemExit(f"{output} differs from what one process makes")
    finally:
        cluster.close()
    print(
        f"{killed} kills in {jobs} jobs, {resumed} resumed, every output byte for byte that of one process; {time.perf_counter() - begun:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rate", "executors", "kills"])
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rows-per-part", type=int, default=2_500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.model, given.rows, given.rows_per_part)
        if given.what == "kills":
            kill_executors(bench, given.kills)
        else:
            {"rate": compare_rates, "executors": compare_executors}[given.what](bench, given.repeats)


if __name__ == "__main__":
    main()
