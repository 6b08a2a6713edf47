"""Names and descriptions for MLflow's own pages."""

from types import SimpleNamespace

from mlflow.entities import LoggedModel

from steps.common.model.find import FoundModel
from steps.common.quality.scoring import Difference
from steps.common.tracking import notes


def found(**tags: str) -> FoundModel:
    return FoundModel("r", LoggedModel("0", "m-1", "sbert_model", "there", 0, 0, tags=tags))


def score(name: str, value: float, *, undefined: str | None = None) -> SimpleNamespace:
    suite = SimpleNamespace(name=name, metric="ndcg_at_10")
    return SimpleNamespace(suite=suite, value=value, low=value - 1, high=value + 1, undefined=undefined)


def test_a_model_is_called_by_the_last_part_of_its_name():
    assert notes.short_name(found(hub_id="org/model")) == "model"
    assert notes.short_name(found(hub_id="/a/folder/")) == "folder"
    assert notes.short_name(found()) == "sbert_model"


def test_a_model_is_described_by_what_is_known_of_it_and_how_it_is_loaded():
    use = "python -m steps.encode run_id=models:/m-1"
    model = found(hub_id="org/model", revision="0123456789abcdef", dimension="32")
    note = notes.describe_model(model, "models:/m-1", use)
    assert note.splitlines()[0] == "**org/model**: revision 0123456789ab, licence not declared, dimensions 32"
    assert 'load_model("models:/m-1")' in note and use in note.splitlines()


def test_scores_stand_beside_those_of_the_champion_where_there_are_any():
    scores = [score("own", 50), score("other", 60), score("third", 0, undefined="every cosine is 1")]
    assert notes.list_scores(scores, {"own": Difference(-0.001, -1.5, 2)}).splitlines() == [
        "- own, ndcg at 10: 50.00 (49.00 to 51.00), beside the champion +0.00 (-1.50 to +2.00)",
        "- other, ndcg at 10: 60.00 (59.00 to 61.00)",
        "- third, ndcg at 10: undefined",
    ]
