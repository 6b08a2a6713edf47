"""The outputs of encode, as their runs tell of them: tags that say what made them and where they are."""

import contextlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from pyarrow import fs

from steps.common.embeddings.manifest import MANIFEST
from steps.common.embeddings.origin import Origin
from steps.common.errors import UserError
from steps.common.model.find import MISSING
from steps.common.storage.output import Output
from steps.common.storage.place import OF_MLFLOW, locate
from steps.common.tracking.live import EMBEDDINGS, FinishedRunOutput
from steps.common.tracking.run import shorten

# Facts of the origin that a run has as tags, beside its model_id.
TAGGED = ("model_digest", "registered_version", "backend", "prompt")

# Tag of a run: folder or URI of its embeddings.
PLACE = "embeddings"

# What a run's status says of its output.
STATES = {"FINISHED": "whole", "RUNNING": "being written", "SCHEDULED": "being written"}
UNFINISHED, FINISHED_ELSEWHERE = "not whole", "whole, by another run"


@dataclass(frozen=True)
class EncodedOutput:
    """An output, as one run of encode tells of it; None is what the run does not say."""

    run_id: str
    # When the run ended: ISO 8601 in UTC, to the second.
    finished: str | None
    rows: int | None
    backend: str | None
    registered_version: str | None
    state: str
    place: str | None


def tag_origin(origin: Origin, where: str) -> None:
    """Tag the active run with what made its embeddings and where they are.

    Args:
        where: folder or URI of the embeddings.
    """
    facts = origin.facts()
    mlflow.set_tags({**{name: shorten(facts[name]) for name in TAGGED if name in facts}, PLACE: where})


def place_of(run_id: str) -> str:
    """Folder or URI of the embeddings that a run of encode has finished. Raises UserError for another run."""
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        raise UserError(
            f"reuse={run_id}: there is no such run on {mlflow.get_tracking_uri()}. Give the run ID of an encode, its output, or latest."
        ) from None
    place = run.data.tags.get(PLACE)
    if run.data.tags.get("step") != "encode" or place is None or run.info.status != "FINISHED":
        step = run.data.tags.get("step", "no step of this project")
        raise UserError(
            f"reuse={run_id} is a run of {step}, {run.info.status}; expected a finished encode. Give another run, an output, or latest."
        )
    return place


def newest_places(experiment_id: str, model_digest: str) -> list[str]:
    """Folders or URIs of what the finished encodes of an experiment have made with a model, the newest first."""
    runs = mlflow.search_runs(
        [experiment_id],
        filter_string=f"tags.step = 'encode' and tags.model_digest = '{model_digest}' and attributes.status = 'FINISHED'",
        run_view_type=ViewType.ACTIVE_ONLY,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return list(dict.fromkeys(run.data.tags[PLACE] for run in runs if PLACE in run.data.tags))


def open_place(where: str, scratch: Path) -> Output:
    """An output by folder or URI. What a run holds is read where it is, and where that cannot be reached, fetched file by file.

    Raises UserError for another artifact.
    """
    if where.partition(":/")[0] not in OF_MLFLOW:
        return Output(locate(where), scratch)
    held = re.fullmatch(rf"runs:/([^/]+)/{EMBEDDINGS}/?", where)
    if held is None:
        raise UserError(f"reuse={where} names no output of a run; expected runs:/<run of encode>/{EMBEDDINGS}.")
    place_of(held[1])
    artifacts = mlflow.MlflowClient().get_run(held[1]).info.artifact_uri
    with contextlib.suppress(UserError):
        place = locate(f"{artifacts}/{EMBEDDINGS}")
        if place.joined(MANIFEST).info().type == fs.FileType.File:
            return Output(place, scratch)
    return FinishedRunOutput(held[1], scratch)


def find_outputs(model_id: str) -> list[EncodedOutput]:
    """What encode has made with a model, in every experiment; the newest first."""
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.step = 'encode' and tags.model_id = '{model_id}'",
        run_view_type=ViewType.ACTIVE_ONLY,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    outputs = [_describe(run) for run in runs]
    # A run that was stopped, and the one that went on with its output.
    whole = {one.place for one in outputs if one.state == "whole"}
    return [
        replace(one, state=FINISHED_ELSEWHERE) if one.state == UNFINISHED and one.place in whole else one
        for one in outputs
    ]


def _describe(run: Run) -> EncodedOutput:
    tags, rows, ended = run.data.tags, run.data.metrics.get("encode/rows"), run.info.end_time
    return EncodedOutput(
        run_id=run.info.run_id,
        finished=datetime.fromtimestamp(ended / 1000, UTC).isoformat(timespec="seconds") if ended else None,
        rows=None if rows is None else int(rows),
        backend=tags.get("backend"),
        registered_version=tags.get("registered_version"),
        state=STATES.get(run.info.status, UNFINISHED),
        place=tags.get(PLACE),
    )
