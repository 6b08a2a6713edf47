"""The checks of validate, on vectors whose answers are known."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.common import quality
from steps.common.errors import UserError
from steps.common.quality import Check, Suite

WORDS = ["a", "b", "c"]


def embed(texts, batch_size=32):
    """The same unit vector for the same text, different ones for different texts."""
    return np.array(
        [[math.cos(angle), math.sin(angle)] for angle in (sum(map(ord, text)) % 360 * math.pi / 180 for text in texts)],
        np.float32,
    ).reshape(-1, 2)


def by_name(checks):
    return {check.name: check for check in checks}


def refusal(path, name=None) -> str:
    with pytest.raises(UserError) as caught:
        quality.read_suite(path, name, "sentence1", "sentence2", "score")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put_suite(path, *rows):
    path.write_text("".join(json.dumps(dict(zip(("sentence1", "sentence2", "score"), row))) + "\n" for row in rows))
    return path


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
    assert quality.max_abs_diff(np.array([[1, 2], [3, 4]]), np.array([[1, 2.5], [3, 3]])) == 1.0


def test_max_abs_diff_of_nothing_is_zero():
    assert quality.max_abs_diff(np.empty((0, 3)), np.empty((0, 3))) == 0.0


@pytest.mark.parametrize("second", [[[1.0]], [[1.0, math.nan]], [[1.0, math.inf]], [[[1.0, 2.0]]]])
def test_max_abs_diff_is_infinite_for_other_shapes_and_numbers_that_are_not_finite(second):
    assert quality.max_abs_diff(np.array([[1.0, 2.0]]), np.array(second)) == math.inf


def test_max_abs_diff_is_infinite_where_both_sides_are_nan():
    both = np.array([[math.nan, 1.0]])
    assert quality.max_abs_diff(both, both) == math.inf


# form


def form(embeddings, normalizes=True, sentences=WORDS, dim=2):
    return by_name(
        quality.check_form(
            np.asarray(embeddings, np.float32), sentences, dim, normalizes, unit_tolerance=1e-4, max_cosine=0.9
        )
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
    checks = by_name(quality.check_form(np.eye(3), WORDS, 3, True, unit_tolerance=1e-4, max_cosine=0.9))
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
    checks = quality.check_invariance(embed, WORDS, 1e-6)
    assert all(check.passed for check in checks)
    assert {check.name for check in checks} == {
        f"invariance/{what}" for what in ("repeat", "order", "batch_of_1", "batch_size_2", "beside_long_text")
    }


def failing(encode):
    return {check.name for check in quality.failed(quality.check_invariance(encode, WORDS, 1e-6))}


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

    checks = by_name(quality.check_refusals(predict, {"one": "refuse", "two": "crash", "three": "take"}, UserError))
    assert [(check.value, check.passed) for check in checks.values()] == [
        ("refused", True),
        ("ZeroDivisionError", False),
        ("accepted", False),
    ]
    assert list(checks) == ["schema/refuses_one", "schema/refuses_two", "schema/refuses_three"]


# suites


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_suite_is_read_from_every_format(tmp_path, ending):
    path = tmp_path / f"pairs{ending}"
    rows = [("a, b", 'c "d"', 1.5), ("e", "ü", 4)]
    if ending == ".jsonl":
        put_suite(path, *rows)
    elif ending == ".parquet":
        pq.write_table(pa.table({"sentence1": ["a, b", "e"], "sentence2": ['c "d"', "ü"], "score": [1.5, 4.0]}), path)
    elif ending == ".csv":
        path.write_text('sentence1,sentence2,score\n"a, b","c ""d""",1.5\ne,ü,4\n')
    else:
        path.write_text('sentence1\tsentence2\tscore\na, b\t"c ""d"""\t1.5\ne\tü\t4\n')
    suite = quality.read_suite(path, None, "sentence1", "sentence2", "score")
    assert (suite.name, suite.path) == ("pairs", path)
    assert (suite.first, suite.second) == (["a, b", "e"], ['c "d"', "ü"])
    np.testing.assert_array_equal(suite.scores, [1.5, 4])


def test_a_suite_takes_the_name_and_columns_it_is_given(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("left,right,gold\na,b,1\nc,d,2\n")
    suite = quality.read_suite(path, "mine", "left", "right", "gold")
    assert suite.name == "mine"
    assert suite.first == ["a", "c"]


def test_integer_and_decimal_grades_may_be_mixed(tmp_path):
    suite = quality.read_suite(
        put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", "d", 2.5)), None, "sentence1", "sentence2", "score"
    )
    np.testing.assert_array_equal(suite.scores, [1, 2.5])


def test_a_missing_column_lists_the_columns_there_are(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("sentence1,sentence2,similarity\na,b,1\n")
    message = refusal(path)
    assert "'score'" in message and "'similarity'" in message and "suite.score" in message


def test_a_sentence_that_is_missing_names_its_row(tmp_path):
    assert "row 2" in refusal(put_suite(tmp_path / "p.jsonl", ("a", "b", 1), ("c", None, 2)))


@pytest.mark.parametrize("grade", ["high", "", "nan", "inf"])
def test_a_grade_that_is_no_number_names_its_row(tmp_path, grade):
    path = tmp_path / "p.csv"
    path.write_text(f"sentence1,sentence2,score\na,b,1\nc,d,{grade}\n")
    message = refusal(path)
    assert "row 2" in message and "'score'" in message


def test_one_pair_is_too_few(tmp_path):
    assert "at least two" in refusal(put_suite(tmp_path / "p.jsonl", ("a", "b", 1)))


def test_an_empty_suite_is_refused(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("sentence1,sentence2,score\n")
    assert str(path) in refusal(path)


def test_equal_grades_are_refused(tmp_path):
    assert "different grades" in refusal(put_suite(tmp_path / "p.jsonl", ("a", "b", 3), ("c", "d", 3)))


def test_a_text_file_is_no_suite(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a\n")
    assert "sentence1, sentence2 and score" in refusal(path)


def test_a_suite_that_is_not_there_is_refused_with_its_path(tmp_path):
    assert f"{tmp_path}/none.jsonl" in refusal(tmp_path / "none.jsonl")


# spearman


ANGLES = {"x": 0, "x5": 5, "x20": 20, "x60": 60, "x90": 90, "x170": 170}


def by_angle(texts):
    return np.array(
        [[math.cos(math.radians(ANGLES[text])), math.sin(math.radians(ANGLES[text]))] for text in texts], np.float32
    )


def suite_of(scores, second=("x5", "x20", "x60", "x90", "x170")):
    return Suite("s", None, ["x"] * len(second), list(second), np.array(scores, float))


def test_spearman_of_the_same_order_is_100():
    assert quality.spearman(suite_of([5, 4, 3, 2, 1]), by_angle) == pytest.approx(100)


def test_spearman_of_the_reverse_order_is_minus_100():
    assert quality.spearman(suite_of([1, 2, 3, 4, 5]), by_angle) == pytest.approx(-100)


def test_spearman_of_one_swap_is_90():
    # 1 - 6 * (1 + 1) / (5 * 24), times 100
    assert quality.spearman(suite_of([4, 5, 3, 2, 1]), by_angle) == pytest.approx(90)


def test_spearman_shares_the_rank_of_equal_grades():
    # Ranks 5 4 3 2 1 against 4.5 4.5 3 2 1: Pearson of the ranks.
    expected = np.corrcoef([5, 4, 3, 2, 1], [4.5, 4.5, 3, 2, 1])[0, 1] * 100
    assert quality.spearman(suite_of([5, 5, 3, 2, 1]), by_angle) == pytest.approx(expected)


def test_spearman_does_not_depend_on_the_length_of_vectors():
    assert quality.spearman(
        suite_of([5, 4, 3, 2, 1]), lambda texts: by_angle(texts) * np.arange(1, len(texts) + 1)[:, None]
    ) == pytest.approx(100)


def test_each_distinct_sentence_is_embedded_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return by_angle(texts)

    quality.spearman(suite_of([5, 4, 3], second=("x5", "x5", "x20")), encode)
    assert sorted(asked) == ["x", "x20", "x5"]


@pytest.mark.parametrize("vector", [[1.0, 0.0], [math.nan, 1.0], [0.0, 0.0]])
def test_spearman_of_a_model_that_tells_nothing_apart_is_nan(vector):
    assert math.isnan(
        quality.spearman(suite_of([5, 4, 3, 2, 1]), lambda texts: np.array([vector] * len(texts), np.float32))
    )


# latency


def test_latencies_are_taken_one_sentence_at_a_time_after_a_call_that_is_not_counted():
    asked = []
    taken = quality.latencies_ms(asked.append, WORDS, 5)
    assert asked == ["a", "a", "b", "c", "a", "b"]
    assert taken.shape == (5,)
    assert (taken >= 0).all()
