"""How fast each form of an index is, what it loses and how much memory it takes, beside a pass over the vectors, one matrix product
and other libraries; each in a process of its own, since memory is that of the process.

    PYTHONPATH=.:tests python -m helpers.search_speed VECTORS.npy [FORM ...]

VECTORS.npy is float32 [n, dim] of unit length. The queries are rows of it, held out where a figure of quality is measured. The figures of
docs/search.md come from it. usearch is measured where it is installed: float16 in a graph, with the settings of ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from helpers import apart
from helpers.collected import write_rows

from steps.common.backends.hardware import usable_cores
from steps.common.backends.machine import peak_mb, reset_peak, rss_mb
from steps.common.project import CONF
from steps.common.search import approximate
from steps.common.search.build import build
from steps.common.search.conf import BuildConf, GraphConf, MeasureConf, Method, Metric, Numbers
from steps.common.search.index import VECTORS, Index
from steps.common.search.matrix import Rows, map_matrix
from steps.common.search.measure import compare, hold_out
from steps.common.search.scan import Hits

DEFAULTS = yaml.safe_load((CONF / "index.yaml").read_text())

FORMS = {
    "float32": {},
    "float16": {"vectors": Numbers.float16},
    "int8": {"vectors": Numbers.int8},
    "int8, not rescored": {"vectors": Numbers.int8, "rescore": 0},
    "binary": {"vectors": Numbers.binary},
    "binary, not rescored": {"vectors": Numbers.binary, "rescore": 0},
    "graph": {"method": Method.approximate},
    "graph of float32": {"method": Method.approximate, "vectors": Numbers.float32},
    "graph of int8": {"method": Method.approximate, "vectors": Numbers.int8},
}
OTHERS = ("pass", "product", "sentence-transformers", "faiss flat", *(["usearch"] if find_spec("usearch") else []))

# Queries asked one by one, and those asked together.
ALONE, TOGETHER = 100, 1000


def conf_of(form: str) -> BuildConf:
    given = {name: DEFAULTS[name] for name in ("approximate_above", "rescore")}
    conf = BuildConf(
        metric=Metric.cosine,
        method=Method.exact,
        vectors=Numbers.auto,
        graph=GraphConf(**DEFAULTS["graph"]),
        measure=MeasureConf(**DEFAULTS["measure"] | {"min_recall": 0.0}),
        **given,
    )
    return replace(conf, **FORMS[form])


def time_calls(call, queries: np.ndarray) -> dict:
    """Milliseconds of a call for one query (50th and 95th percentile), and calls a second for many together."""
    call(queries[:1])
    alone = []
    for row in range(ALONE):
        start = time.perf_counter()
        call(queries[row : row + 1])
        alone.append(1000 * (time.perf_counter() - start))
    start = time.perf_counter()
    call(queries[:TOGETHER])
    together = min(TOGETHER, len(queries)) / (time.perf_counter() - start)
    p50, p95 = np.percentile(alone, [50, 95])
    return {"p50_ms": p50, "p95_ms": p95, "queries_per_second": together}


def measure_form(form: str, vectors: Path) -> dict:
    """Build a form in one process, and ask it here, so that the memory is that of asking."""
    with tempfile.TemporaryDirectory(dir=vectors.parent) as scratch:
        folder = Path(scratch)
        (folder / VECTORS).hardlink_to(vectors)
        write_rows(folder, id=np.arange(len(Rows(vectors))))
        command = [sys.executable, "-m", "helpers.search_speed", "--build", form, str(folder)]
        built = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        queries = some_rows(vectors)
        before = start_measuring()
        index = Index(folder)
        found = time_calls(lambda asked: index.search(asked, 10), queries)
        return built | found | {"ask_mb": peak_mb() - before}


def build_here(form: str, folder: Path) -> dict:
    before, start = start_measuring(), time.perf_counter()
    _, measures = build(folder, conf_of(form))
    kept = ("recall_at_10", "ndcg_at_10")
    return {"build_s": time.perf_counter() - start, "build_mb": peak_mb() - before} | {
        name: measures[name] for name in kept if name in measures
    }


def measure_other(name: str, vectors: Path) -> dict:
    queries, mapped = some_rows(vectors), map_matrix(vectors)
    whole = torch.from_numpy(mapped)
    if name == "pass":
        return time_calls(lambda asked: whole.sum(), queries)
    if name == "product":
        return time_calls(lambda asked: (torch.from_numpy(asked) @ whole.T).topk(10), queries)
    if name == "sentence-transformers":
        from sentence_transformers import util

        return time_calls(lambda asked: util.semantic_search(torch.from_numpy(asked), whole, top_k=10), queries)
    if name == "usearch":
        return measure_usearch(vectors, queries)
    import faiss

    flat = faiss.IndexFlatIP(mapped.shape[1])
    flat.add(mapped)
    return time_calls(lambda asked: flat.search(asked, 10), queries)


class Usearch:
    """A graph of usearch, asked as an index of ours is (index.Searcher)."""

    def __init__(self, dim: int, *, links: int, build_effort: int, effort: int):
        from usearch.index import Index as Graph

        self.graph = Graph(
            ndim=dim,
            metric="ip",
            dtype="f16",
            connectivity=links,
            expansion_add=build_effort,
            expansion_search=effort,
        )

    def find(self, queries: np.ndarray, k: int, chosen: np.ndarray | None = None) -> Hits:
        # One query is one thread's work here too.
        found = self.graph.search(queries, k, threads=min(len(queries), usable_cores()))
        return Hits(found.keys.reshape(len(queries), -1).astype(np.int64), -found.distances.reshape(len(queries), -1))


def measure_usearch(vectors: Path, queries: np.ndarray) -> dict:
    rows = Rows(vectors)
    held = hold_out(len(rows), DEFAULTS["measure"]["queries"])
    searcher = Usearch(rows.width, **DEFAULTS["graph"])
    before, start = start_measuring(), time.perf_counter()
    others = np.setdiff1d(np.arange(len(rows)), held, assume_unique=True)
    for first in range(0, len(others), approximate.TOGETHER):
        some = others[first : first + approximate.TOGETHER]
        searcher.graph.add(some.astype(np.uint64), rows.take(some), threads=usable_cores())
    built = {"build_s": time.perf_counter() - start, "build_mb": peak_mb() - before}
    quality = compare(searcher, rows, held, excludes=False)
    found = {"recall_at_10": quality.recall_at_10, "ndcg_at_10": quality.ndcg_at_10}
    return built | found | time_calls(lambda asked: searcher.find(asked, 10), queries)


def some_rows(vectors: Path) -> np.ndarray:
    held = Rows(vectors)
    return held.take(np.linspace(0, len(held) - 1, TOGETHER).astype(np.int64))


def start_measuring() -> float:
    # Threads and buffers of torch, which every form has.
    torch.ones(256, 256) @ torch.ones(256, 256)
    reset_peak()
    return rss_mb()


def main(argv: list[str]) -> None:
    if argv[:1] == ["--build"]:
        print(json.dumps(build_here(argv[1], Path(argv[2]))))
        return
    if argv[:1] == ["--one"]:
        name, vectors = argv[1], Path(argv[2])
        print(json.dumps(measure_other(name, vectors) if name in OTHERS else measure_form(name, vectors)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("forms", nargs="*", metavar="form", help=f"of {', '.join([*OTHERS, *FORMS])}; default: all")
    asked = parser.parse_args(argv)
    vectors = asked.vectors.absolute()
    print(f"{vectors.name}: {np.load(vectors, mmap_mode='r').shape}, {psutil.cpu_count()} cores", flush=True)
    for name in asked.forms or [*OTHERS, *FORMS]:
        apart.show("helpers.search_speed", name, vectors, width=22)


if __name__ == "__main__":
    main(sys.argv[1:])
