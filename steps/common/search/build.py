"""Vectors -> an index, and what it loses."""

import logging
from pathlib import Path

import numpy as np

from steps.common.errors import UserError
from steps.common.search.approximate import Graph
from steps.common.search.compressed import SMALLER
from steps.common.search.conf import BuildConf, GraphConf, MeasureConf
from steps.common.search.index import VECTORS, Facts, open_searcher, write_facts
from steps.common.search.matrix import Rows
from steps.common.search.measure import compare, hold_out, time_queries

logger = logging.getLogger("steps")


def build(folder: Path, conf: BuildConf) -> tuple[Facts, dict[str, float]]:
    """Make an index of the vectors that `collect` has written to a folder; returns its facts and its measures.

    Measures are recall_at_10 and ndcg_at_10 where the index may lose anything, search_p50_ms and search_p95_ms.

    Raises:
        UserError: faiss is needed and not installed, or a measure is beyond its threshold.
    """
    vectors = Rows(folder / VECTORS)
    facts = choose(conf, len(vectors), vectors.width)
    held = hold_out(len(vectors), conf.measure.queries)
    measures: dict[str, float] = {}
    graph = make_graph(vectors, facts.vectors, conf.graph, held) if facts.method == "approximate" else None
    is_smaller = facts.vectors != "float32" and graph is None
    if is_smaller:
        SMALLER[facts.vectors].write(vectors, folder)
    searcher = open_searcher(folder, facts, graph)
    if len(held) and (is_smaller or graph is not None):
        quality = compare(searcher, vectors, held, excludes=graph is None)
        measures |= {"recall_at_10": quality.recall_at_10, "ndcg_at_10": quality.ndcg_at_10}
    if graph is not None:
        graph.add(vectors, held)
        graph.save(folder)
    if len(held):
        p50, p95 = np.percentile(time_queries(searcher, vectors.take(held)), [50, 95])
        measures |= {"search_p50_ms": float(p50), "search_p95_ms": float(p95)}
    check_measures(measures, facts, conf.measure)
    if is_smaller and not facts.rescore:
        (folder / VECTORS).unlink()
    write_facts(folder, facts)
    return facts, measures


def choose(conf: BuildConf, rows: int, dim: int) -> Facts:
    """How vectors are searched, with `auto` decided: the method by their number, what is compared by the method."""
    method = conf.method.value
    if method == "auto":
        method = "approximate" if rows > conf.approximate_above and conf.vectors != "binary" else "exact"
        logger.info("method=auto is %s for %d rows (approximate_above=%d)", method, rows, conf.approximate_above)
    vectors = conf.vectors.value
    if vectors == "auto":
        # The numbers of vectors that have no unit length may be beyond float16.
        vectors = "float16" if method == "approximate" and conf.metric == "cosine" else "float32"
    rescore = 0 if vectors == "float32" else conf.rescore
    effort = conf.graph.effort if method == "approximate" else 0
    return Facts(rows, dim, conf.metric.value, method, vectors=vectors, rescore=rescore, effort=effort)


def make_graph(vectors: Rows, numbers: str, graph: GraphConf, held: np.ndarray) -> Graph:
    """A graph over all rows but those held out; `numbers` are what it holds of a vector."""
    made = Graph.make(vectors, numbers, links=graph.links, effort=graph.effort, build_effort=graph.build_effort)
    made.add(vectors, np.setdiff1d(np.arange(len(vectors)), held, assume_unique=True))
    return made


def check_measures(measures: dict[str, float], facts: Facts, conf: MeasureConf) -> None:
    """Raises UserError for a measure beyond its threshold."""
    recall, p95, limit = measures.get("recall_at_10"), measures.get("search_p95_ms"), conf.max_p95_ms
    if recall is not None and recall < conf.min_recall:
        remedy = "graph.effort" if facts.method == "approximate" else "rescore"
        raise UserError(
            f"recall@10 is {recall:.3f}, below measure.min_recall={conf.min_recall}; no index is logged. Raise {remedy}, or take method=exact vectors=float32, which loses nothing."
        )
    if p95 is not None and limit is not None and p95 > limit:
        raise UserError(
            f"a query takes {p95:.1f} ms (p95), more than measure.max_p95_ms={limit}; no index is logged. Take method=approximate, or a higher limit."
        )
