"""Pairs of near vectors and what follows from them, beside answers from all scores and those of sentence-transformers."""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.collected import write_rows
from sentence_transformers import util

from steps.common.search import by_score, near, scan
from steps.common.search.by_score import Pile, pair_equal, pair_rows
from steps.common.search.groups import Duplicates, find_clusters
from steps.common.search.index import VECTORS
from steps.common.search.near import Distinct, Pairs, find_near, join
from steps.common.search.paraphrases import (
    CLUSTERS,
    DUPLICATES,
    KEPT,
    PAIRS,
    Corpus,
    mine,
    write_clusters,
    write_duplicates,
    write_pairs,
)

THRESHOLD = 0.9


def topics(count: int, dim: int = 96, seed: int = 0) -> np.ndarray:
    """Vectors of unit length around some centres, which lie in few dimensions as those of texts do."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((count // 8, 20)) @ random.standard_normal((20, dim))
    vectors = centres[random.integers(0, len(centres), count)] + 1.6 * random.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def with_repeats(count: int) -> np.ndarray:
    """The same, some of them more than once, and two of zeros."""
    vectors = topics(count)
    vectors[50:60], vectors[300], vectors[7], vectors[200] = vectors[3], vectors[9], 0, 0
    return vectors


@pytest.fixture
def small_pieces(monkeypatch):
    """So that some hundred vectors are several blocks, and their pairs several files."""
    monkeypatch.setattr(near, "ROWS", 64)
    monkeypatch.setattr(near, "COLUMNS", 128)
    monkeypatch.setattr(near, "TOGETHER", 100)
    monkeypatch.setattr(near, "WHOLE", 100)
    monkeypatch.setattr(by_score, "TOGETHER", 500)
    monkeypatch.setattr(by_score, "STRIDE", 10)


def pairs_of(vectors, others=None):
    """All pairs of rows, from all scores."""
    scores = vectors @ (vectors if others is None else others).T
    rows, columns = np.nonzero((np.triu(scores, 1) if others is None else scores) >= THRESHOLD)
    return set(zip(rows.tolist(), columns.tolist()))


def as_set(pairs: Pairs) -> set:
    return set(zip(pairs.first.tolist(), pairs.second.tolist()))


@pytest.mark.parametrize("dim", [96, 24], ids=["first by short vectors", "whole at once"])
def test_every_pair_of_all_scores_is_found_once_and_no_other(dim, small_pieces):
    vectors, others = topics(700, dim), np.concatenate([topics(700, dim)[:300], topics(40, dim, seed=1)])
    distinct = Distinct(vectors)
    assert (near.choose_axes(distinct, distinct, THRESHOLD) is None) == (dim == 24)
    found = join(list(find_near(distinct, None, THRESHOLD)))
    assert as_set(found) == pairs_of(vectors) and len(found) == len(as_set(found)) > 500
    scores = np.einsum("ij,ij->i", vectors[found.first], vectors[found.second])
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert (np.lexsort((found.second, found.first)) == np.arange(len(found))).all()

    across = join(list(find_near(distinct, Distinct(others), THRESHOLD)))
    assert as_set(across) == pairs_of(vectors, others)
    assert set(zip(range(300), range(300))) <= as_set(across)


def test_a_short_vector_never_has_less_of_a_product():
    vectors = topics(200)
    for width in (2, 10, 60):
        axes = np.linalg.qr(np.random.default_rng(width).standard_normal((96, width)))[0].astype(np.float32)
        short = near.shorten(vectors, axes)
        assert short.shape == (200, width + 1)
        assert (short @ short.T >= vectors @ vectors.T - near.rounding(96)).all()


def test_vectors_that_lie_anywhere_are_compared_whole():
    vectors = np.random.default_rng(0).standard_normal((600, 80)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert near.choose_axes(Distinct(vectors), Distinct(vectors), 0.2) is None


def test_rows_with_the_same_vector_are_one_and_zeros_are_near_nothing():
    distinct = Distinct(with_repeats(400))
    assert len(distinct) == 400 - 11 and distinct.counts.max() == 11
    assert distinct.firsts.tolist() == sorted(distinct.firsts.tolist())
    assert sorted(distinct.rows.tolist()) == list(range(400))
    found = join(list(find_near(distinct, None, 0.001)))
    zeros = np.flatnonzero(np.isin(distinct.firsts, [7, 200]))
    assert len(zeros) == 2 and not np.isin(np.concatenate([found.first, found.second]), zeros).any()


def test_pairs_of_rows_are_those_of_the_librarys_paraphrase_mining_where_it_caps_none(small_pieces, tmp_path):
    vectors = with_repeats(400)
    distinct = Distinct(vectors)
    pile = Pile(tmp_path)
    for pairs in find_near(distinct, None, THRESHOLD):
        pile.add(pairs)
    by_rows = [
        *pair_equal(distinct),
        *(rows for some in pile.by_score() for rows in pair_rows(some, distinct, distinct)),
    ]
    found = join(by_rows)
    everything = util.paraphrase_mining_embeddings(vectors_of(vectors), max_pairs=10**6, top_k=400)
    expected = {(first, second): score for score, first, second in everything if score >= THRESHOLD}
    ours = {(min(pair), max(pair)): score for *pair, score in zip(found.first, found.second, found.scores)}
    assert len(ours) == len(found) and ours.keys() == expected.keys()
    np.testing.assert_allclose([ours[pair] for pair in expected], list(expected.values()), atol=1e-6)
    assert (np.diff(found.scores) <= 0).all()


def vectors_of(vectors):
    import torch

    return torch.from_numpy(vectors)


def test_pairs_on_disk_come_by_score_and_then_by_row_in_pieces_of_bounded_size(small_pieces, tmp_path):
    random = np.random.default_rng(0)
    pile, given = Pile(tmp_path), []
    for _ in range(20):
        # Many equal scores.
        pairs = Pairs(random.integers(0, 300, 333), random.integers(0, 300, 333), random.choice([0.9, 0.95, 1], 333))
        given.append(pairs)
        pile.add(pairs)
    assert len(list(tmp_path.glob("*.npy"))) == 10
    pieces = list(pile.by_score())
    everything, found = join(given), join(pieces)
    order = np.lexsort((everything.second, everything.first, -everything.scores))
    for name in ("first", "second", "scores"):
        np.testing.assert_array_equal(
            getattr(found, name), getattr(everything, name)[order].astype(getattr(found, name).dtype)
        )
    # A bound lies within a stride of each of ten files, and pairs of one score and first row stay together.
    assert max(map(len, pieces)) < 500 + 10 * 10 + 30
    assert sorted(as_set(join(list(pile.pieces())))) == sorted(as_set(everything))


def test_a_pile_of_nothing_is_empty(tmp_path):
    assert list(Pile(tmp_path).by_score()) == list(Pile(tmp_path).pieces()) == []


def test_many_rows_of_one_vector_come_in_pieces_too(small_pieces):
    # 100 and 90 rows of two vectors: 4,950, 4,005 and 9,000 pairs.
    vectors = np.repeat(np.array([[1, 0], [0.95, np.sqrt(1 - 0.95**2)]], np.float32), [100, 90], axis=0)
    distinct = Distinct(vectors)
    equal = list(pair_equal(distinct))
    (between,) = find_near(distinct, None, THRESHOLD)
    rows = list(pair_rows(between, distinct, distinct))
    assert max(map(len, equal + rows)) <= 500
    assert as_set(join(equal + rows)) == set(itertools.combinations(range(190), 2))


def test_a_row_is_kept_unless_a_kept_one_before_it_is_near_and_the_nearest_of_those_stands_for_it():
    duplicates = Duplicates(6)
    # A chain: 0-1-2, where 2 is not near 0; and 4, which is near 0 and, more so, 3.
    duplicates.add_within(Pairs(np.array([0, 0]), np.array([1, 4]), np.array([0.95, 0.91], np.float32)))
    duplicates.add_within(Pairs(np.array([1, 3]), np.array([2, 4]), np.array([0.95, 0.93], np.float32)))
    duplicates.add_within(Pairs(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float32))))
    assert duplicates.others.tolist() == [-1, 0, -1, -1, 3, -1]
    np.testing.assert_allclose(duplicates.scores, [0, 0.95, 0, 0, 0.93, 0])


def test_clusters_are_those_of_the_librarys_community_detection_where_none_overlap(tmp_path):
    random = np.random.default_rng(0)
    centres = np.eye(40, dtype=np.float32)
    vectors = centres[random.integers(0, 40, 300)] + 0.02 * random.standard_normal((300, 40)).astype(np.float32)
    vectors[100:104] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = clusters_of(vectors, 5, tmp_path)
    expected = util.community_detection(vectors, threshold=THRESHOLD, min_community_size=5)
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected)) and len(found) > 20
    assert [len(one) for one in found] == sorted(map(len, expected), reverse=True)


def clusters_of(vectors, least, folder):
    distinct, pile = Distinct(vectors), Pile(folder)
    for pairs in find_near(distinct, None, THRESHOLD):
        pile.add(pairs)
    found = find_clusters(pile, distinct, folder, least)
    return [
        [row for at in one.vectors for row in distinct.rows[distinct.starts[at] :][: distinct.counts[at]].tolist()]
        for one in found
    ]


def test_every_row_of_a_cluster_is_near_its_centre_and_in_no_other(tmp_path, small_pieces):
    vectors = with_repeats(700)
    found = clusters_of(vectors, 2, tmp_path)
    rows = [row for one in found for row in one]
    assert len(rows) == len(set(rows)) > 100
    for centre, *others in found:
        assert (vectors[others] @ vectors[centre] >= THRESHOLD - 1e-6).all()


@dataclass
class Written:
    tables: dict
    counts: list


def write_all(vectors, old, tmp_path, **columns) -> Written:
    def corpus(name, vectors):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / VECTORS, vectors)
        write_rows(folder, id=[f"{name}{row}" for row in range(len(vectors))], **columns)
        return Corpus(folder)

    new, old = corpus("n", vectors), None if old is None else corpus("o", old)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mined = mine(new, old, THRESHOLD, scratch)
    counts = [write_pairs(mined, new, old, tmp_path), write_duplicates(mined, new, old, tmp_path)]
    if old is None:
        counts.append(write_clusters(mined, new, 2, tmp_path, scratch))
    names = [name for name in (PAIRS, DUPLICATES, KEPT, CLUSTERS) if (tmp_path / name).exists()]
    return Written({name: pq.read_table(tmp_path / name).to_pandas() for name in names}, counts)


def test_every_row_is_kept_or_has_one_that_stands_for_it_within_the_threshold(tmp_path, small_pieces):
    vectors = with_repeats(700)
    written = write_all(vectors, None, tmp_path, stands_for=["x"] * 700, stands_for_=["y"] * 700)
    pairs, duplicates, kept, clusters = (written.tables[name] for name in (PAIRS, DUPLICATES, KEPT, CLUSTERS))
    assert written.counts == [len(pairs), len(duplicates), clusters["cluster"].max()]
    assert {*duplicates["id"]} | {*kept["id"]} == {f"n{row}" for row in range(700)} and len(duplicates) + len(
        kept
    ) == 700
    assert {*duplicates["kept_id"]} <= {*kept["id"]}

    def rows(column):
        return column.str[1:].astype(int).to_numpy()

    scores = np.einsum("ij,ij->i", vectors[rows(duplicates["id"])], vectors[rows(duplicates["kept_id"])])
    np.testing.assert_allclose(duplicates["score"], scores, atol=1e-6)
    assert scores.min() >= THRESHOLD - 1e-6
    # No two kept rows are near each other, so the corpus has no duplicate left.
    assert pairs_of(vectors[rows(kept["id"])]) == set()
    assert list(kept) == ["id", "stands_for", "stands_for_", "stands_for__"] and kept["stands_for__"].sum() == 700
    assert kept["stands_for__"].max() >= 11
    assert (clusters["rows"] == clusters.groupby("cluster")["id"].transform("size")).all()
    first = clusters.groupby("cluster").first()
    assert (first["score"] == 1).all() and (np.diff(first["rows"]) <= 0).all()


def test_new_rows_are_compared_with_old_ones_only(tmp_path, small_pieces):
    new, old = topics(200), topics(200)[100:]
    written = write_all(np.concatenate([new, new[:5]]), old, tmp_path)
    pairs, duplicates, kept = (written.tables[name] for name in (PAIRS, DUPLICATES, KEPT))
    assert list(written.tables) == [PAIRS, DUPLICATES, KEPT]
    both = np.concatenate([new, new[:5]])
    assert {(int(a[1:]), int(b[1:])) for a, b in zip(pairs["id_1"], pairs["id_2"])} == pairs_of(both, old)
    near_old = np.flatnonzero((both @ old.T).max(axis=1) >= THRESHOLD)
    assert duplicates["id"].tolist() == [f"n{row}" for row in near_old]
    # The nearest stands for it: of a row that is there, itself.
    assert duplicates["kept_id"].tolist()[-1 - sum(near_old >= 200)] == "o99"
    assert len(kept) == 205 - len(near_old) and (kept["stands_for"] == 1).all()


def test_a_corpus_without_pairs_has_tables_without_rows(tmp_path):
    written = write_all(np.eye(3, dtype=np.float32), None, tmp_path, chunk=[0, 0, 1])
    assert written.counts == [0, 0, 0]
    assert (
        list(written.tables[PAIRS]) == ["score", "id_1", "chunk_1", "id_2", "chunk_2"]
        and len(written.tables[PAIRS]) == 0
    )
    assert list(written.tables[DUPLICATES]) == ["id", "chunk", "kept_id", "kept_chunk", "score"]
    assert list(written.tables[CLUSTERS]) == ["cluster", "rows", "score", "id", "chunk"]
    assert written.tables[KEPT]["id"].tolist() == ["n0", "n1", "n2"]


def test_rows_above_a_score_are_found_for_each_query(monkeypatch):
    vectors, queries = topics(300), topics(300)[:30]
    monkeypatch.setattr(scan.Float32, "piece", 64)
    monkeypatch.setattr(scan, "QUERIES", 20)
    of_query, rows, scores = scan.find_above(scan.Float32(vectors), queries, THRESHOLD)
    assert set(zip(of_query.tolist(), rows.tolist())) == pairs_of(queries, vectors)
    assert (np.lexsort((rows, -scores, of_query)) == np.arange(len(rows))).all()
    assert len(scan.find_above(scan.Float32(vectors), queries[:0], THRESHOLD)[0]) == 0
