"""How long finding the paraphrases of a corpus takes, how much memory, and how many are found, beside other libraries; each in a
process of its own, since memory is that of the process.

    PYTHONPATH=.:tests python -m helpers.paraphrase_speed VECTORS.npy [ROWS [NAME ...]]

VECTORS.npy is float32 [n, dim] of unit length; ROWS of them are taken, evenly. semhash is no package of the project: put it, and what it
needs, on the path (PYTHONPATH). The figures of docs/paraphrases.md come from it.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from helpers import apart
from helpers.collected import write_rows

from steps.common.backends.machine import peak_mb
from steps.common.search.index import VECTORS
from steps.common.search.matrix import Rows
from steps.common.search.near import spread
from steps.common.search.paraphrases import (
    DUPLICATES,
    PAIRS,
    Corpus,
    mine,
    write_clusters,
    write_duplicates,
    write_pairs,
)

THRESHOLD = 0.9

# What other libraries find is compared with what these do.
NAMES = ("ours", "all scores", "paraphrase_mining", "semhash")


def find_ours(folder: Path) -> dict:
    """All that the step does with vectors: pairs, clusters and duplicates, written."""
    corpus = Corpus(folder)
    mined = mine(corpus, None, THRESHOLD, folder)
    seconds = {"find_s": time.perf_counter()}
    pairs = write_pairs(mined, corpus, None, folder)
    left_out = write_duplicates(mined, corpus, None, folder)
    clusters = write_clusters(mined, corpus, 2, folder, folder)
    return seconds | {"pairs": pairs, "left_out": left_out, "clusters": clusters}


def find_all(folder: Path) -> dict:
    """Every pair, by matrix products of whole vectors, and whether the step has found each; `ours` has to be first."""
    import torch

    vectors = torch.from_numpy(np.load(folder / VECTORS))
    written = pq.read_table(folder / PAIRS, columns=["id_1", "id_2"])
    ids = np.sort(np.stack([written.column(name).to_numpy() for name in ("id_1", "id_2")]), axis=0)
    ours = np.unique(ids[0] * len(vectors) + ids[1])
    found = []
    for start in range(0, len(vectors), 1024):
        first, second = (vectors[start : start + 1024] @ vectors.T >= THRESHOLD).nonzero().T.numpy()
        numbers = (first + start) * len(vectors) + second
        found.append(numbers[first + start < second])
    numbers = np.concatenate(found)
    return {
        "pairs": len(numbers),
        "not_in_ours": len(np.setdiff1d(numbers, ours)),
        "only_in_ours": len(np.setdiff1d(ours, numbers)),
    }


def find_by_mining(folder: Path) -> dict:
    import torch
    from sentence_transformers import util

    found = util.paraphrase_mining_embeddings(torch.from_numpy(np.load(folder / VECTORS)))
    return {"pairs": sum(score >= THRESHOLD for score, _, _ in found)}


def find_by_semhash(folder: Path) -> dict:
    from semhash import SemHash

    vectors = np.load(folder / VECTORS)
    records = [str(row) for row in range(len(vectors))]
    found = SemHash.from_embeddings(vectors, records, model=None).self_deduplicate(THRESHOLD)
    ours = {str(row) for row in pq.read_table(folder / DUPLICATES).column("id").to_pylist()}
    left_out = {one.record for one in found.filtered}
    return {"left_out": len(left_out), "of_ours": len(left_out & ours) / len(ours)}


FINDERS = dict(zip(NAMES, (find_ours, find_all, find_by_mining, find_by_semhash)))


def measure(name: str, folder: Path) -> dict:
    start = time.perf_counter()
    found = FINDERS[name](folder)
    seconds = {"seconds": time.perf_counter() - start}
    if "find_s" in found:
        found["find_s"] -= start
    return seconds | found | {"peak_mb": peak_mb()}


def main(argv: list[str]) -> None:
    if argv[:1] == ["--one"]:
        print(json.dumps(measure(argv[1], Path(argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("rows", type=int, nargs="?", help="default: all")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; default: all")
    asked = parser.parse_args(argv)
    vectors = Rows(asked.vectors)
    count = asked.rows or len(vectors)
    print(f"{asked.vectors}: {count} of {len(vectors)} rows, {psutil.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(dir=asked.vectors.absolute().parent) as scratch:
        folder = Path(scratch)
        np.save(folder / VECTORS, vectors.take(spread(len(vectors), count, 0.0)[:count]))
        write_rows(folder, most=8192, id=np.arange(count))
        for name in asked.names or NAMES:
            apart.show("helpers.paraphrase_speed", name, folder, width=18)


if __name__ == "__main__":
    main(sys.argv[1:])
