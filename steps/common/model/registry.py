"""The model registry: a version for each validated model, the aliases that say which to use, and the best there was.

champion: the version to use. previous: the one before it. challenger: passed, but not promoted. A version whose gate failed
has no alias, and the tag status=rejected.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from steps.common.errors import UserError
from steps.common.model.decision import CHALLENGER, CHAMPION, PREVIOUS, Validated, decide
from steps.common.model.find import (
    VALIDATION,
    VALIDATION_RUN,
    FoundModel,
    ask_registry,
    find_registered,
    get_logged,
    no_registry,
    of_version,
)
from steps.common.quality.comparison import Result

logger = logging.getLogger("steps")

# Value of a version's tag `status` where the gate failed.
REJECTED = "rejected"

# Tags of a version: the run of validate that made it, and the version that took its place as champion.
VALIDATE_RUN, REPLACED_BY = "validate_run_id", "replaced_by"

# How a registered model's description begins where this module wrote it.
OWN_DESCRIPTION = "Champion: version"

# Tags of a registered model: the best version there ever was. They outlive it.
BASELINE_MODEL, BASELINE_VERSION, BASELINE_RUN = "baseline_model_id", "baseline_version", "baseline_run_id"

# Tag of a version that was shown better than the best there was: the ID of that one's model.
BETTER_THAN = "better_than_model_id"

# Metrics that become tags of a version, by the start of their name.
TAGGED_METRICS = ("quality/", "parity/max_abs_diff", "latency/", "serving/", "checks/")


@dataclass(frozen=True)
class Registration:
    """The result of registering a model: its version, None where the registry refused; its alias, None where the gate
    failed; and the reason."""

    name: str
    version: str | None
    alias: str | None
    reason: str
    # Whether only comparison.promote=false keeps it from being champion.
    proposed: bool = False

    def __str__(self) -> str:
        return f"{self.name}/{self.version} ({self.alias or REJECTED})" if self.version else "no"


@dataclass(frozen=True)
class Promotion:
    """The result of a promotion: the champion now, and the version it took the place of."""

    champion: FoundModel
    replaced: str | None


def check_name(name: str) -> None:
    """Raises UserError for a name that mlflow refuses for a registered model, or whose versions it cannot list."""
    if not name.strip() or name in (".", "..") or {"/", ":"}.intersection(name) or {"'", '"'} <= set(name):
        raise UserError(
            f"register={name!r} is not a name for a registered model; expected one without / and :, and with one kind of quotes at most."
        )


def find_champion(name: str) -> FoundModel | None:
    """The model that has the alias `champion`; None where nothing has it, or a version that failed its validation.

    Raises:
        UserError: no registry, or a champion whose LoggedModel is gone.
    """
    client = mlflow.MlflowClient()
    registered = ask_registry(lambda: client.get_registered_model(name))
    held = registered and _champion(client, registered)
    if not held:
        return None
    if _failed(held):
        logger.warning(
            "%s/%s has the alias %s, but failed its validation, so it is not compared", name, held.version, CHAMPION
        )
        return None
    try:
        return of_version(client, held)
    except UserError as error:
        raise UserError(
            f"the {CHAMPION} of {name!r} cannot be compared: {error} To remove the alias: mlflow.MlflowClient().delete_registered_model_alias({name!r}, {CHAMPION!r})."
        ) from None


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


def find_baseline(name: str) -> FoundModel | None:
    """The best version there ever was, as the registered model's tags record it; None where they do not.

    Where its LoggedModel is gone, all that is known of it is its ID and, as its tag `validation_run_id`, the run of
    validate that holds its units.json.

    Raises:
        UserError: no registry.
    """
    client = mlflow.MlflowClient()
    registered = ask_registry(lambda: client.get_registered_model(name))
    record = registered.tags if registered else {}
    if BASELINE_MODEL not in record:
        return None
    model_id, run_id = record[BASELINE_MODEL], record[BASELINE_RUN]
    gone = LoggedModel(
        "", model_id, model_id, "", creation_timestamp=0, last_updated_timestamp=0, tags={VALIDATION_RUN: run_id}
    )
    logged = get_logged(client, model_id) or gone
    return FoundModel(logged.source_run_id or run_id, logged, f"{name}/{record[BASELINE_VERSION]}")


def register(
    found: FoundModel, name: str, validated: Validated, *, tags: dict[str, str], describe: Callable[[str], str]
) -> Registration:
    """Make a version of a model, and give it the alias that the validation decides.

    Every call makes a new version, so the results of an earlier validation stay on theirs. If another model than the
    compared one is champion by now, that one stays. Where the registry refuses, `Registration.version` is None: the verdict
    has to be written all the same.

    Args:
        tags: of the version. describe: its description by its URI, below the line that says what the version is now.
    """
    client = mlflow.MlflowClient()
    try:
        made = mlflow.register_model(found.uri, name, tags=tags | _comparison_tags(validated))
        registered, version = client.get_registered_model(name), str(made.version)
        held = _champion(client, registered)
        objections = _objections(client, found, held, validated=validated, tags=tags)
        decision = decide(validated, str(held.version) if held else None, objections)
        client.set_model_version_tag(name, version, "reason", decision.reason)
        line = f"{(decision.alias or REJECTED).capitalize()}: {decision.reason}."
        body = describe(f"models:/{name}/{version}")
        client.update_model_version(name, version, description=f"{line}\n\n{body}".strip())
        if decision.alias == CHAMPION:
            _move_champion(client, registered, client.get_model_version(name, version), because=decision.reason)
        elif decision.alias == CHALLENGER:
            client.set_registered_model_alias(name, CHALLENGER, version)
    except MlflowException as error:
        return Registration(name, None, None, str(no_registry(error)))
    return Registration(name, version, decision.alias, decision.reason, decision.proposed)


def promote(name: str, version: str, reason: str) -> Promotion:
    """Make a version the champion by hand: a proposal, or the champion before.

    Args:
        version: a number, or an alias such as `previous`.

    Raises:
        UserError: no such version, one that did not pass a validation or is champion already, or no registry.
    """
    client = mlflow.MlflowClient()
    uri = f"models:/{name}/{version}" if version.isdecimal() else f"models:/{name}@{version}"
    found = find_registered(client, uri, "")
    number = str(found.registered).rpartition("/")[2]
    try:
        registered, entry = client.get_registered_model(name), client.get_model_version(name, number)
        held = _champion(client, registered)
        if held and str(held.version) == number:
            raise UserError(f"version {number} of {name!r} is {CHAMPION} already.")
        if VALIDATION not in entry.tags and found.validation is None:
            raise UserError(
                f"version {number} of {name!r} was never validated, so it cannot be {CHAMPION}. Validate its model: run_id={found.uri} register={name}."
            )
        if _failed(entry) or found.validation == "failed":
            raise UserError(
                f"version {number} of {name!r} failed its validation, so it cannot be {CHAMPION}. To make a new version of its model, validate it again: run_id={found.uri} register={name}."
            )
        client.set_model_version_tag(name, number, "reason", reason)
        _move_champion(client, registered, entry, because=f"promoted by hand: {reason}")
    except MlflowException as error:
        raise no_registry(error) from error
    return Promotion(found, str(held.version) if held else None)


def version_tags(
    found: FoundModel, run_id: str, verdict: str, commit: str | None, metrics: dict[str, float]
) -> dict[str, str]:
    """A version's tags: the verdict, runs, commit, hub ID and main metrics of its validation."""
    tags = {
        VALIDATION: verdict,
        "status": REJECTED if verdict == "failed" else "",
        VALIDATE_RUN: run_id,
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


def _comparison_tags(validated: Validated) -> dict[str, str]:
    """The tag `comparison`, and which model the version is better than: the best there was, or else the champion."""
    tags = {"comparison": str(validated.result)} if validated.result else {}
    role = "baseline" if "baseline" in validated.comparisons else CHAMPION
    comparison = validated.comparisons.get(role)
    if comparison is not None and comparison.result == Result.BETTER and role in validated.compared:
        tags[BETTER_THAN] = validated.compared[role].logged.model_id
    return tags


def _champion(client: mlflow.MlflowClient, registered: RegisteredModel) -> ModelVersion | None:
    """The version that has the alias `champion`."""
    number = registered.aliases.get(CHAMPION)
    return client.get_model_version(registered.name, number) if number is not None else None


def _failed(version: ModelVersion) -> bool:
    return version.tags.get(VALIDATION) == "failed"


def _objections(
    client: mlflow.MlflowClient,
    found: FoundModel,
    held: ModelVersion | None,
    *,
    validated: Validated,
    tags: dict[str, str],
) -> list[str]:
    """Why a model cannot be champion, whatever the comparisons say: it was not compared with all of that one, or not with
    the best there was.

    A champion that failed its validation was made champion by hand, and is no measure.
    """
    objections = []
    baseline = validated.compared.get("baseline")
    if baseline is not None and "baseline" not in validated.comparisons:
        lacks = "is deleted and has no recorded score on" if baseline.is_gone else "has no score on"
        objections.append(
            f"the baseline {baseline.registered or baseline.uri} {lacks} these suites (to make the {CHAMPION} the new baseline, delete the tag {BASELINE_MODEL} of the registered model)"
        )
    if held is None or _failed(held):
        return objections
    champion = validated.compared.get(CHAMPION)
    known = {model.logged.model_id for model in (found, champion) if model is not None}
    if _model_id(client, held) not in known:
        objections.append(
            f"version {held.version} became {CHAMPION} during this validation, so the two were not compared"
        )
    elif champion is not None and CHAMPION not in validated.comparisons:
        objections.append(f"version {held.version} has no score on these suites, so the two were not compared")
    unscored = _suites(held.tags) - _suites(tags)
    if unscored:
        objections.append(
            f"version {held.version} was also scored on {', '.join(sorted(unscored))}, and this one was not"
        )
    return objections


def _suites(tags: dict[str, str]) -> set[str]:
    """The suites that a version's tags hold scores for."""
    return {name.split("/")[1] for name in tags if name.startswith("quality/")}


def _model_id(client: mlflow.MlflowClient, version: ModelVersion) -> str | None:
    try:
        return of_version(client, version).logged.model_id
    except UserError:
        return None


def _move_champion(
    client: mlflow.MlflowClient, registered: RegisteredModel, version: ModelVersion, *, because: str
) -> None:
    """Give a version the alias `champion`, and the one that had it `previous`; descriptions, tags and the record follow."""
    name, number, today = registered.name, str(version.version), f"{datetime.now(UTC):%Y-%m-%d}"
    held = _champion(client, registered)
    replaced = held if held is not None and not _failed(held) else None
    if replaced is not None:
        # First, so that where the server goes away in between there is always one to go back to.
        client.set_registered_model_alias(name, PREVIOUS, replaced.version)
    client.set_registered_model_alias(name, CHAMPION, number)
    if str(registered.aliases.get(CHALLENGER)) == number:
        client.delete_registered_model_alias(name, CHALLENGER)
    if replaced is None and str(registered.aliases.get(PREVIOUS)) == number:
        client.delete_registered_model_alias(name, PREVIOUS)
    if held is not None:
        client.set_model_version_tag(name, held.version, REPLACED_BY, number)
        _set_status_line(client, held, f"Replaced by version {number} on {today}: {because}.")
    if REPLACED_BY in version.tags:
        client.delete_model_version_tag(name, number, REPLACED_BY)
    body = _set_status_line(client, version, f"Champion since {today}: {because}.")
    # A description that somebody wrote stays.
    if not registered.description or registered.description.startswith(OWN_DESCRIPTION):
        line = f"{OWN_DESCRIPTION} {number} since {today}: {because}."
        body = body.replace(f"models:/{name}/{number}", f"models:/{name}@{CHAMPION}")
        client.update_registered_model(name, f"{line}\n\n{body}".strip())
    _record_baseline(client, registered, held, version)


def _set_status_line(client: mlflow.MlflowClient, version: ModelVersion, line: str) -> str:
    """Put a line in place of the first one of a version's description; returns what stands below it."""
    body = (version.description or "").partition("\n\n")[2]
    client.update_model_version(version.name, version.version, description=f"{line}\n\n{body}".strip())
    return body


def _record_baseline(
    client: mlflow.MlflowClient, registered: RegisteredModel, held: ModelVersion | None, version: ModelVersion
) -> None:
    """Keep the record of the best version there was: the first champion, until one is shown to be better than it."""
    best = registered.tags.get(BASELINE_MODEL)
    if best is None and held is not None and not _failed(held):
        best = _write_baseline(client, held)
    if best is None or version.tags.get(BETTER_THAN) == best:
        _write_baseline(client, version)


def _write_baseline(client: mlflow.MlflowClient, version: ModelVersion) -> str | None:
    """Record a version as the best there was; returns the ID of its model, None where it was never validated."""
    model_id, run_id = _model_id(client, version), version.tags.get(VALIDATE_RUN)
    if model_id is None or run_id is None:
        return None
    for tag, value in {BASELINE_MODEL: model_id, BASELINE_VERSION: version.version, BASELINE_RUN: run_id}.items():
        client.set_registered_model_tag(version.name, tag, str(value))
    return model_id
