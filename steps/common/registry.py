"""The model registry: a version for each validated model, the alias `champion` for the one to use."""

import math
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException

from steps.common.errors import UserError
from steps.common.found import FoundModel, ask_registry, no_registry, of_version

CHAMPION = "champion"
CHALLENGER = "challenger"

# Metrics that become tags of a version, by the start of their name.
TAGGED_METRICS = ("quality/", "parity/max_abs_diff", "latency/", "serving/", "checks/")


@dataclass(frozen=True)
class Registration:
    """What became of registering a model: its version and alias, None where the registry refused, and why."""

    name: str
    version: str | None
    alias: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version} ({self.alias})" if self.version else "no"


def check_name(name: str) -> None:
    """Raises UserError for a name that mlflow refuses for a registered model."""
    if not name.strip() or {"/", ":"}.intersection(name):
        raise UserError(f"register={name!r} is no name for a registered model; expected one without / and :.")


def find_champion(name: str) -> FoundModel | None:
    """The model that has the alias `champion`; None where there is no such model or alias yet.

    Raises:
        UserError: no registry, or a champion whose LoggedModel is gone.
    """
    client = mlflow.MlflowClient()
    registered = ask_registry(lambda: client.get_registered_model(name))
    if registered is None or CHAMPION not in registered.aliases:
        return None
    version = client.get_model_version(name, registered.aliases[CHAMPION])
    try:
        return of_version(client, version)
    except UserError as error:
        raise UserError(
            f"nothing can be compared with the {CHAMPION} of {name!r}: {error} To do without it: mlflow.MlflowClient().delete_registered_model_alias({name!r}, {CHAMPION!r})."
        ) from None


def find_compared(named: FoundModel, name: str) -> FoundModel:
    """A model that the user names as the champion to compare with, while `name` is to get a version.

    Raises:
        UserError: the champion of `name` is another model, so this comparison cannot tell what takes its place.
    """
    held = find_champion(name)
    if held is not None and held.logged.model_id != named.logged.model_id:
        raise UserError(
            f"champion is {named.uri}, but the {CHAMPION} of register={name} is {held.registered} ({held.uri}), and only a model that was compared with it can take its place. Leave champion out, or register."
        )
    return named


def register(
    found: FoundModel,
    name: str,
    *,
    passed: bool,
    regressions: list[str],
    compared: FoundModel | None,
    tags: dict[str, str],
) -> Registration:
    """Make a version of a model: the champion if the gate passed and nothing regressed, else the challenger.

    Every call makes a new version, so that what an earlier validation of the same model has found stays as it was.
    `compared` is the model whose scores the regressions were found against: where another one is champion by now, it
    stays, since nobody has compared the two.

    Never raises for what the registry refuses, since the verdict beside it has to be written all the same:
    `Registration.version` is None then.
    """
    client = mlflow.MlflowClient()
    try:
        version = mlflow.register_model(found.uri, name, tags=tags).version
        held = client.get_registered_model(name).aliases.get(CHAMPION)
        known = {model.logged.model_id for model in (found, compared) if model is not None}
        if held is not None and _model_id(client, name, held) not in known:
            regressions = [*regressions, "it became champion while this one was validated, so they were not compared"]
        unscored = _suites(client.get_model_version(name, held).tags) - _suites(tags) if held is not None else set()
        if unscored:
            regressions = [*regressions, f"it was scored on {', '.join(sorted(unscored))} too, and this one was not"]
        alias, reason = decide(held, passed, regressions)
        client.set_registered_model_alias(name, alias, version)
        client.set_model_version_tag(name, version, "reason", reason)
        client.update_model_version(name, version, description=f"{alias}: {reason}")
    except MlflowException as error:
        return Registration(name, None, None, str(no_registry(error)))
    return Registration(name, str(version), alias, reason)


def _suites(tags: dict[str, str]) -> set[str]:
    """The suites that the tags of a version have scores of."""
    return {name.split("/")[1] for name in tags if name.startswith("quality/")}


def _model_id(client: mlflow.MlflowClient, name: str, version: str) -> str | None:
    try:
        return of_version(client, client.get_model_version(name, version)).logged.model_id
    except UserError:
        return None


def decide(champion: str | None, passed: bool, regressions: list[str]) -> tuple[str, str]:
    """The alias of a new version, and why.

    Args:
        champion: the version that is champion now.
    """
    stays = f"version {champion} stays {CHAMPION}" if champion else f"there is no {CHAMPION} yet"
    if not passed:
        return CHALLENGER, f"the gate failed; {stays}"
    if regressions:
        return CHALLENGER, f"the gate passed, but {stays}: {'; '.join(regressions)}"
    if champion:
        return CHAMPION, f"the gate passed, and nothing regressed against version {champion}, the {CHAMPION} until now"
    return CHAMPION, f"the gate passed, and there was no {CHAMPION} yet"


def version_tags(
    found: FoundModel, run_id: str, verdict: str, commit: str | None, metrics: dict[str, float]
) -> dict[str, str]:
    """What a version records of its validation: verdict, runs, commit, hub ID, and the metrics that tell most."""
    tags = {
        "validation": verdict,
        "validate_run_id": run_id,
        "log_model_run_id": found.logged.source_run_id or "",
        "git_commit": commit or "",
        **{name: found.tags.get(name, "") for name in ("hub_id", "revision", "weights_sha256", "dimension")},
    }
    numbers = {
        name: f"{value:.6g}"
        for name, value in metrics.items()
        if name.startswith(TAGGED_METRICS) and math.isfinite(value)
    }
    return {name: value for name, value in (tags | numbers).items() if value}
