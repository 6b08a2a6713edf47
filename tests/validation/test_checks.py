"""The checks of validate, on vectors whose answers are known."""

import json
import math

import numpy as np
import pytest

from steps.common.backends.timing import latencies_ms
from steps.common.errors import UserError
from steps.common.validation import checks as quality
from steps.common.validation.behaviour import check_form, check_invariance, check_refusals
from steps.common.validation.checks import Check
from steps.common.vectors import max_abs_diff

WORDS = ["a", "b", "c"]


def embed(texts, batch_size=32):
    """The same unit vector for the same text, different ones for different texts."""
    return np.array(
        [[math.cos(angle), math.sin(angle)] for angle in (sum(map(ord, text)) % 360 * math.pi / 180 for text in texts)],
        np.float32,
    ).reshape(-1, 2)


def by_name(checks):
    return {check.name: check for check in checks}


# one check


@pytest.mark.parametrize(
    ("value", "passed"),
    [(0.5, True), (1.0, True), (1.1, False), (math.nan, False), (math.inf, False), (-math.inf, False)],
)
def test_at_most_wants_a_finite_value_up_to_the_limit(value, passed):
    check = quality.at_most("x", value, 1.0)
    assert check.passed is passed
    assert check.threshold == "<= 1"


@pytest.mark.parametrize(
    ("value", "passed"), [(1.5, True), (1.0, True), (0.9, False), (math.nan, False), (math.inf, False)]
)
def test_at_least_wants_a_finite_value_from_the_limit_on(value, passed):
    check = quality.at_least("x", value, 1.0)
    assert check.passed is passed
    assert check.threshold == ">= 1"


def test_a_value_that_is_not_finite_becomes_null_in_json():
    check = quality.at_most("x", math.nan, 1.0)
    assert check.value is None
    assert json.loads(json.dumps(vars(check), allow_nan=False))["value"] is None


def test_a_numpy_value_is_written_as_json():
    for check in (
        quality.at_most("x", np.float32(0.5), 1.0),
        quality.at_least("x", np.float64(2), 1.0),
        quality.equal("x", np.int64(3), 3),
    ):
        assert json.dumps(vars(check))


def test_equal_shows_what_was_found_and_expected():
    assert quality.equal("x", (2, 3), (2, 4)) == Check("x", "(2, 3)", "= (2, 4)", False)
    assert quality.equal("x", 200, 200).passed


def test_failed_keeps_the_checks_that_did_not_pass():
    good, bad = Check("a", 1, "", True), Check("b", 1, "", False)
    assert quality.failed([good, bad]) == [bad]


# differences


def test_max_abs_diff_is_the_largest_difference_of_one_number():
    assert max_abs_diff(np.array([[1, 2], [3, 4]]), np.array([[1, 2.5], [3, 3]])) == 1.0


def test_a_tolerance_grows_with_numbers_beyond_1():
    assert quality.scaled(1e-5, np.array([[0.1, -0.6]])) == 1e-5
    assert quality.scaled(1e-5, np.array([[3.0, -40.0, np.nan]])) == pytest.approx(4e-4)
    assert quality.scaled(1e-5, np.empty((0, 3))) == 1e-5
    large = np.array([[40.0, 1.0]])
    assert quality.check_close("x", large + 3e-4, large, 1e-5).passed
    assert not quality.check_close("x", large / 40 + 3e-4, large / 40, 1e-5).passed


def test_max_abs_diff_of_nothing_is_zero():
    assert max_abs_diff(np.empty((0, 3)), np.empty((0, 3))) == 0.0


@pytest.mark.parametrize("second", [[[1.0]], [[1.0, math.nan]], [[1.0, math.inf]], [[[1.0, 2.0]]]])
def test_max_abs_diff_is_infinite_for_other_shapes_and_numbers_that_are_not_finite(second):
    assert max_abs_diff(np.array([[1.0, 2.0]]), np.array(second)) == math.inf


def test_max_abs_diff_is_infinite_where_both_sides_are_nan():
    both = np.array([[math.nan, 1.0]])
    assert max_abs_diff(both, both) == math.inf


# form


def form(embeddings, normalizes=True, sentences=WORDS, dim=2):
    return by_name(
        check_form(np.asarray(embeddings, np.float32), sentences, dim, normalizes, unit_tolerance=1e-4, max_cosine=0.9)
    )


def test_good_embeddings_pass_every_check_of_form():
    checks = form([[1, 0], [0, 1], [-1, 0]])
    assert all(check.passed for check in checks.values())
    assert {
        "predict/shape",
        "predict/dtype",
        "embeddings/non_finite",
        "embeddings/unit_length",
        "embeddings/shortest",
        "embeddings/most_alike",
    } == set(checks)


def test_a_wrong_number_of_rows_or_dimensions_fails_the_shape():
    assert not form([[1, 0], [0, 1]])["predict/shape"].passed
    assert not form([[1, 0, 0]] * 3)["predict/shape"].passed


def test_embeddings_without_rows_fail_without_raising():
    assert not form(np.empty((0, 2)))["predict/shape"].passed


@pytest.mark.parametrize("embeddings", [[1.0, 2.0], 1.0, [[[1.0]]]])
def test_embeddings_that_are_no_table_fail_without_raising(embeddings):
    assert not form(embeddings)["predict/shape"].passed


def test_another_dtype_fails():
    checks = by_name(check_form(np.eye(3), WORDS, 3, True, unit_tolerance=1e-4, max_cosine=0.9))
    assert not checks["predict/dtype"].passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_counted_and_fail(bad):
    check = form([[1, bad], [0, 1], [bad, 0]])["embeddings/non_finite"]
    assert not check.passed
    assert check.value == "2"


def test_a_vector_that_is_not_unit_length_fails_a_model_that_normalises():
    rows = [[1, 0], [0, 1], [-2, 0]]
    check = form(rows)["embeddings/unit_length"]
    assert not check.passed
    assert check.value == pytest.approx(1)
    assert "embeddings/unit_length" not in form(rows, normalizes=False)


def test_a_vector_of_zeros_fails():
    assert not form([[1, 0], [0, 1], [0, 0]], normalizes=False)["embeddings/shortest"].passed


def test_two_sentences_with_the_same_vector_fail():
    check = form([[1, 0], [0, 1], [1, 0]])["embeddings/most_alike"]
    assert not check.passed
    assert check.value == pytest.approx(1)


def test_one_sentence_has_nothing_to_be_like():
    assert form([[1, 0]], sentences=["a"])["embeddings/most_alike"].passed


# invariance


def test_a_function_of_the_text_alone_is_invariant():
    checks = check_invariance(embed, WORDS, 1e-6)
    assert all(check.passed for check in checks)
    assert {check.name for check in checks} == {
        f"invariance/{what}" for what in ("repeat", "order", "batch_of_1", "batch_size_2", "beside_long_text")
    }


def failing(encode):
    return {check.name for check in quality.failed(check_invariance(encode, WORDS, 1e-6))}


def test_a_model_that_answers_otherwise_each_time_fails_repeat():
    calls = []

    def restless(texts, batch_size=32):
        calls.append(texts)
        return embed(texts) + len(calls)

    assert "invariance/repeat" in failing(restless)


def test_a_model_that_looks_at_positions_fails_order():
    assert "invariance/order" in failing(lambda texts, batch_size=32: embed(texts) + np.arange(len(texts))[:, None])


def test_a_model_that_looks_at_the_batch_size_fails_batch_size_2_alone():
    assert failing(lambda texts, batch_size=32: embed(texts) + batch_size) == {"invariance/batch_size_2"}


def test_a_model_that_reads_its_padding_fails_beside_long_text():
    assert failing(lambda texts, batch_size=32: embed(texts) + (max(map(len, texts)) > 100)) == {
        "invariance/beside_long_text"
    }


# refusals


def test_bad_inputs_are_refused_accepted_or_crash():
    def predict(given):
        if given == "refuse":
            raise UserError("no")
        if given == "crash":
            raise ZeroDivisionError

    checks = by_name(check_refusals(predict, {"one": "refuse", "two": "crash", "three": "take"}, UserError))
    assert [(check.value, check.passed) for check in checks.values()] == [
        ("refused", True),
        ("ZeroDivisionError", False),
        ("accepted", False),
    ]
    assert list(checks) == ["schema/refuses_one", "schema/refuses_two", "schema/refuses_three"]


# latency


def test_latencies_are_taken_one_sentence_at_a_time_after_a_call_that_is_not_counted():
    asked = []
    taken = latencies_ms(asked.append, WORDS, 5)
    assert asked == ["a", "a", "b", "c", "a", "b"]
    assert taken.shape == (5,)
    assert (taken >= 0).all()
