"""Another model is compared by the units that its last validation recorded, where scoring it again would give the same."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.suites import COSINES
from mlflow.entities import LoggedModel

from steps.common.errors import UserError
from steps.common.model.find import FoundModel
from steps.common.quality import scoring
from steps.common.quality.comparison import compare
from steps.common.quality.spec import Bootstrap, ComparisonConf
from steps.common.validation.findings import Findings
from steps.common.validation.rivals import check_losses, score_rival


def test_a_model_with_units_on_record_is_not_embedded_again(read_pairs, validated):
    suite = read_pairs()
    (score,) = score_rival(validated(suite), "champion", [suite], rules=None)
    # One swap of neighbours among six: 1 - 6 * 2 / (6 * 35).
    assert score.value == pytest.approx(100 * (1 - 12 / 210))
    assert score.units.tolist() == COSINES


def test_units_of_another_backend_are_taken_of_a_deleted_model(read_pairs, validated):
    suite = read_pairs()
    (score,) = score_rival(validated(suite, "openvino/int8", is_gone=True), "champion", [suite], rules=None)
    assert score.units.tolist() == COSINES


def test_a_model_without_scores_to_lose_to_fails_nobody(read_pairs):
    suite = read_pairs()
    mine = scoring.restore(suite, np.array(COSINES))
    theirs = scoring.Score(
        suite, math.nan, math.nan, math.nan, undefined="every cosine is 1", metrics={}, units=mine.units
    )
    comparison = compare([mine], [theirs], 0.5, Bootstrap(resamples=100, confidence=0.95, seed=0))
    rules = SimpleNamespace(comparison=ComparisonConf(margin=0.5, max_loss=3.0, promote=True))
    assert check_losses(rules, Findings(comparisons={"champion": comparison})) == []


def test_a_model_whose_files_are_gone_is_named_as_what_it_is(read_pairs, store, tmp_path):
    logged = LoggedModel("0", "m-1", "tiny", str(tmp_path / "gone"), creation_timestamp=0, last_updated_timestamp=0)
    with pytest.raises(
        UserError,
        match="^the champion tiny/1 cannot be compared: its files cannot be read from .*/gone. Restore the files, or promote",
    ):
        score_rival(FoundModel("0", logged, "tiny/1"), "champion", [read_pairs()], rules=None)


def test_of_a_deleted_model_only_the_suites_on_record_are_scored(read_pairs, validated):
    suite, other = read_pairs(), read_pairs(name="other", sentence2="near")
    assert [
        score.suite for score in score_rival(validated(suite, is_gone=True), "champion", [other, suite], rules=None)
    ] == [suite]
