"""The model that a run ID or a registered version stands for."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from steps.common.backends import Passed
from steps.common.errors import UserError, clip

logger = logging.getLogger("steps")

# Tag of a run of log_model: the LoggedModel that answers OpenAI's embeddings call for its model.
EMBEDDINGS_API = "embeddings_api_model_id"

# Tags of a LoggedModel that validate sets and encode obeys: the verdict, the backends that passed, as JSON, and the run.
VALIDATION = "validation"

BACKENDS = "validated_backends"

VALIDATION_RUN = "validation_run_id"

# Tag of the LoggedModel that answers OpenAI's embeddings call for another one: the ID of that one.
ANSWERS_FOR = "answers_for_model_id"

# Tags of the LoggedModel that carries vectors of one model over to another: the IDs of both.
BRIDGES_FROM = "bridges_from_model_id"

BRIDGES_TO = "bridges_to_model_id"

# Tag of the LoggedModel that searches or compares with another one: the ID of that one.
EMBEDS_WITH = "embeds_with_model_id"

# How a registered version is written, and what mlflow answers where there is nothing of a name.
SCHEME = "models:/"

MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")

# How many names or versions an error lists.
LISTED = 20

T = TypeVar("T")


@dataclass(frozen=True)
class FoundModel:
    """The model that a run made or used, or that a registered version holds."""

    run_id: str
    logged: LoggedModel
    # name/version, where it was found in the model registry.
    registered: str | None = None
    # What validate wrote on that version, beside the champion of then: compatible or reindex_required.
    compatibility: str | None = None

    @property
    def uri(self) -> str:
        return f"models:/{self.logged.model_id}"

    @property
    def name(self) -> str:
        """What it is called on the Hub, else in its run."""
        return self.tags.get("hub_id") or self.logged.name

    @property
    def is_gone(self) -> bool:
        """Whether only the record of the model is left (registry.find_baseline)."""
        return not self.logged.artifact_location

    @property
    def tags(self) -> dict[str, str]:
        return self.logged.tags

    @property
    def validation(self) -> str | None:
        """The verdict of validate, `passed` or `failed`; None where it never ran."""
        return self.tags.get(VALIDATION)

    @property
    def passed_backends(self) -> dict[str, Passed]:
        """The backends that validate has passed, by name/precision."""
        passed = json.loads(self.tags.get(BACKENDS, "{}"))
        return {key: Passed(facts["rows_per_second"], facts["digest"]) for key, facts in passed.items()}

    def describe(self) -> dict[str, str]:
        """The model's ID, name and main facts, as results record them."""
        names = ("hub_id", "revision", "weights_sha256", "dimension", "max_seq_length", "pooling")
        return {
            "model_id": self.logged.model_id,
            "name": self.logged.name,
            **{name: self.tags.get(name, "") for name in names},
            **({"registered": self.registered} if self.registered else {}),
        }


def find_model(run_id: str, *, preceding: str, experiment_id: str) -> FoundModel:
    """The model of a run, by run ID or `latest`, or of the registry, by models:/name@alias, models:/name/3 or models:/<model ID>.

    `latest` is the newest finished run of the step `preceding` in the experiment.

    Raises:
        UserError: no such run, version or alias, no finished run, or a run that holds no model.
    """
    client = mlflow.MlflowClient()
    if run_id.startswith(SCHEME):
        found = find_registered(client, run_id, experiment_id)
        logger.info("run_id=%s is %s, model %s", run_id, found.registered or "a logged model", found.logged.model_id)
        return found
    run = find_run(run_id, preceding=preceding, experiment_id=experiment_id)
    run_id = run.info.run_id
    outputs = run.outputs.model_outputs if run.outputs else []
    model_id = run.data.tags.get("model_id") or (outputs[0].model_id if outputs else None)
    if model_id is None:
        raise UserError(
            f"run {run_id} holds no model ({describe_run(run)}). Give the ID of a log_model or validate run that finished."
        )
    return FoundModel(run_id, client.get_logged_model(model_id))


def find_run(run_id: str, *, preceding: str, experiment_id: str) -> Run:
    """A run by its ID, or `latest`: the newest finished run of the step `preceding` in the experiment.

    Raises:
        UserError: no such run, or no finished one.
    """
    client = mlflow.MlflowClient()
    if run_id == "latest":
        run_id = _latest(client, preceding, experiment_id)
        logger.info("run_id=latest is %s, the newest finished run of %s in this experiment", run_id, preceding)
    run = ask(lambda: client.get_run(run_id))
    if run is None:
        raise UserError(
            f"there is no run {run_id!r} on {mlflow.get_tracking_uri()}. Give the run ID that the previous step printed, or run_id=latest."
        )
    return run


def describe_run(run: Run) -> str:
    """What a run is, for an error: its ID, its step and how it ended."""
    step = run.data.tags.get("step")
    return f"it is {f'a run of {step}' if step else 'not a run of this project'}, {run.info.status}"


def download(found: FoundModel) -> Path:
    """The folder of a logged model on this machine.

    Raises:
        UserError: its files are gone or out of reach.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(found.uri))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"the files of {found.uri} cannot be read from {found.logged.artifact_location} ({error}). If they are gone, run log_model again."
        ) from error


def _latest(client: mlflow.MlflowClient, preceding: str, experiment_id: str) -> str:
    found = _newest(client, preceding, [experiment_id])
    if found is not None:
        return found.info.run_id
    name = client.get_experiment(experiment_id).name
    elsewhere = _newest(client, preceding, [one.experiment_id for one in client.search_experiments()])
    if elsewhere is None:
        hint = f"Run it first (mlflow run . -e {preceding}), or give run_id=<run ID>."
    else:
        other = client.get_experiment(elsewhere.info.experiment_id).name
        run_id = elsewhere.info.run_id
        hint = f"The newest is {run_id} in the experiment {other!r}: give -P run_id={run_id}."
    raise UserError(f"run_id=latest: the experiment {name!r} has no finished run of {preceding}. {hint}")


def _newest(client: mlflow.MlflowClient, step: str, experiment_ids: list[str]) -> Run | None:
    """The newest finished run of a step in these experiments."""
    found = client.search_runs(
        experiment_ids,
        f"tags.step = '{step}' and attributes.status = 'FINISHED'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def find_registered(client: mlflow.MlflowClient, uri: str, experiment_id: str) -> FoundModel:
    """The model of a models:/ URI; `experiment_id` is the one whose newest models an error lists.

    Raises:
        UserError: no such registered model, version, alias or logged model.
    """
    name, version, alias = split_uri(uri)
    if version is None and alias is None:
        return _find_logged(client, uri, name, experiment_id)
    registered = ask_registry(lambda: client.get_registered_model(name))
    if registered is None:
        raise UserError(f"{uri}: there is no registered model {name!r}. {_names(client)}")
    versions = {str(entry.version): entry for entry in client.search_model_versions(f"name = {_quoted(name)}")}
    if alias is not None:
        version = registered.aliases.get(alias)
    elif version == "latest":
        version = max(versions, key=int, default="latest")
    found = versions.get(str(version))
    if found is None:
        missing = f"alias {alias!r}" if alias is not None else f"version {version}"
        raise UserError(f"{uri}: {name!r} has no {missing}. {_versions(registered.aliases, list(versions))}")
    return of_version(client, found)


def split_uri(uri: str) -> tuple[str, str | None, str | None]:
    """models:/name/3, models:/name@alias or models:/<model ID> as (name or ID, version, alias).

    Raises:
        UserError: anything else.
    """
    rest = uri.removeprefix(SCHEME).strip("/")
    name, _, version = rest.partition("/")
    alias = None
    if not version and "@" in name:
        name, _, alias = name.rpartition("@")
    if not name or alias == "" or not (version == "" or version == "latest" or version.isdecimal()):
        raise UserError(
            f"{uri!r} names no model; expected models:/<name>@<alias>, models:/<name>/<version> or models:/<model ID>."
        )
    return name, version or None, alias


def of_version(client: mlflow.MlflowClient, version: ModelVersion) -> FoundModel:
    """The model of a registered version.

    Raises:
        UserError: it was made from files, without a LoggedModel, or that one is gone.
    """
    where = f"{version.name}/{version.version}"
    # A version of a sqlite store says it in its source only: models:/m-... or the folder of that model.
    named = re.search(r"\bm-[0-9a-f]{32}\b", version.source or "")
    model_id = version.model_id or (named and named.group())
    logged = get_logged(client, model_id) if model_id else None
    if logged is None:
        raise UserError(
            f"models:/{where} was made from {version.source}, and there is no such logged model. Register one with mlflow run . -e validate -P register={version.name}."
        )
    return FoundModel(logged.source_run_id or version.run_id or "", logged, where, version.tags.get("compatibility"))


def _find_logged(client: mlflow.MlflowClient, uri: str, model_id: str, experiment_id: str) -> FoundModel:
    logged = get_logged(client, model_id)
    if logged is None:
        registered = ask_registry(lambda: client.get_registered_model(model_id))
        if registered is not None:
            versions = client.search_model_versions(f"name = {_quoted(model_id)}")
            listed = _versions(registered.aliases, [entry.version for entry in versions])
            raise UserError(f"{uri} names a registered model; expected a version or an alias of it. {listed}")
        newest = client.search_logged_models([experiment_id], max_results=3)
        known = ", ".join(f"models:/{model.model_id}" for model in newest) or "none"
        raise UserError(
            f"{uri}: there is no logged model {model_id!r}. The newest of this experiment: {known}. {_names(client)}"
        )
    if ANSWERS_FOR in logged.tags:
        raise UserError(f"{uri} is the embeddings API of models:/{logged.tags[ANSWERS_FOR]}. Give that model.")
    if EMBEDS_WITH in logged.tags:
        raise UserError(
            f"{uri} is a {logged.name} model; its embedding model is models:/{logged.tags[EMBEDS_WITH]}. Give that one."
        )
    if BRIDGES_TO in logged.tags:
        raise UserError(
            f"{uri} maps vectors of models:/{logged.tags[BRIDGES_FROM]} into the space of models:/{logged.tags[BRIDGES_TO]} and embeds no text. Give models:/{logged.tags[BRIDGES_TO]}."
        )
    return FoundModel(logged.source_run_id or "", logged)


def get_logged(client: mlflow.MlflowClient, model_id: str) -> LoggedModel | None:
    """The LoggedModel of an ID; None where there is none."""
    return ask(lambda: client.get_logged_model(model_id))


def ask(call: Callable[[], T]) -> T | None:
    """The answer of the tracking server; None where it has nothing of that name."""
    try:
        return call()
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise


def ask_registry(call: Callable[[], T]) -> T | None:
    """The answer of the model registry; None where it has nothing of that name.

    Raises:
        UserError: the tracking store has no registry, or it cannot be reached.
    """
    try:
        return ask(call)
    except MlflowException as error:
        raise no_registry(error) from error


def no_registry(error: Exception) -> UserError:
    """The error for a store that cannot register models."""
    return UserError(
        f"{mlflow.get_registry_uri()} gives no model registry ({clip(error, 300)}). Set MLFLOW_TRACKING_URI, or MLFLOW_REGISTRY_URI, to a store that has one, such as sqlite:///mlflow.db or an mlflow server."
    )


def _quoted(name: str) -> str:
    """A name in a filter string; mlflow has no escape for a quote, so the other kind is used."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _names(client: mlflow.MlflowClient) -> str:
    names = [model.name for model in ask_registry(lambda: client.search_registered_models(max_results=LISTED)) or []]
    return f"Registered: {', '.join(names) or 'none yet (mlflow run . -e validate -P register=<name>)'}."


def _versions(aliases: dict[str, str], versions: list[str]) -> str:
    """Versions with their aliases, newest first."""
    by_version: dict[str, list[str]] = {}
    for alias, version in aliases.items():
        by_version.setdefault(str(version), []).append(f"@{alias}")
    newest = sorted(map(str, versions), key=int, reverse=True)[:LISTED]
    listed = [" ".join([version, *by_version.get(version, [])]) for version in newest]
    return f"Its versions: {', '.join(listed) or 'none'}."
