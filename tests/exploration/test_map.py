"""A map of vectors: where points lie, what is near them, and how far it can be trusted."""

import numpy as np
import pytest

from steps.common.exploration.conf import Method
from steps.common.exploration.map import choose_points, draw_map
from steps.common.search.matrix import MatrixFile, Rows


@pytest.fixture
def stored(tmp_path):
    def store(vectors: np.ndarray) -> Rows:
        with MatrixFile(tmp_path / "vectors.npy", np.dtype(np.float32), vectors.shape[1]) as file:
            file.append(vectors)
        return Rows(tmp_path / "vectors.npy")

    return store


def draw(vectors: Rows, method: Method = Method.pca, points: int = 10_000):
    return draw_map(vectors, choose_points(len(vectors), points), method)


def test_what_lies_in_a_plane_is_drawn_as_it_is(stored):
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) * [3, 1]
    drawn = draw(stored(plane @ np.linalg.qr(rng.normal(size=(8, 2)))[0].T + 7))
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (drawn.places, plane)]
    np.testing.assert_allclose(*distances, atol=1e-4)
    assert drawn.measures["variance_share"] == pytest.approx(1)
    assert drawn.measures["trustworthiness"] > 0.9
    assert drawn.rows.tolist() == list(range(60))


def test_a_large_corpus_is_sampled_evenly_and_each_vector_has_a_point(stored):
    vectors = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    drawn = draw(stored(vectors), points=101)
    assert len(drawn.rows) == 101 and (drawn.rows[0], drawn.rows[-1]) == (0, 999)
    assert set(np.diff(drawn.rows)) <= {9, 10}
    np.testing.assert_array_equal(drawn.vectors, vectors[drawn.rows])
    assert drawn.find_points(10 * drawn.vectors[[3, 50]]).tolist() == [3, 50]
    # By the axes each vector has a place of its own, on the map or not.
    np.testing.assert_allclose(drawn.find_places(drawn.vectors[[3, 50]]), drawn.places[[3, 50]], atol=1e-4)
    middle = (vectors[[1]] + vectors[[2]]) / 2
    np.testing.assert_allclose(drawn.find_places(middle)[0], drawn.find_places(vectors[[1, 2]]).mean(axis=0), atol=1e-4)


def test_neighbours_of_a_point_are_others_nearest_first(stored):
    angles = np.radians([0, 1, 3, 90, 91])
    drawn = draw(stored(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    assert drawn.find_neighbours(2).tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    # Of equal vectors too, where the point itself may not be among the first.
    equal = draw(stored(np.ones((30, 4), np.float32))).find_neighbours(3)
    assert equal.shape == (30, 3) and all(point not in near for point, near in enumerate(equal.tolist()))


def test_tsne_keeps_neighbours_together_where_two_axes_cannot(stored):
    rng = np.random.default_rng(0)
    # Nine groups in nine directions: a plane through them holds two.
    vectors = np.repeat(np.eye(9, 64), 12, axis=0) + 0.02 * rng.normal(size=(108, 64))
    flat, drawn, again = (draw(stored(vectors), method) for method in (Method.pca, Method.tsne, Method.tsne))
    assert drawn.measures["trustworthiness"] > max(0.95, flat.measures["trustworthiness"])
    assert "variance_share" not in drawn.measures
    np.testing.assert_array_equal(drawn.places, again.places)
    np.testing.assert_array_equal(drawn.find_places(2 * drawn.vectors[[7, 0]]), drawn.places[[7, 0]])


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (3, 1), (12, 4)])
@pytest.mark.parametrize("method", Method)
def test_too_little_for_a_map_is_a_map_all_the_same(stored, shape, method):
    drawn = draw(stored(np.ones(shape, np.float32)), method)
    assert drawn.places.shape == (shape[0], 2)
    np.testing.assert_array_equal(drawn.places, 0)
    assert drawn.measures == {"variance_share": 0}
