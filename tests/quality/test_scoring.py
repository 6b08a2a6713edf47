"""Scores, their intervals and their comparison, on vectors whose answers are known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.suites import spec
from scipy.stats import spearmanr
from sentence_transformers.sentence_transformer import evaluation
from sentence_transformers.util import cos_sim
from sklearn.metrics import average_precision_score

from steps.common.quality import comparison, scoring
from steps.common.quality.bootstrap import find_interval, resample
from steps.common.quality.pairs import GradedPairs, Paraphrases
from steps.common.quality.retrieval import Retrieval
from steps.common.quality.scoring import Difference, Score
from steps.common.quality.spec import Bootstrap
from steps.common.validation.scores import check_scores

# spearman


ANGLES = {"x": 0, "x5": 5, "x20": 20, "x60": 60, "x90": 90, "x170": 170}


def by_angle(texts):
    return np.array(
        [[math.cos(math.radians(ANGLES[text])), math.sin(math.radians(ANGLES[text]))] for text in texts], np.float32
    )


def suite_of(scores, second=("x5", "x20", "x60", "x90", "x170")):
    return GradedPairs("s", None, ["x"] * len(second), list(second), np.array(scores, float))


def test_spearman_of_the_same_order_is_100():
    assert scoring.compute_score(suite_of([5, 4, 3, 2, 1]), by_angle) == pytest.approx(100)


def test_spearman_of_the_reverse_order_is_minus_100():
    assert scoring.compute_score(suite_of([1, 2, 3, 4, 5]), by_angle) == pytest.approx(-100)


def test_spearman_of_one_swap_is_90():
    # 1 - 6 * (1 + 1) / (5 * 24), times 100
    assert scoring.compute_score(suite_of([4, 5, 3, 2, 1]), by_angle) == pytest.approx(90)


def test_spearman_shares_the_rank_of_equal_grades():
    # Ranks 5 4 3 2 1 against 4.5 4.5 3 2 1: Pearson of the ranks.
    expected = np.corrcoef([5, 4, 3, 2, 1], [4.5, 4.5, 3, 2, 1])[0, 1] * 100
    assert scoring.compute_score(suite_of([5, 5, 3, 2, 1]), by_angle) == pytest.approx(expected)


def test_spearman_does_not_depend_on_the_length_of_vectors():
    assert scoring.compute_score(
        suite_of([5, 4, 3, 2, 1]), lambda texts: by_angle(texts) * np.arange(1, len(texts) + 1)[:, None]
    ) == pytest.approx(100)


def test_each_distinct_sentence_is_embedded_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return by_angle(texts)

    scoring.compute_score(suite_of([5, 4, 3], second=("x5", "x5", "x20")), encode)
    assert sorted(asked) == ["x", "x20", "x5"]


@pytest.mark.parametrize("vector", [[1.0, 0.0], [math.nan, 1.0], [0.0, 0.0]])
def test_spearman_of_a_model_that_tells_nothing_apart_is_nan(vector):
    assert math.isnan(
        scoring.compute_score(suite_of([5, 4, 3, 2, 1]), lambda texts: np.array([vector] * len(texts), np.float32))
    )


# undefined scores are said


@pytest.mark.parametrize(
    ("vector", "reason"),
    [([1.0, 0.0], "every cosine is 1"), ([math.nan, 1.0], "not finite"), ([0.0, 0.0], "every cosine is 0")],
)
def test_an_undefined_score_says_why_and_fails_its_check(vector, reason):
    suite = suite_of([5, 4, 3, 2, 1])
    found = scoring.score(
        suite, scoring.embed(suite, lambda role: lambda texts: np.array([vector] * len(texts), np.float32))
    )
    assert math.isnan(found.value) and reason in found.undefined
    (check,) = check_scores(found, demand(threshold=-100), None, None)
    assert not check.passed
    assert check.value.startswith("undefined: ") and reason in check.value
    assert found.as_metrics() == {}


# the other kinds


def table(**vectors):
    return lambda role: lambda texts: np.array([vectors[text] for text in texts], np.float32)


def test_average_precision_by_hand():
    # By cosine: same, other, same: precision 1 at the first, 2/3 at the third.
    suite = Paraphrases("p", None, ["x"] * 3, ["a", "b", "c"], np.array([1.0, 0.0, 1.0]))
    found = scoring.score(suite, scoring.embed(suite, table(x=[1, 0], a=[1, 0.1], b=[1, 0.5], c=[1, 1])))
    assert found.value == pytest.approx((1 + 2 / 3) / 2 * 100)
    assert found.name == "quality/p/average_precision"


def retrieval_suite():
    documents = {"d1": "one", "d2": "two", "d3": "three"}
    return Retrieval("r", None, None, ["q", "p"], [frozenset({"d1"}), frozenset({"d2", "d3"})], documents)


def test_retrieval_by_hand():
    # q finds d2 before d1: 1 / log2(3). p finds both of its own first.
    vectors = table(q=[1, 0, 0], p=[0, 1, 0], one=[0.5, -1, 0], two=[0.9, 1, 0], three=[-1, 1, 0])
    suite = retrieval_suite()
    found = scoring.score(suite, scoring.embed(suite, vectors))
    assert found.metrics["ndcg_at_10"] == pytest.approx((1 / math.log2(3) + 1) / 2 * 100)
    assert found.metrics["mrr_at_10"] == pytest.approx((0.5 + 1) / 2 * 100)
    assert found.metrics["recall_at_10"] == pytest.approx(100)
    np.testing.assert_allclose(found.units, [1 / math.log2(3), 1])


def test_queries_and_documents_are_embedded_in_their_roles():
    asked = {}

    def encode_as(role):
        def encode(texts):
            asked[role] = list(texts)
            return np.random.default_rng(0).normal(size=(len(texts), 4)).astype(np.float32)

        return encode

    scoring.embed(retrieval_suite(), encode_as)
    assert asked == {"query": ["q", "p"], "document": ["one", "two", "three"]}


def random_retrieval(rng):
    documents = {f"d{i}": f"text {i}" for i in range(60)}
    queries = [f"q{i}" for i in range(20)]
    relevant = [frozenset(rng.choice(list(documents), size=rng.integers(1, 13), replace=False)) for _ in queries]
    return Retrieval("r", None, None, queries, relevant, documents)


class Embedded:
    """Embeddings that are there already, as the evaluators of the library ask a model for them."""

    similarity_fn_name = "cosine"

    def __init__(self, vectors):
        self._vectors = vectors
        self.model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *given: None)

    def encode(self, texts, **options):
        return self._vectors.of(None, texts)

    def encode_query(self, texts, **options):
        return torch.from_numpy(self._vectors.of("query", texts))

    def encode_document(self, texts, **options):
        return torch.from_numpy(self._vectors.of("document", texts))


def test_retrieval_is_scored_as_the_evaluator_of_the_library_scores_it():
    rng = np.random.default_rng(3)
    suite = random_retrieval(rng)
    vectors = scoring.embed(suite, lambda role: lambda texts: rng.normal(size=(len(texts), 8)).astype(np.float32))
    found = scoring.score(suite, vectors)
    assert found.units.mean() * 100 == pytest.approx(found.value)
    theirs = evaluation.InformationRetrievalEvaluator(
        dict(zip(suite.queries, suite.queries)),
        suite.documents,
        {query: set(ids) for query, ids in zip(suite.queries, suite.relevant)},
        accuracy_at_k=[1],
        precision_recall_at_k=[10],
        score_functions={"cosine": cos_sim},
        write_csv=False,
    )(Embedded(vectors))
    assert found.metrics == pytest.approx(
        {name: theirs[f"cosine_{name.replace('_at_', '@')}"] * 100 for name in found.metrics}
    )


def test_paraphrases_are_scored_as_the_evaluator_of_the_library_scores_them():
    rng = np.random.default_rng(5)
    first, second = ([f"{side}{i}" for i in range(80)] for side in "ab")
    suite = Paraphrases("p", None, first, second, rng.integers(0, 2, 80).astype(float))
    means = {text: rng.normal(size=8) for text in first}
    # Pairs of the same meaning are a little nearer to each other.
    means |= {
        b: means[a] * (0.5 + label) + rng.normal(size=8) * 1.5 for a, b, label in zip(first, second, suite.scores)
    }
    vectors = scoring.embed(suite, table(**means))
    found = scoring.score(suite, vectors)
    theirs = evaluation.BinaryClassificationEvaluator(
        first, second, suite.scores.astype(int).tolist(), similarity_fn_names=["cosine"], write_csv=False
    )(Embedded(vectors))
    names = {"average_precision": "cosine_ap", "f1": "cosine_f1", "accuracy": "cosine_accuracy"}
    assert found.metrics == pytest.approx({name: theirs[other] * 100 for name, other in names.items()}, abs=1e-3)


# intervals


ROWS = Bootstrap(120, 0.95, 0)


def drawn(compute_score, *samples, settings=ROWS):
    """The statistics of all resamples, and the rows that each has drawn."""
    kept = []

    def statistic(rows, *others, axis):
        kept.append(rows)
        return compute_score(*others, axis=axis)

    found = resample(statistic, [np.arange(len(samples[0])), *samples], settings)
    return found, np.concatenate(kept)


def test_resamples_have_the_rank_correlation_of_scipy():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=200), 1)  # with ties
    grades = np.round(values + rng.normal(size=200))
    found, rows = drawn(GradedPairs.compute_score, values, grades)
    np.testing.assert_allclose(found, [spearmanr(values[r], grades[r]).statistic for r in rows])


def test_resamples_have_the_average_precision_of_scikit_learn():
    rng = np.random.default_rng(0)
    values, labels = np.round(rng.normal(size=150), 1), rng.integers(0, 2, 150).astype(float)
    found, rows = drawn(Paraphrases.compute_score, values, labels)
    np.testing.assert_allclose(found, [average_precision_score(labels[r], values[r]) for r in rows])


def test_every_resample_has_the_size_of_the_suite_and_the_seed_decides_them():
    (_, first), (_, again), (_, other) = (
        drawn(Retrieval.compute_score, np.arange(30.0), settings=Bootstrap(120, 0.9, seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (120, 30) and first.min() == 0 and first.max() == 29
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_resamples_without_a_score_are_left_out_of_the_interval():
    # Of two pairs, half of the resamples draw one of them twice.
    found = resample(GradedPairs.compute_score, [np.array([0.1, 0.9]), np.array([1.0, 2.0])], ROWS)
    assert np.isnan(found).any() and find_interval(found, 0.95) == (1.0, 1.0)
    found = resample(Paraphrases.compute_score, [np.array([0.1, 0.9]), np.array([0.0, 1.0])], ROWS)
    assert np.isnan(found).any() and find_interval(found, 0.95)[1] == 1.0
    assert all(map(math.isnan, find_interval(np.full(3, math.nan), 0.95)))


def test_pairs_of_one_sentence_are_drawn_together():
    """Copies of a pair add nothing to what is known: the interval stays as wide."""
    rng = np.random.default_rng(0)
    grades = rng.normal(size=60)
    cosines = grades + rng.normal(size=60)
    names, settings = [f"sentence {i}" for i in range(60)], Bootstrap(2000, 0.95, 0)

    def width(copies, groups):
        values = [np.tile(cosines, copies), np.tile(grades, copies)]
        low, high = find_interval(resample(GradedPairs.compute_score, values, settings, groups), 0.95)
        return high - low

    copied = GradedPairs("s", None, names * 8, names * 8, np.tile(grades, 8))
    assert width(8, copied.groups) == pytest.approx(width(1, None), rel=0.15)
    assert width(8, None) < 0.5 * width(1, None)
    assert GradedPairs("s", None, names, names, grades).groups is None
    assert GradedPairs("s", None, names[:1] * 60, names, grades).groups is None


def correlated(size, noise, seed=0):
    """A score of pairs whose cosine follows the grade up to noise."""
    rng = np.random.default_rng(seed)
    grades = rng.normal(size=size)
    suite = GradedPairs("s", None, [], [], grades)
    cosines = grades + noise * np.random.default_rng(seed + 1).normal(size=size)
    value = spearmanr(cosines, grades).statistic * 100
    found = resample(suite.compute_score, [cosines, grades], Bootstrap(500, 0.95, 0))
    low, high = find_interval(found * 100, 0.95)
    return Score(suite, value, low, high, None, {"spearman": value}, cosines)


def test_an_interval_covers_the_true_value_about_as_often_as_it_says():
    # Pearson 0.8 of normal values is Spearman 6/pi * asin(0.4) = 78.6.
    found = [correlated(150, 0.75, seed) for seed in range(100)]
    covered = sum(score.low <= 78.6 <= score.high for score in found)
    assert 85 <= covered <= 100


def test_an_interval_shrinks_with_the_suite():
    small, large = correlated(100, 0.75), correlated(1600, 0.75)
    assert (large.high - large.low) < 0.4 * (small.high - small.low)


# comparison


def compare(first, second, resamples=300):
    """The difference of two scores on one suite."""
    return comparison.compare([first], [second], margin=0.5, bootstrap=Bootstrap(resamples, 0.95, 0)).suites["s"]


def test_a_model_beside_itself_differs_by_nothing():
    score = correlated(200, 0.75)
    assert compare(score, score) == Difference(0, 0, 0)
    assert Difference(0, 0, 0).is_noise and not Difference(0, 0, 0).is_loss()


def test_a_small_difference_is_noise_and_a_large_one_is_a_loss():
    one = correlated(200, 0.75)
    nearly = replace(one, units=one.units + 0.02 * np.random.default_rng(9).normal(size=200))
    worse = replace(one, units=one.units + 2 * np.random.default_rng(9).normal(size=200), value=40.0)
    assert compare(nearly, one).is_noise and not compare(nearly, one).is_loss()
    loss = compare(worse, one)
    assert loss.is_loss() and loss.high < 0
    assert compare(one, worse).low > 0


def test_scores_of_one_suite_are_resampled_alike_and_once():
    one, other = correlated(60, 0.75), correlated(60, 0.75)
    other = replace(other, units=other.units[::-1].copy())
    settings = Bootstrap(120, 0.95, 3)
    _, rows = drawn(GradedPairs.compute_score, one.units, one.suite.scores, settings=settings)
    expected = [
        100
        * (
            spearmanr(one.units[r], one.suite.scores[r]).statistic
            - spearmanr(other.units[r], one.suite.scores[r]).statistic
        )
        for r in rows
    ]
    np.testing.assert_allclose(one.resample(settings) - other.resample(settings), expected, atol=1e-9)
    assert one.resample(settings) is one.resample(settings)
    assert one.resample(Bootstrap(120, 0.95, 4)) is not one.resample(settings)


def test_a_score_that_became_undefined_is_a_loss():
    one = correlated(50, 0.75)
    lost = Score(one.suite, math.nan, math.nan, math.nan, "every cosine is 1", {}, one.units)
    assert compare(lost, one, resamples=100).is_loss()


# thresholds


def demand(threshold=0.0, max_loss_to_published=None, max_loss_to_champion=None):
    """The demands of a suite."""
    losses = {"max_loss_to_published": max_loss_to_published, "max_loss_to_champion": max_loss_to_champion}
    return spec(threshold=threshold, **losses)


def score_of(value):
    return Score(suite_of([5, 4, 3, 2, 1]), value, value - 5, value + 5, None, {"spearman": value}, np.zeros(5))


def verdicts(*given):
    return {check.name: check.passed for check in check_scores(*given)}


def test_a_threshold_is_absolute_or_relative_to_a_published_score():
    assert verdicts(score_of(82.0), demand(80), None, None) == {"quality/s/spearman": True}
    assert verdicts(score_of(79.9), demand(80), 82.03, None) == {"quality/s/spearman": False}
    assert verdicts(score_of(81.6), demand(0, max_loss_to_published=0.5), 82.03, None)["quality/s/beside_published"]
    assert not verdicts(score_of(81.5), demand(0, max_loss_to_published=0.5), 82.03, None)["quality/s/beside_published"]
    assert "quality/s/beside_published" not in verdicts(
        score_of(10.0), demand(0, max_loss_to_published=0.5), None, None
    )


def test_a_threshold_relative_to_the_champion_forgives_noise_and_what_is_allowed():
    def beside(difference, allowed):
        return verdicts(score_of(80.0), demand(0, max_loss_to_champion=allowed), None, difference).get(
            "quality/s/beside_champion"
        )

    assert beside(Difference(-1.0, -2.5, 0.4), 0.0)
    assert not beside(Difference(-1.0, -1.5, -0.4), 0.0)
    assert beside(Difference(-1.0, -1.5, -0.4), 1.0)
    assert beside(Difference(-1.0, -1.5, -0.4), None) is None
    assert not beside(Difference(math.nan, math.nan, math.nan), 5.0)
