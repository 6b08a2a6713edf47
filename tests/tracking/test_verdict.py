"""What validation says of a model: the units of its scores, read again where scoring it again would give the same."""

import mlflow
import pytest
from mlflow.entities import LoggedModel

from steps.common.model.find import VALIDATION_RUN, FoundModel
from steps.common.tracking import verdict


@pytest.mark.parametrize("other", [{"sentence2": "near"}, {"score": "same"}, {"score": "same", "kind": "paraphrase"}])
def test_units_of_other_columns_of_the_same_file_are_not_taken(read_pairs, validated, other):
    suite = read_pairs(**other)
    recorded = verdict.read_units(validated(read_pairs()), "torch/f32")
    assert suite.digest == read_pairs().digest and suite.fingerprint not in recorded


def test_units_of_another_backend_or_other_libraries_are_not_taken(read_pairs, validated, monkeypatch):
    suite = read_pairs()
    assert verdict.read_units(validated(suite, "openvino/int8"), "torch/f32") == {}
    found = validated(suite)
    monkeypatch.setattr(verdict, "versions", lambda: {"torch": "0"})
    assert verdict.read_units(found, "torch/f32") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"backend": "torch/f32", "versions": {}, "units": {"a": "x"}}'])
def test_a_record_that_is_none_any_more_is_taken_for_none(store, text):
    with mlflow.start_run() as run:
        mlflow.log_text(text, verdict.UNITS)
    logged = LoggedModel("0", "m-1", "tiny", "nowhere", 0, 0, tags={VALIDATION_RUN: run.info.run_id})
    assert verdict.read_units(FoundModel(run.info.run_id, logged)) == {}
