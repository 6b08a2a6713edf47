"""Whose embeddings: encode says it in parts and tags, verify shows it, and outputs finds what was made with a model."""

import pyarrow.parquet as pq
import pytest
from helpers.encodes import manifest_of, write_jsonl
from helpers.steps import last_json

from steps.common.embeddings.origin import read_facts


@pytest.fixture
def version(tiny_run):
    """The tiny model as version 1 of `tiny`, with an alias."""
    import mlflow

    mlflow.register_model(tiny_run["model_uri"], "tiny")
    mlflow.MlflowClient().set_registered_model_alias("tiny", "champion", "1")
    return "tiny/1"


def find_outputs(step, model: str) -> tuple[str, dict, list[dict]]:
    """What the step outputs prints and logs of a model."""
    import mlflow

    code, out, err = step("outputs", "--model", model)
    assert code == 0, err
    summary = last_json(out)
    return out, summary, mlflow.artifacts.load_dict(f"runs:/{summary['run_id']}/outputs.json")["outputs"]


def test_embeddings_say_whose_they_are_and_are_found_by_their_model(
    step, encode, version, tiny_run, tmp_path, monkeypatch
):
    import mlflow

    model_id, folder = tiny_run["model_id"], tmp_path / "out"
    out, summary, listed = find_outputs(step, f"models:/{version}")
    assert f"encode has made nothing with model {model_id} yet." in out
    assert (summary["outputs"], summary["next"], listed) == (0, None, [])

    corpus = write_jsonl(tmp_path / "corpus.jsonl", ["the cat", "a big dog", "the sky"])
    words = ("embedding.prompt_name=query", "embedding.truncate_dim=8", f"run_id=models:/{version}")
    code, out, err = encode(corpus, *words)
    assert code == 0, err
    first = mlflow.get_run(last_json(out)["run_id"])
    manifest = manifest_of(folder)
    facts = read_facts(pq.read_schema(folder / "part-00000.parquet"))
    digest = manifest["plan"]["model"]["files"]
    commit = first.data.tags.get("mlflow.source.git.commit")
    known = {"model_id": model_id, "hub_id": "local", "registered_version": version, "model_digest": digest}
    known |= {"backend": "torch/f32", "prompt": "the cat: ", **({"git_commit": commit} if commit else {})}
    asked = {"dtype": "float32", "truncate_dim": "8", "normalize": "false", "prompt_name": "query"}
    assert facts == known | asked
    assert {name: first.data.tags.get(name) for name in known if name not in ("hub_id", "git_commit")} == {
        name: value for name, value in known.items() if name not in ("hub_id", "git_commit")
    }
    assert first.data.tags["embeddings"] == str(folder)

    code, out, err = step("verify", f"--output={folder}")
    assert code == 0, err
    assert {name: last_json(out)[name] for name in known} == known

    # In another experiment, and a run that was stopped before another went on with its output.
    mlflow.create_experiment("other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    code, out, err = encode(corpus, output=None)
    assert code == 0, err
    second = last_json(out)
    client = mlflow.MlflowClient()
    stopped = client.create_run(
        first.info.experiment_id, tags={"step": "encode", "model_id": model_id, "embeddings": str(folder)}
    )
    client.set_terminated(stopped.info.run_id, "KILLED")
    lost = client.create_run(first.info.experiment_id, tags={"step": "encode", "model_id": model_id})
    client.set_terminated(lost.info.run_id, "FAILED")
    for model in ("models:/tiny@champion", f"models:/{model_id}", first.info.run_id):
        out, summary, listed = find_outputs(step, model)
        assert [(one["run_id"], one["rows"], one["backend"], one["state"], one["place"]) for one in listed] == [
            (lost.info.run_id, None, None, "not whole", None),
            (stopped.info.run_id, None, None, "whole, by another run", str(folder)),
            (second["run_id"], 3, "torch/f32", "whole", second["embeddings"]),
            (first.info.run_id, 3, "torch/f32", "whole", str(folder)),
        ]
        assert (summary["model_id"], summary["outputs"], summary["whole"]) == (model_id, 4, 2)
        assert summary["next"].endswith(f"steps.verify output={second['embeddings']}")
    (line,) = [line for line in out.splitlines() if line.lstrip().startswith(first.info.run_id)]
    assert line.split()[2:] == ["3", "torch/f32", "whole", str(folder)]
