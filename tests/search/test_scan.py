"""Exact search, its compressed and approximate forms, and the measure of what they lose: beside answers from all scores."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from helpers.collected import write_rows
from helpers.errors import refusal

from steps.common.errors import UserError
from steps.common.search import measure, scan
from steps.common.search.approximate import Graph
from steps.common.search.build import build, choose
from steps.common.search.conf import BuildConf, GraphConf, MeasureConf, Method, Metric, Numbers, check_conf
from steps.common.search.filters import choose_rows
from steps.common.search.index import VECTORS, Index
from steps.common.search.matrix import MatrixFile, Rows

CONF = BuildConf(
    metric=Metric.cosine,
    method=Method.exact,
    approximate_above=1_000_000,
    vectors=Numbers.auto,
    rescore=20,
    graph=GraphConf(links=16, build_effort=40, effort=64),
    measure=MeasureConf(queries=50, min_recall=0.9, max_p95_ms=None),
)


def clusters(count: int, dim: int = 40, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((30, dim))[random.integers(0, 30, count)] + 0.5 * random.standard_normal(
        (count, dim)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def best_of_all(vectors, queries, k):
    """As one product and a sort would find it."""
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("queries", [1, 7, 30])
def test_pieces_give_what_one_product_gives(queries, monkeypatch):
    vectors = clusters(1000)
    monkeypatch.setattr(scan.Float32, "piece", 64)
    monkeypatch.setattr(scan, "QUERIES", 20)
    hits = scan.find_top(scan.Float32(vectors), vectors[:queries], 12)
    assert (hits.rows == best_of_all(vectors, vectors[:queries], 12)).all()
    assert (hits.rows.dtype, hits.scores.dtype) == (np.int64, np.float32)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(vectors[:queries] @ vectors.T, hits.rows, 1), atol=1e-6)


def test_of_equal_scores_the_first_row_comes_first_and_few_rows_give_few_hits():
    vectors = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    hits = scan.find_top(scan.Float32(vectors), np.array([[1, 0]], np.float32), 10)
    assert hits.rows.tolist() == [[0, 2, 1]]
    assert scan.find_top(scan.Float32(vectors), vectors[:1], 2, np.array([1, 2])).rows.tolist() == [[2, 1]]
    assert scan.find_top(scan.Float32(vectors), vectors[:1], 2, np.array([], np.int64)).rows.shape == (1, 0)
    assert scan.find_top(scan.Float32(vectors), vectors[:0], 2).rows.shape == (0, 0)


@pytest.fixture
def folder(tmp_path):
    """What collect writes: 600 vectors of 40 dimensions, some equal, with a row number and a parity beside each."""
    vectors = clusters(600)
    vectors[100:110] = vectors[0]
    with MatrixFile(tmp_path / VECTORS, np.dtype(np.float32), 40) as file:
        file.append(vectors[:250])
        file.append(vectors[250:])
    write_rows(tmp_path, id=np.arange(600), even=np.arange(600) % 2 == 0)
    return tmp_path


FORMS = {
    "float32": {},
    "float16": {"vectors": Numbers.float16},
    "int8": {"vectors": Numbers.int8},
    "binary": {"vectors": Numbers.binary},
    "int8 alone": {"vectors": Numbers.int8, "rescore": 0},
    "graph": {"method": Method.approximate},
    "graph of float32": {"method": Method.approximate, "vectors": Numbers.float32},
    "graph of int8": {"method": Method.approximate, "vectors": Numbers.int8},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_index_finds_the_best_rows_also_among_those_a_filter_lets_through(form, folder):
    vectors = Rows(folder / VECTORS).read(0, 600)
    facts, measures = build(folder, replace(CONF, **FORMS[form]))
    index = Index(folder)
    assert (facts.rows, index.facts) == (600, facts)
    queries = clusters(20, seed=1)
    for filter, allowed in ((None, np.arange(600)), ('{"even": true}', np.arange(0, 600, 2))):
        hits = index.search(queries, 5, filter=filter)
        expected = allowed[best_of_all(vectors[allowed], queries, 5)]
        assert np.isin(hits.rows, allowed).all()
        assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(hits.rows, expected)]) > 0.8
        exact = np.take_along_axis(queries @ vectors.T, hits.rows, 1)
        np.testing.assert_allclose(hits.scores, exact, atol=0.02 if form == "int8 alone" else 1e-5)
    assert (index.search(queries, 5, minimum_score=2.0).rows == -1).all()
    assert index.search(queries[:1], 9999).rows.shape[1] <= 600
    assert index.take(np.array([7, 3])).column("id").to_pylist() == [7, 3]
    assert ("recall_at_10" in measures) == (form != "float32")
    assert measures.get("recall_at_10", 1) > 0.9 and 0 < measures["search_p50_ms"] <= measures["search_p95_ms"]
    assert (folder / VECTORS).exists() == (form != "int8 alone")


def test_auto_is_exact_up_to_a_number_of_rows(folder):
    assert build(folder, replace(CONF, method=Method.auto))[0].method == "exact"
    assert build(folder, replace(CONF, method=Method.auto, approximate_above=599))[0].method == "approximate"


def test_auto_compares_float16_in_a_graph_of_unit_vectors_and_float32_elsewhere():
    def compared(**settings):
        return choose(replace(CONF, **settings), rows=600, dim=40).vectors

    assert compared() == compared(metric=Metric.dot, method=Method.approximate) == "float32"
    assert compared(method=Method.approximate) == compared(method=Method.auto, approximate_above=599) == "float16"
    assert compared(method=Method.approximate, vectors=Numbers.float32) == "float32"


def test_a_graph_is_not_asked_for_more_candidates_than_it_looks_at(folder, monkeypatch):
    facts, _ = build(folder, replace(CONF, method=Method.approximate))
    assert (facts.rescore, facts.effort) == (20, 64)
    index, asked = Index(folder), []
    find_top = Graph.find_top
    monkeypatch.setattr(Graph, "find_top", lambda self, queries, k: asked.append(k) or find_top(self, queries, k))
    for top_k in (2, 10, 100):
        index.search(clusters(3, seed=1), top_k)
    assert asked == [40, 64, 100]


def test_an_index_beyond_a_threshold_is_refused(folder):
    worse = replace(CONF, vectors=Numbers.binary, rescore=0)
    with pytest.raises(UserError, match=r"recall@10 is 0\.\d+, below measure.min_recall=0.9; no index is logged"):
        build(folder, worse)
    with pytest.raises(UserError, match=r"a query takes .* ms \(p95\), more than measure.max_p95_ms=0.0"):
        build(folder, replace(CONF, measure=replace(CONF.measure, max_p95_ms=0.0)))
    for settings in ({"metric": Metric.dot}, {"method": Method.approximate}):
        with pytest.raises(UserError, match="vectors=binary"):
            check_conf(replace(worse, **settings))


def test_recall_and_ndcg_count_by_scores_so_that_equal_rows_are_as_good(tmp_path):
    # One dimension: a row's score is its value, and rows 0 and 1 are equal.
    np.save(tmp_path / VECTORS, np.array([[9], [9], [8], [7], [6], [5]], np.float32))
    vectors, query = Rows(tmp_path / VECTORS), np.ones((1, 1), np.float32)

    def hits(*rows):
        return scan.Hits(np.array([rows]), vectors.take(np.array(rows))[:, 0][None])

    def rate(*rows):
        return measure.rate(hits(0, 2), scan.Hits(np.array([rows]), np.zeros((1, len(rows)))), query, vectors)

    assert rate(0, 2) == rate(1, 2) == measure.Quality(1.0, 1.0)
    assert rate(0, 3).recall_at_10 == rate(0, -1).recall_at_10 == 0.5
    # Gains 2 and 1, the second place worth 0.63 of the first.
    discount = 1 / np.log2(3)
    assert rate(2, 0).ndcg_at_10 == pytest.approx((1 + 2 * discount) / (2 + discount))
    assert rate(4, 5) == measure.Quality(0.0, 0.0)


def test_held_out_rows_are_few_and_come_from_everywhere():
    assert measure.hold_out(9, 200).tolist() == []
    assert len(measure.hold_out(100, 200)) == 10
    assert measure.hold_out(5000, 3).tolist() == [0, 2499, 4999]


ROWS_OF_FILTERS = pa.table(
    {
        "id": [1, 2, 3, 4],
        "lang": ["en", "de", None, "en"],
        "text": ["a"] * 4,
        "year": pa.array([2019, 2020, 2021, None], pa.int32()),
        "day": pa.array(["2020-01-01", "2020-02-01", None, "2021-01-01"]).cast(pa.date32()),
        "ok": [True, False, None, True],
        "category": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "share": pa.array([0.1, 0.5, None, 2], pa.float32()),
        "half": pa.array(np.array([0.1, 0.5, 1, 2], np.float16)),
        "hash": pa.array([2**64 - 1, 2**63, None, 0], pa.uint64()),
        "price": pa.array([Decimal("0.1"), Decimal("12345678901234567.9"), None, Decimal(2)], pa.decimal128(20, 1)),
    }
)


@pytest.mark.parametrize(
    "filter, rows",
    [
        ('{"lang": "en"}', [0, 3]),
        ('{"lang": ["de", null]}', [1, 2]),
        ('{"lang": null}', [2]),
        ('{"lang": {"!=": null}, "id": {">": 1}}', [1, 3]),
        ('{"lang": {"!=": "en"}}', [1]),
        ('{"year": {">=": 2020}}', [1, 2]),
        ('{"year": {">": 2019.5, "<": 2021}}', [1]),
        ('{"day": {"<=": "2020-02-01"}}', [0, 1]),
        ('{"ok": true}', [0, 3]),
        ('{"lang": []}', []),
        ("{}", [0, 1, 2, 3]),
        ('{"category": "a"}', [0, 3]),
        ('{"category": ["b", null]}', [1, 2]),
        ('{"share": 0.1}', [0]),
        ('{"share": [0.1, 2]}', [0, 3]),
        ('{"share": {"<=": 0.1}}', [0]),
        ('{"half": {">": 0.2, "<": 2}}', [1, 2]),
        ('{"half": [0.5, 2]}', [1, 3]),
        ('{"hash": 18446744073709551615}', [0]),
        ('{"hash": [9223372036854775808, 0]}', [1, 3]),
        ('{"hash": {">": 1}}', [0, 1]),
        ('{"hash": {">": -1}}', [0, 1, 3]),
        ('{"hash": {">": 0.5}}', [0, 1]),
        ('{"year": [2019.5, 2020]}', [1]),
        ('{"price": 0.1}', [0]),
        ('{"price": [2, 0.1]}', [0, 3]),
        ('{"price": 0.15}', []),
        ('{"price": {">": 0.05, "<": 1e300}}', [0, 1, 3]),
        ('{"price": 12345678901234567}', []),
    ],
)
def test_a_filter_chooses_rows(filter, rows):
    assert choose_rows(ROWS_OF_FILTERS, filter).tolist() == rows


@pytest.mark.parametrize(
    "filter, reason",
    [
        ("lang=en", "filter=lang=en is not JSON"),
        ("[1]", "is not a JSON object; expected something like"),
        ('{"topic": 1}', "the index has no column 'topic'; it has id, lang, year, day, ok, category"),
        ('{"text": "a"}', "the index has no column 'text'"),
        ('{"lang": {"~": "e"}}', "expected a value, a list of values, or comparisons with =, !=, <"),
        ('{"lang": 3}', "'lang' holds string, which cannot be compared with 3"),
        ('{"year": "2020"}', "'year' holds int32, which cannot be compared with"),
        ('{"year": [2020, "x"]}', "'year' holds int32"),
        ('{"day": "soon"}', "'day' holds date32"),
        ('{"day": ' + "[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused_on_one_line(filter, reason):
    assert reason in refusal(choose_rows, ROWS_OF_FILTERS, filter)


def test_no_filter_searches_all_rows():
    assert choose_rows(ROWS_OF_FILTERS, None) is None and choose_rows(ROWS_OF_FILTERS, "") is None
