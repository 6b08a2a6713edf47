"""What validation says of a model: tags, and the units of its scores."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from steps.common.embeddings.plan import versions
from steps.common.errors import UserError
from steps.common.model.find import BACKENDS, VALIDATION, VALIDATION_RUN, FoundModel
from steps.common.quality.scoring import Score
from steps.common.quality.trials import Trial
from steps.common.tracking.run import COMMIT

# Artifact of a run of validate: what each score was made from, so that a model that is deleted can still be compared with.
UNITS = "units.json"


def lineage(found: FoundModel, run_id: str) -> dict[str, str]:
    """Where a model and its validation come from: runs, commits, digests, versions of libraries."""
    client = mlflow.MlflowClient()
    made = client.get_run(found.logged.source_run_id) if found.logged.source_run_id else None
    known = {
        "validated": datetime.now(UTC).isoformat(timespec="seconds"),
        "validate run": run_id,
        "log_model run": found.logged.source_run_id or "",
        "upstream run": found.run_id,
        "code (validate)": client.get_run(run_id).data.tags.get(COMMIT, ""),
        "code (log_model)": made.data.tags.get(COMMIT, "") if made else "",
        **found.describe(),
        "parameters_sha256": found.tags.get("parameters_sha256", ""),
        "tokenizer_sha256": found.tags.get("tokenizer_sha256", ""),
        **versions(),
    }
    return {name: value for name, value in known.items() if value}


def reference(found: FoundModel) -> dict:
    """The input examples, and their embeddings by the source model when log_model ran.

    Returns:
        {"sentences": [n texts], "embeddings": [n lists of dim numbers]}

    Raises:
        UserError: the run that logged the model has no reference.json (it was not made by log_model).
    """
    try:
        return mlflow.artifacts.load_dict(f"runs:/{found.logged.source_run_id}/reference.json")
    except MlflowException:
        raise UserError(
            f"run {found.logged.source_run_id} has no reference.json, the embeddings to compare the model with. Log the model with mlflow run . -e log_model."
        ) from None


def log_units(scores: Sequence[Score], backend: str) -> None:
    """Record the units of each score, such as the cosine of each pair, by the fingerprint of its suite.

    Args:
        backend: name/precision of what embedded the texts.
    """
    units = {score.suite.fingerprint: score.units.tolist() for score in scores if not score.undefined}
    mlflow.log_dict({"backend": backend, "versions": versions(), "units": units}, UNITS)


def read_units(found: FoundModel, backend: str | None = None) -> dict[str, np.ndarray]:
    """The units that the last validation of a model recorded, by the fingerprint of the suite: float64 [units of the suite].

    Args:
        backend: only what this one made (name/precision), with the libraries installed here; None takes any.
    """
    # A model that was never validated has none, which is known without asking for them.
    if VALIDATION_RUN not in found.tags:
        return {}
    try:
        record = mlflow.artifacts.load_dict(f"runs:/{found.tags[VALIDATION_RUN]}/{UNITS}")
        if backend is not None and (record["backend"], record["versions"]) != (backend, versions()):
            return {}
        return {fingerprint: np.array(values, np.float64) for fingerprint, values in record["units"].items()}
    except (MlflowException, AttributeError, KeyError, TypeError, ValueError):
        # There is none, or it has another format.
        return {}


def tag_validation(found: FoundModel, verdict: str, run_id: str) -> None:
    """Write the verdict on the LoggedModel, where encode looks for it."""
    mlflow.MlflowClient().set_logged_model_tags(found.logged.model_id, {VALIDATION: verdict, VALIDATION_RUN: run_id})


def tag_backends(found: FoundModel, trials: Sequence[Trial]) -> None:
    """Write on the LoggedModel which backends passed, for encode's backend=auto: what earlier validations found of others stays.

    Args:
        trials: the backends that were tried now; none of a model that failed, of which no backend may be used.
    """
    tried = {trial.backend for trial in trials}
    before = json.loads(found.tags.get(BACKENDS, "{}")) if trials else {}
    passed = {name: facts for name, facts in before.items() if name not in tried}
    for trial in trials:
        if trial.passed:
            passed[trial.backend] = {"rows_per_second": trial.rows_per_second, "digest": trial.digest}
    mlflow.MlflowClient().set_logged_model_tags(found.logged.model_id, {BACKENDS: json.dumps(passed)})
