"""The model registry: which version becomes champion, and every way to name a registered model as run_id."""

import pytest
from helpers.steps import last_json

from steps.common.errors import UserError
from steps.common.model import registry
from steps.common.model.find import ANSWERS_FOR, FoundModel, find_model
from steps.common.tracking import server


@pytest.fixture
def client(store):
    import mlflow

    return mlflow.MlflowClient()


@pytest.fixture
def log(client):
    """Log a model that holds nothing but its metrics, in a run of its own; returns it as found."""
    import mlflow

    def make(tags: dict[str, str] | None = None, **metrics: float) -> FoundModel:
        with mlflow.start_run() as run:
            logged = mlflow.initialize_logged_model(name="tiny", source_run_id=run.info.run_id, tags=tags)
            mlflow.finalize_logged_model(logged.model_id, "READY")
            for name, value in metrics.items():
                mlflow.log_metric(f"quality/{name}/spearman", value, model_id=logged.model_id)
        return FoundModel(run.info.run_id, client.get_logged_model(logged.model_id))

    return make


def find(uri: str) -> FoundModel:
    return find_model(uri, preceding="log_model", experiment_id="0")


def register(found, passed=True, regressions=(), tags=None):
    """After a comparison with the champion that there is."""
    return registry.register(
        found,
        "tiny",
        passed=passed,
        regressions=list(regressions),
        compared=registry.find_champion("tiny"),
        tags=tags or {},
    )


def test_the_first_version_that_passes_becomes_champion(log, client):
    assert registry.find_champion("tiny") is None
    found = log()
    made = register(found, tags={"validation": "passed"})
    assert (made.version, made.alias) == ("1", "champion")
    assert made.reason == "the gate passed, and there was no champion yet"
    champion = registry.find_champion("tiny")
    assert champion.logged.model_id == found.logged.model_id
    assert champion.run_id == found.run_id
    assert champion.registered == "tiny/1"
    version = client.get_model_version("tiny", "1")
    assert version.tags["validation"] == "passed"
    assert version.tags["reason"] == made.reason
    assert version.description == f"champion: {made.reason}"


def test_a_version_that_fails_the_gate_becomes_challenger_and_the_champion_stays(log, client):
    first = log()
    register(first)
    made = register(log(), passed=False)
    assert (made.version, made.alias) == ("2", "challenger")
    assert made.reason == "the gate failed; version 1 stays champion"
    assert registry.find_champion("tiny").logged.model_id == first.logged.model_id
    assert {alias: str(version) for alias, version in client.get_registered_model("tiny").aliases.items()} == {
        "champion": "1",
        "challenger": "2",
    }


def test_a_first_version_that_fails_leaves_no_champion(log):
    made = register(log(), passed=False)
    assert (made.alias, made.reason) == ("challenger", "the gate failed; there is no champion yet")
    assert registry.find_champion("tiny") is None


def test_a_version_that_regressed_becomes_challenger_and_says_where(log):
    register(log())
    made = register(log(), regressions=["quality/stsb/spearman is 70.00, 12.00 less than tiny/1 has"])
    assert made.alias == "challenger"
    assert "version 1 stays champion: quality/stsb/spearman is 70.00, 12.00 less" in made.reason


def test_a_version_that_passes_and_lost_nothing_takes_the_place_of_the_champion(log):
    register(log())
    better = log()
    made = register(better)
    assert made.reason == "the gate passed, and nothing regressed against version 1, the previous champion"
    assert registry.find_champion("tiny").logged.model_id == better.logged.model_id


def test_a_champion_that_was_not_compared_stays(log):
    first, second, third = log(), log(), log()
    register(first)
    before = registry.find_champion("tiny")
    register(second)
    late = registry.register(third, "tiny", passed=True, regressions=[], compared=before, tags={})
    assert (late.alias, late.reason) == (
        "challenger",
        "the gate passed, but version 2 stays champion: it became champion during this validation, so the two were not compared",
    )
    late = registry.register(third, "tiny", passed=True, regressions=[], compared=None, tags={})
    assert late.alias == "challenger"
    # Its own model needs no comparison.
    assert registry.register(second, "tiny", passed=True, regressions=[], compared=None, tags={}).alias == "champion"


def test_a_champion_that_was_scored_on_more_suites_stays(log):
    first, second = log(), log()
    register(first, tags={"quality/builtin/spearman": "55", "quality/stsb/spearman": "82", "validation": "passed"})
    made = register(second, tags={"quality/stsb/spearman": "83"})
    assert (made.alias, made.reason) == (
        "challenger",
        "the gate passed, but version 1 stays champion: it was also scored on builtin, and this one was not",
    )
    both = {"quality/builtin/spearman": "56", "quality/stsb/spearman": "83", "quality/mine/spearman": "1"}
    assert register(second, tags=both).alias == "champion"


def test_a_comparison_with_another_model_than_the_champion_is_refused_before_the_work(log):
    first, second = log(), log()
    assert registry.find_compared(second, "tiny") is second
    register(first)
    assert registry.find_compared(find("models:/tiny@champion"), "tiny").registered == "tiny/1"
    with pytest.raises(UserError, match=f"the champion of register=tiny is tiny/1 .*{first.logged.model_id}"):
        registry.find_compared(second, "tiny")


def test_validating_the_same_model_again_makes_a_version_of_its_own(log):
    found = log()
    assert [register(found).version, register(found, passed=False).version] == ["1", "2"]
    assert registry.find_champion("tiny").registered == "tiny/1"


def test_the_tags_of_a_version_hold_verdict_runs_commit_and_finite_metrics(log):
    found = log({"hub_id": "org/tiny"})
    metrics = {"quality/stsb/spearman": 82.03456789, "latency/p50_ms": float("nan"), "backends/x/rows_per_second": 1.0}
    assert registry.version_tags(found, "validate-run", "passed", "abc", metrics) == {
        "validation": "passed",
        "validate_run_id": "validate-run",
        "log_model_run_id": found.run_id,
        "git_commit": "abc",
        "hub_id": "org/tiny",
        "quality/stsb/spearman": "82.0346",
    }


def test_a_model_is_found_by_alias_version_latest_and_model_id(log):
    first, second = log(), log()
    register(first)
    register(second, passed=False)
    for uri, expected, version in (
        ("models:/tiny@champion", first, "tiny/1"),
        ("models:/tiny@challenger", second, "tiny/2"),
        ("models:/tiny/1", first, "tiny/1"),
        ("models:/tiny/latest", second, "tiny/2"),
        (f"models:/{first.logged.model_id}", first, None),
    ):
        found = find(uri)
        assert (found.logged.model_id, found.run_id, found.registered) == (
            expected.logged.model_id,
            expected.run_id,
            version,
        )
        assert found.describe().get("registered") == version


def test_a_version_that_mlflow_registered_from_a_run_is_found_too(client, log):
    import mlflow

    found = log()
    client.create_registered_model("tiny")
    version = client.create_model_version("tiny", found.logged.artifact_location, found.run_id)
    assert find(f"models:/tiny/{version.version}").logged.model_id == found.logged.model_id
    assert mlflow.get_registry_uri() == mlflow.get_tracking_uri()


@pytest.mark.parametrize(
    "uri, expected",
    [
        ("models:/nope@champion", "there is no registered model 'nope'. Registered: tiny."),
        ("models:/tiny@nope", "'tiny' has no alias 'nope'. Its versions: 2 @challenger, 1 @champion."),
        ("models:/tiny/7", "'tiny' has no version 7. Its versions: 2 @challenger, 1 @champion."),
        (
            "models:/tiny",
            "names a registered model; expected a version or an alias of it. Its versions: 2 @challenger, 1 @champion.",
        ),
        ("models:/m-0", "there is no logged model 'm-0'. The newest of this experiment: models:/m-"),
        ("models:/tiny/production", "names no model; expected models:/<name>@<alias>"),
        ("models:/", "names no model; expected models:/<name>@<alias>"),
        ("models:/tiny@", "names no model; expected models:/<name>@<alias>"),
    ],
)
def test_what_is_not_there_is_one_line_that_lists_what_is(log, uri, expected):
    register(log())
    register(log(), passed=False)
    with pytest.raises(UserError) as raised:
        find(uri)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_embeddings_api_of_a_model_is_not_a_model_to_work_with(log):
    found = log()
    api = log({ANSWERS_FOR: found.logged.model_id})
    with pytest.raises(UserError, match=f"is the embeddings API of models:/{found.logged.model_id}"):
        find(api.uri)


def test_a_version_made_from_files_alone_is_refused(client, tmp_path):
    client.create_registered_model("tiny")
    client.create_model_version("tiny", str(tmp_path))
    client.set_registered_model_alias("tiny", "champion", "1")
    with pytest.raises(UserError, match="models:/tiny/1 was made from .*no such logged model"):
        find("models:/tiny/1")
    with pytest.raises(UserError, match="delete_registered_model_alias"):
        registry.find_champion("tiny")


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b"])
def test_a_name_that_mlflow_refuses_is_refused_before_the_work(name):
    with pytest.raises(UserError, match="is not a name for a registered model"):
        registry.check_name(name)


def test_a_store_without_a_registry_is_one_line_and_a_reason_where_it_goes_away_later(log, monkeypatch):
    found = log()
    server.check_registry()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "s3://bucket")
    with pytest.raises(UserError, match="s3://bucket gives no model registry") as raised:
        server.check_registry()
    assert "\n" not in str(raised.value)
    made = registry.register(found, "tiny", passed=True, regressions=[], compared=None, tags={})
    assert (made.version, made.alias, str(made)) == (None, None, "no")
    assert "gives no model registry" in made.reason


def test_validate_registers_and_later_steps_find_the_champion(step, tiny_run, tiny_suite, tmp_path):
    import mlflow

    words = [f"suite.path={tiny_suite}", "candidates=[]", "latency_calls=2", "register=tiny"]
    code, out, err = step("validate", f"--run_id={tiny_run['run_id']}", *words)
    assert code == 0, err
    first = last_json(out)
    assert first["registered"] == "tiny/1 (champion)"
    code, out, err = step("validate", f"--run_id=models:/{tiny_run['model_id']}", *words, "suite.threshold=100.5")
    assert code == 1
    assert "error: validation failed, 1 of " in err
    second = last_json(out)
    assert (second["registered"], second["because"]) == (
        "tiny/2 (challenger)",
        "the gate failed; version 1 stays champion",
    )
    validation = mlflow.artifacts.load_dict(f"runs:/{second['run_id']}/validation.json")
    assert validation["registration"] == {
        "name": "tiny",
        "version": "2",
        "alias": "challenger",
        "reason": "the gate failed; version 1 stays champion",
    }
    assert "the gate failed; version 1 stays champion" in mlflow.artifacts.load_text(
        f"runs:/{second['run_id']}/report.html"
    )
    tags = mlflow.MlflowClient().get_model_version("tiny", "1").tags
    assert tags["validation"] == "passed"
    assert tags["validate_run_id"] == first["run_id"]
    assert tags["log_model_run_id"] == tiny_run["run_id"]
    assert float(tags["quality/tiny/spearman"]) == pytest.approx(first["quality/tiny/spearman"], abs=1e-3)

    # The verdict stands on the model: the champion of a model that failed since is not used.
    corpus = tmp_path / "c.txt"
    corpus.write_text("the cat\n")
    code, _, err = step("encode", "run_id=models:/tiny@champion", f"--corpus={corpus}")
    assert code == 1 and "failed its validation" in err
    assert step("validate", "--run_id", "models:/tiny/1", *words)[0] == 0
    code, out, err = step("encode", "--run_id", "models:/tiny@champion", f"--corpus={corpus}")
    assert code == 0, err
    assert "run_id=models:/tiny@champion is tiny/3" in err
    run = mlflow.get_run(last_json(out)["run_id"])
    assert run.data.tags["upstream_run_id"] == tiny_run["run_id"]
    manifest = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/manifest.json")
    assert manifest["model"]["registered"] == "tiny/3"


@pytest.mark.parametrize(
    "name, argv, expected",
    [
        ("validate", ["register=a/b"], "register='a/b' is not a name for a registered model"),
        ("main", ["register=a:b"], "register='a:b' is not a name for a registered model"),
        ("encode", ["--run_id", "models:/nope@champion"], "there is no registered model 'nope'. Registered: none yet"),
        ("benchmark", ["run_id=models:/nope/3"], "there is no registered model 'nope'"),
    ],
)
def test_bad_input_is_one_line(step, name, argv, expected):
    code, _, err = step(name, *argv)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert len(errors) == 1 and expected in errors[0]
    assert "Traceback" not in err
