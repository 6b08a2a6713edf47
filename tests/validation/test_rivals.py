"""Another model is compared by the units that its last validation recorded, where scoring it again would give the same."""

import functools
import json
import math
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from helpers.suites import read_suite
from mlflow.entities import LoggedModel

from steps.common.errors import UserError
from steps.common.model.find import VALIDATION_RUN, FoundModel
from steps.common.quality import scoring
from steps.common.quality.comparison import compare
from steps.common.quality.spec import Bootstrap, ComparisonConf
from steps.common.tracking import verdict
from steps.common.validation.findings import Findings
from steps.common.validation.rivals import check_losses, score_rival

ROWS = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n, "near": f"c {n}", "same": n % 2} for n in range(6)]

COSINES = [0.1, 0.2, 0.3, 0.4, 0.6, 0.5]


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return functools.partial(read_suite, str(path))


@pytest.fixture
def validated(store):
    """A model without files, whose last validation recorded COSINES as the units of a suite."""

    def make(suite, backend="torch/f32", *, is_gone=False) -> FoundModel:
        with mlflow.start_run() as run:
            verdict.log_units([scoring.restore(suite, np.array(COSINES))], backend)
        tags = {VALIDATION_RUN: run.info.run_id}
        place = "" if is_gone else "nowhere"
        logged = LoggedModel("0", "m-1", "tiny", place, creation_timestamp=0, last_updated_timestamp=0, tags=tags)
        return FoundModel(run.info.run_id, logged, "tiny/1")

    return make


def test_a_model_with_units_on_record_is_not_embedded_again(read, validated):
    suite = read()
    (score,) = score_rival(validated(suite), "champion", [suite], rules=None)
    # One swap of neighbours among six: 1 - 6 * 2 / (6 * 35).
    assert score.value == pytest.approx(100 * (1 - 12 / 210))
    assert score.units.tolist() == COSINES


@pytest.mark.parametrize("other", [{"sentence2": "near"}, {"score": "same"}, {"score": "same", "kind": "paraphrase"}])
def test_units_of_other_columns_of_the_same_file_are_not_taken(read, validated, other):
    suite = read(**other)
    recorded = verdict.read_units(validated(read()), "torch/f32")
    assert suite.digest == read().digest and suite.fingerprint not in recorded


def test_units_of_another_backend_or_other_libraries_are_only_taken_of_a_deleted_model(read, validated, monkeypatch):
    suite = read()
    assert verdict.read_units(validated(suite, "openvino/int8"), "torch/f32") == {}
    (score,) = score_rival(validated(suite, "openvino/int8", is_gone=True), "champion", [suite], rules=None)
    assert score.units.tolist() == COSINES
    found = validated(suite)
    monkeypatch.setattr(verdict, "versions", lambda: {"torch": "0"})
    assert verdict.read_units(found, "torch/f32") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"backend": "torch/f32", "versions": {}, "units": {"a": "x"}}'])
def test_a_record_that_is_none_any_more_is_taken_for_none(store, text):
    with mlflow.start_run() as run:
        mlflow.log_text(text, verdict.UNITS)
    logged = LoggedModel("0", "m-1", "tiny", "nowhere", 0, 0, tags={VALIDATION_RUN: run.info.run_id})
    assert verdict.read_units(FoundModel(run.info.run_id, logged)) == {}


def test_a_model_without_scores_to_lose_to_fails_nobody(read):
    suite = read()
    mine = scoring.restore(suite, np.array(COSINES))
    theirs = scoring.Score(
        suite, math.nan, math.nan, math.nan, undefined="every cosine is 1", metrics={}, units=mine.units
    )
    comparison = compare([mine], [theirs], 0.5, Bootstrap(resamples=100, confidence=0.95, seed=0))
    rules = SimpleNamespace(comparison=ComparisonConf(margin=0.5, max_loss=3.0, promote=True))
    assert check_losses(rules, Findings(comparisons={"champion": comparison})) == []


def test_a_model_whose_files_are_gone_is_named_as_what_it_is(read, store, tmp_path):
    logged = LoggedModel("0", "m-1", "tiny", str(tmp_path / "gone"), creation_timestamp=0, last_updated_timestamp=0)
    with pytest.raises(
        UserError,
        match="^the champion tiny/1 cannot be compared: its files cannot be read from .*/gone. Restore the files, or promote",
    ):
        score_rival(FoundModel("0", logged, "tiny/1"), "champion", [read()], rules=None)


def test_of_a_deleted_model_only_the_suites_on_record_are_scored(read, validated):
    suite, other = read(), read(name="other", sentence2="near")
    assert [
        score.suite for score in score_rival(validated(suite, is_gone=True), "champion", [other, suite], rules=None)
    ] == [suite]
