"""The model registry: a version for each validated model; the alias `champion` names the one to use."""

import math
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException

from steps.common.errors import UserError
from steps.common.model.find import FoundModel, ask_registry, no_registry, of_logged, of_version

CHAMPION = "champion"

CHALLENGER = "challenger"

# Metrics that become tags of a version, by the start of their name.
# Tag of a registered model: the LoggedModel of the best version there ever was.
BASELINE = "baseline_model_id"

TAGGED_METRICS = ("quality/", "parity/max_abs_diff", "latency/", "serving/", "checks/")


@dataclass(frozen=True)
class Registration:
    """The result of registering a model: its version and alias, both None where the registry refused, and the reason."""

    name: str
    version: str | None
    alias: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version} ({self.alias})" if self.version else "no"


def check_name(name: str) -> None:
    """Raises UserError for a name that mlflow refuses for a registered model."""
    if not name.strip() or {"/", ":"}.intersection(name):
        raise UserError(f"register={name!r} is not a name for a registered model; expected one without / and :.")


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
            f"the {CHAMPION} of {name!r} cannot be compared with: {error} To remove the alias: mlflow.MlflowClient().delete_registered_model_alias({name!r}, {CHAMPION!r})."
        ) from None


def find_baseline(name: str) -> FoundModel | None:
    """The best model that was ever registered under a name; None where the registry remembers none."""
    client = mlflow.MlflowClient()
    registered = ask_registry(lambda: client.get_registered_model(name))
    model_id = registered.tags.get(BASELINE) if registered is not None else None
    return of_logged(model_id) if model_id else None


def find_compared(named: FoundModel, name: str) -> FoundModel:
    """Check that a model the user named as the champion may decide who is champion of `name`.

    Raises:
        UserError: the champion of `name` is another model, which this comparison says nothing about.
    """
    held = find_champion(name)
    if held is not None and held.logged.model_id != named.logged.model_id:
        raise UserError(
            f"champion={named.uri}, but the {CHAMPION} of register={name} is {held.registered} ({held.uri}), and only a model compared with that one can replace it. Leave out champion, or register."
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

    Every call makes a new version, so the results of an earlier validation stay on theirs. Where the registry refuses,
    `Registration.version` is None: the verdict has to be written all the same.

    Args:
        regressions: the suites on which the champion is better. compared: the model that these were found against; if
            another one is champion by now, that one stays.
    """
    client = mlflow.MlflowClient()
    try:
        version = mlflow.register_model(found.uri, name, tags=tags).version
        held = client.get_registered_model(name).aliases.get(CHAMPION)
        known = {model.logged.model_id for model in (found, compared) if model is not None}
        if held is not None and _model_id(client, name, held) not in known:
            regressions = [*regressions, "it became champion during this validation, so the two were not compared"]
        unscored = _suites(client.get_model_version(name, held).tags) - _suites(tags) if held is not None else set()
        if unscored:
            regressions = [*regressions, f"it was also scored on {', '.join(sorted(unscored))}, and this one was not"]
        alias, reason = decide(held, passed, regressions)
        client.set_registered_model_alias(name, alias, version)
        client.set_model_version_tag(name, version, "reason", reason)
        client.update_model_version(name, version, description=f"{alias}: {reason}")
    except MlflowException as error:
        return Registration(name, None, None, str(no_registry(error)))
    return Registration(name, str(version), alias, reason)


def _suites(tags: dict[str, str]) -> set[str]:
    """The suites that a version's tags hold scores for."""
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
        return CHAMPION, f"the gate passed, and nothing regressed against version {champion}, the previous {CHAMPION}"
    return CHAMPION, f"the gate passed, and there was no {CHAMPION} yet"


def version_tags(
    found: FoundModel, run_id: str, verdict: str, commit: str | None, metrics: dict[str, float]
) -> dict[str, str]:
    """A version's tags: the verdict, runs, commit, hub ID and main metrics of its validation."""
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
