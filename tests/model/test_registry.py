"""The model registry: which version becomes champion, and every way to name a registered model as run_id."""

import shlex
import threading
from datetime import UTC, datetime

import pytest
from helpers.errors import refusal
from helpers.steps import error_of, last_json

from steps.common.errors import UserError
from steps.common.model import registry
from steps.common.model.decision import Validated
from steps.common.model.find import ANSWERS_FOR, FoundModel, find_model
from steps.common.quality.comparison import Comparison, Result
from steps.common.quality.scoring import Difference


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


def compared(result: Result, value: float = 0.0, *, margin: float = 0.5, needed: int | None = None) -> Comparison:
    return Comparison(result, Difference(value, value - 1, value + 1), margin, needed, {})


def register(found, *, failure=None, tags=None, promote=True, **results: Comparison):
    """After a validation that compared with the champion and the baseline that there are."""
    champion, baseline = registry.find_champion("tiny"), registry.find_baseline("tiny")
    if champion and baseline and champion.logged.model_id == baseline.logged.model_id:
        baseline = None
    models = {role: model for role, model in (("champion", champion), ("baseline", baseline)) if model is not None}
    if not results:
        results = {role: compared(Result.EQUAL) for role in models}
    tags = {"validation": "failed" if failure else "passed", "validate_run_id": found.run_id} | (tags or {})
    validated = Validated(failure, models, results, promote=promote)
    return registry.register(found, "tiny", validated, tags=tags, describe=lambda uri: f"Load {uri}.")


def register_late(found, validated: Validated):
    return registry.register(found, "tiny", validated, tags={}, describe=str)


def aliases(client) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model("tiny").aliases.items()}


def test_the_first_version_that_passes_becomes_champion_and_the_best_there_was(log, client):
    assert registry.find_champion("tiny") is None and registry.find_baseline("tiny") is None
    found = log()
    made = register(found)
    assert (made.version, made.alias) == ("1", "champion")
    assert made.reason == "the gate passed, and there was no champion yet"
    for model in (registry.find_champion("tiny"), registry.find_baseline("tiny")):
        assert (model.logged.model_id, model.run_id, model.registered) == (
            found.logged.model_id,
            found.run_id,
            "tiny/1",
        )
    version = client.get_model_version("tiny", "1")
    assert version.tags == {"validation": "passed", "validate_run_id": found.run_id, "reason": made.reason}
    since = f"since {datetime.now(UTC):%Y-%m-%d}: the gate passed, and there was no champion yet.\n\nLoad models:/tiny"
    assert version.description == f"Champion {since}/1."
    assert client.get_registered_model("tiny").description == f"Champion: version 1 {since}@champion."
    assert client.get_registered_model("tiny").tags == {
        "baseline_model_id": found.logged.model_id,
        "baseline_version": "1",
        "baseline_run_id": found.run_id,
    }


def test_a_version_that_fails_the_gate_gets_no_alias_and_the_champion_stays(log, client):
    failure = "1 of 40 checks: quality/stsb/spearman is 44.1 (expected >= 45)"
    made = register(log(), failure=failure, tags={"status": "rejected"})
    assert (made.version, made.alias, str(made)) == ("1", None, "tiny/1 (rejected)")
    assert made.reason == f"the gate failed, {failure}; there is no champion yet"
    register(log())
    made = register(log(), failure=failure)
    assert made.reason == f"the gate failed, {failure}; version 2 stays champion"
    assert aliases(client) == {"champion": "2"}
    assert client.get_model_version("tiny", "1").tags["status"] == "rejected"
    assert client.get_model_version("tiny", "3").description == f"Rejected: {made.reason}.\n\nLoad models:/tiny/3."


@pytest.mark.parametrize(
    "result, value, needed, alias, reason",
    [
        (
            Result.BETTER,
            2,
            None,
            "champion",
            "better than the champion version 1: +2.00 points (+1.00 to +3.00), margin 0.5",
        ),
        (
            Result.EQUAL,
            0,
            None,
            "champion",
            "no worse than the champion version 1: +0.00 points (-1.00 to +1.00), margin 0.5",
        ),
        (
            Result.WORSE,
            -2,
            None,
            "challenger",
            "worse than the champion version 1: -2.00 points (-3.00 to -1.00), margin 0.5; version 1 stays champion",
        ),
        (
            Result.UNDECIDED,
            0,
            1200,
            "challenger",
            "not shown to be as good as the champion version 1: +0.00 points (-1.00 to +1.00), margin 0.5; about 1,200 more pairs would decide; version 1 stays champion",
        ),
    ],
)
def test_only_a_version_that_is_better_or_equal_becomes_champion(log, client, result, value, needed, alias, reason):
    register(log())
    made = register(log(), champion=compared(result, value, needed=needed))
    assert (made.alias, made.reason) == (alias, reason)
    tags = client.get_model_version("tiny", "2").tags
    assert (tags["comparison"], tags["reason"]) == (result, reason)
    assert aliases(client) == (
        {"champion": "2", "previous": "1"} if alias == "champion" else {"champion": "1", "challenger": "2"}
    )


def test_a_version_has_to_hold_against_the_champion_and_the_best_there_was(log, client):
    register(log())
    register(log())
    made = register(log(), champion=compared(Result.BETTER, 2), baseline=compared(Result.WORSE, -2))
    assert (made.alias, made.reason) == (
        "challenger",
        "better than the champion version 2: +2.00 points (+1.00 to +3.00), margin 0.5; "
        "worse than the baseline version 1: -2.00 points (-3.00 to -1.00), margin 0.5; version 2 stays champion",
    )
    assert client.get_model_version("tiny", "3").tags["comparison"] == "worse"


def test_the_record_moves_only_to_a_version_that_is_better_than_the_best(log, client):
    models = [log() for _ in range(4)]
    register(models[0])
    register(models[1], champion=compared(Result.EQUAL), baseline=compared(Result.EQUAL))
    assert registry.find_baseline("tiny").registered == "tiny/1"
    register(models[2], champion=compared(Result.BETTER, 1), baseline=compared(Result.EQUAL))
    assert aliases(client)["champion"] == "3" and registry.find_baseline("tiny").registered == "tiny/1"
    register(models[3], champion=compared(Result.EQUAL), baseline=compared(Result.BETTER, 2))
    assert registry.find_baseline("tiny").logged.model_id == models[3].logged.model_id


def test_a_champion_that_was_deleted_leaves_its_record(log, client):
    first = log()
    register(first)
    client.delete_model_version("tiny", "1")
    assert registry.find_champion("tiny") is None
    assert registry.find_baseline("tiny").logged.model_id == first.logged.model_id
    worse = register(log(), baseline=compared(Result.WORSE, -3))
    assert worse.alias == "challenger" and worse.reason.endswith("; there is no champion yet")
    client.delete_logged_model(first.logged.model_id)
    left = registry.find_baseline("tiny")
    assert (left.logged.model_id, left.tags) == (first.logged.model_id, {"validation_run_id": first.run_id})


def test_a_best_version_without_a_record_is_in_the_way_until_the_user_begins_anew(log, client):
    """Otherwise small losses would add up again, unsaid."""
    register(log())
    register(log())
    made = register(log(), champion=compared(Result.EQUAL))
    assert made.alias == "challenger"
    assert (
        "; the baseline tiny/1 has no score on these suites (to make the champion the new baseline, delete"
        in made.reason
    )
    client.delete_registered_model_tag("tiny", "baseline_model_id")
    assert register(log()).alias == "champion"
    assert registry.find_baseline("tiny").registered == "tiny/2"


def test_a_failed_version_that_was_made_champion_by_hand_is_no_measure(log, client, log_messages):
    register(log())
    register(log(), failure="1 of 40 checks")
    client.set_registered_model_alias("tiny", "champion", "2")
    assert registry.find_champion("tiny") is None
    assert "tiny/2 has the alias champion, but failed its validation, so it is not compared" in "".join(log_messages)
    assert register(log(), baseline=compared(Result.WORSE, -3)).alias == "challenger"
    assert register(log(), baseline=compared(Result.EQUAL)).alias == "champion"
    # It was no champion, and is not brought back.
    assert aliases(client) == {"champion": "4", "challenger": "3"}


def test_a_proposal_is_confirmed_and_taken_back_by_hand(log, client):
    """promote=false, then promote version=2, then version=previous."""
    first, second = log(), log()
    register(first)
    made = register(second, champion=compared(Result.BETTER, 1), promote=False)
    assert (made.alias, made.proposed) == ("challenger", True)
    assert made.reason.startswith("proposed, better than the champion version 1: +1.00") and made.reason.endswith(
        "; version 1 stays champion"
    )
    assert aliases(client) == {"champion": "1", "challenger": "2"}
    assert registry.find_baseline("tiny").registered == "tiny/1"

    moved = registry.promote("tiny", "2", "read by two of us")
    assert (moved.champion.registered, moved.replaced) == ("tiny/2", "1")
    assert aliases(client) == {"champion": "2", "previous": "1"}
    assert registry.find_baseline("tiny").registered == "tiny/2"
    old, new = (client.get_model_version("tiny", number) for number in "12")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert (
        old.description
        == f"Replaced by version 2 on {today}: promoted by hand: read by two of us.\n\nLoad models:/tiny/1."
    )
    assert new.description == f"Champion since {today}: promoted by hand: read by two of us.\n\nLoad models:/tiny/2."
    assert (old.tags["replaced_by"], new.tags["reason"]) == ("2", "read by two of us")

    moved = registry.promote("tiny", "previous", "slower than we thought")
    assert (moved.champion.registered, moved.replaced) == ("tiny/1", "2")
    assert aliases(client) == {"champion": "1", "previous": "2"}
    assert "replaced_by" not in client.get_model_version("tiny", "1").tags
    assert client.get_registered_model("tiny").description.startswith(
        f"Champion: version 1 since {today}: promoted by hand: slower"
    )
    # The best there was stays it.
    assert registry.find_baseline("tiny").registered == "tiny/2"


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_registry_that_goes_away_meanwhile_always_has_a_champion_and_one_to_go_back_to(
    log, client, monkeypatch, calls
):
    from mlflow import MlflowClient, MlflowException

    register(log())
    register(log())
    held, left = MlflowClient.set_registered_model_alias, iter(range(calls))

    def set_alias(*words):
        if next(left, None) is None:
            raise MlflowException("the server is away")
        held(*words)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_alias)
    made = register(log())
    monkeypatch.undo()
    assert (made.version, made.alias) == ((None, None) if calls < 2 else ("3", "champion"))
    assert (
        aliases(client)
        == [
            {"champion": "2", "previous": "1"},
            {"champion": "2", "previous": "2"},
            {"champion": "3", "previous": "2"},
        ][calls]
    )


def test_a_description_that_somebody_wrote_stays(log, client):
    register(log())
    client.update_registered_model("tiny", "Ours, for search.")
    register(log())
    assert client.get_registered_model("tiny").description == "Ours, for search."
    assert client.get_model_version("tiny", "1").description.startswith("Replaced by version 2 on ")


@pytest.mark.parametrize(
    "name, version, expected",
    [
        ("nope", "1", "there is no registered model 'nope'. Registered: tiny."),
        ("tiny", "9", "'tiny' has no version 9. Its versions: 3, 2, 1 @champion."),
        ("tiny", "previous", "'tiny' has no alias 'previous'. Its versions: 3, 2, 1 @champion."),
        ("tiny", "1", "version 1 of 'tiny' is champion already."),
        ("tiny", "2", "version 2 of 'tiny' failed its validation, so it cannot be champion. To make a new version"),
        ("tiny", "3", "version 3 of 'tiny' was never validated, so it cannot be champion. Validate its model: run_id="),
    ],
)
def test_a_version_that_cannot_be_champion_is_refused_in_one_line(log, client, name, version, expected):
    import mlflow

    register(log())
    register(log(), failure="1 of 40 checks")
    mlflow.register_model(log().uri, "tiny")
    assert expected in refusal(registry.promote, name, version, "why not")


def test_a_champion_that_was_not_compared_stays(log):
    first, second, third = log(), log(), log()
    register(first)
    before = registry.find_champion("tiny")
    register(second)
    for validated in (Validated(None, {"champion": before}, {"champion": compared(Result.EQUAL)}), Validated()):
        late = register_late(third, validated)
        assert late.alias == "challenger"
        assert late.reason.endswith(
            "version 2 became champion during this validation, so the two were not compared; version 2 stays champion"
        )
    # Its own model needs no comparison.
    assert register_late(second, Validated()).alias == "champion"


def test_a_champion_that_was_scored_on_more_suites_stays(log):
    first, second = log(), log()
    register(first, tags={"quality/builtin/spearman": "55", "quality/stsb/spearman": "82"})
    made = register(second, tags={"quality/stsb/spearman": "83"})
    assert made.alias == "challenger"
    assert made.reason.endswith(
        "; version 1 was also scored on builtin, and this one was not; version 1 stays champion"
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
    assert [register(found).version, register(found, failure="1 of 40 checks").version] == ["1", "2"]
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
    register(second, champion=compared(Result.WORSE, -2))
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
    register(log(), champion=compared(Result.WORSE, -2))
    assert expected in refusal(find, uri)


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


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "..", "a'b\"c"])
def test_a_name_that_mlflow_refuses_is_refused_before_the_work(name):
    with pytest.raises(UserError, match="is not a name for a registered model"):
        registry.check_name(name)


def test_a_registry_that_goes_away_later_is_a_reason(log, monkeypatch):
    found = log()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "s3://bucket")
    made = register_late(found, Validated())
    assert (made.version, made.alias, str(made)) == (None, None, "no")
    assert "gives no model registry" in made.reason


def test_validate_registers_promote_confirms_and_later_steps_find_the_champion(
    step, tiny_run, tiny_suite, tmp_path, monkeypatch, client
):
    import mlflow

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    words = [f"suite.path={tiny_suite}", "candidates=[]", "latency_calls=2", "register=tiny"]
    code, out, err = step("validate", f"--run_id={tiny_run['run_id']}", *words)
    assert code == 0, err
    first = last_json(out)
    assert first["registered"] == "tiny/1 (champion)"
    version = client.get_model_version("tiny", "1")
    assert version.tags["validation"] == "passed"
    assert version.tags["validate_run_id"] == first["run_id"]
    assert version.tags["log_model_run_id"] == tiny_run["run_id"]
    assert float(version.tags["quality/tiny/spearman"]) == pytest.approx(first["quality/tiny/spearman"], abs=1e-3)
    assert "status" not in version.tags

    # What MLflow's own pages show.
    run = mlflow.get_run(first["run_id"])
    assert run.info.run_name == f"validate passed local tiny {first['quality/tiny/spearman']:.1f}"
    assert "Registered as tiny/1 (champion): the gate passed" in run.data.tags["mlflow.note.content"]
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] < 100
    assert not [thread.name for thread in threading.enumerate() if "ystem" in thread.name]
    note = mlflow.get_logged_model(tiny_run["model_id"]).tags["mlflow.note.content"]
    assert note.startswith("**Validation passed**") and f'load_model("models:/{tiny_run["model_id"]}")' in note
    assert f"Scores:\n- tiny, spearman: {first['quality/tiny/spearman']:.2f} (" in note
    assert 'load_model("models:/tiny/1")' in version.description
    assert "python -m steps.encode run_id=models:/tiny/1 corpus.path=texts.csv" in version.description
    made = mlflow.get_run(tiny_run["run_id"])
    assert made.info.run_name == "log_model local" and "licence not declared" in made.data.tags["mlflow.note.content"]

    code, out, err = step("validate", f"--run_id=models:/{tiny_run['model_id']}", *words, "suite.threshold=100.5")
    assert code == 1
    assert "error: validation failed, 1 of " in err
    second = last_json(out)
    assert second["registered"] == "tiny/2 (rejected)"
    assert second["because"].startswith("the gate failed, 1 of ")
    assert second["because"].endswith("(expected >= 100.5); version 1 stays champion")
    validation = mlflow.artifacts.load_dict(f"runs:/{second['run_id']}/validation.json")
    assert (validation["registration"]["version"], validation["registration"]["alias"]) == ("2", None)
    assert "version 1 stays champion" in mlflow.artifacts.load_text(f"runs:/{second['run_id']}/report.html")
    assert client.get_model_version("tiny", "2").tags["status"] == "rejected"

    # The verdict stands on the model: the champion of a model that failed since is not used.
    corpus = tmp_path / "c.txt"
    corpus.write_text("the cat\n")
    code, _, err = step("encode", "run_id=models:/tiny@champion", f"--corpus={corpus}")
    assert code == 1 and "failed its validation" in err

    code, out, err = step("validate", "--run_id", "models:/tiny/1", *words, "comparison.promote=false")
    assert code == 0, err
    third = last_json(out)
    assert third["registered"] == "tiny/3 (challenger)"
    command = shlex.split(third["to confirm"])
    assert command[:3] == ["python", "-m", "steps.promote"]
    # As mlflow run passes them on, without the quotes that Hydra takes off.
    pairs = [one.partition("=") for one in command[3:]]
    words = [word for key, _, value in pairs for word in (f"--{key}", value.strip("'"))]
    code, out, err = step("promote", *words)
    assert code == 0, err
    promoted = last_json(out)
    assert (promoted["champion"], promoted["replaced"]) == ("tiny/3", "tiny/1")
    assert promoted["because"] == "confirmed as proposed"
    run = mlflow.get_run(promoted["run_id"])
    assert (run.info.run_name, run.data.tags["model_id"]) == ("promote tiny/3", tiny_run["model_id"])

    code, out, err = step("encode", "--run_id", "models:/tiny@champion", f"--corpus={corpus}")
    assert code == 0, err
    assert "run_id=models:/tiny@champion is tiny/3" in err
    run = mlflow.get_run(last_json(out)["run_id"])
    assert run.data.tags["upstream_run_id"] == tiny_run["run_id"]
    assert run.info.run_name == "encode c.txt 1 rows local"
    manifest = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/manifest.json")
    assert manifest["model"]["registered"] == "tiny/3"


@pytest.mark.parametrize(
    "name, argv, expected",
    [
        ("validate", ["register=a/b"], "register='a/b' is not a name for a registered model"),
        ("main", ["register=a:b"], "register='a:b' is not a name for a registered model"),
        ("encode", ["--run_id", "models:/nope@champion"], "there is no registered model 'nope'. Registered: none yet"),
        ("benchmark", ["run_id=models:/nope/3"], "there is no registered model 'nope'"),
        ("promote", ["name=nope", "version=3", "reason=x"], "there is no registered model 'nope'"),
        ("promote", ["name=nope", "version=3"], "reason is required here: give reason=<value>."),
        ("promote", ["name=nope", "version=3", "reason= "], "reason is empty. Say why this version"),
    ],
)
def test_bad_input_is_one_line(step, name, argv, expected):
    assert expected in error_of(step(name, *argv))
