"""The old output that an encode reuses, found by a run or by `latest`."""

import contextlib
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
from pyarrow import fs

from steps.common.embeddings.manifest import MANIFEST, Reused
from steps.common.embeddings.reuse import LATEST, RUN_ID, Asked, Reuse, check_alike, find_unlike, open_reuse
from steps.common.errors import UserError
from steps.common.model.find import ask
from steps.common.storage.output import Output
from steps.common.storage.place import OF_MLFLOW, Place, locate
from steps.common.tracking.live import EMBEDDINGS, FinishedRunOutput
from steps.common.tracking.outputs import PLACE, find_place, search_encodes

logger = logging.getLogger("steps")


def open_asked(asked: Asked, plan: dict[str, Any], scratch: Path) -> Asked:
    """What was asked for, opened where it is named by a run, before a model is loaded; `plan`: what is known of it.

    `scratch`: a folder for what has to be fetched. Raises UserError for an output that cannot be reused; an encode that is
    resumed may have lost it, and computes what is missing.
    """
    reuse, noted = asked.reuse, asked.noted
    if reuse is None and asked.given and not asked.is_place and (asked.given != LATEST or noted):
        where = noted.output if asked.given == LATEST and noted else asked.given
        try:
            where = place_of(where) if RUN_ID.fullmatch(where) else where
            reuse = open_reuse(open_place(where, scratch), where)
        except UserError as error:
            if noted is None:
                raise
            logger.warning("%s Texts without a stored vector are computed.", error)
    if reuse is not None:
        check_alike(reuse, plan)
    return replace(asked, reuse=reuse)


def choose_reuse(
    asked: Asked, plan: dict[str, Any], *, own: Place | None, experiment_id: str, scratch: Path
) -> tuple[Reuse | None, Reused | None]:
    """The old output that is reused, and what a new one notes of it; `latest` is found now.

    Args:
        plan: the whole plan of the new output.
        own: where the new output is.

    Raises UserError for an output that cannot be reused.
    """
    reuse = asked.reuse
    if reuse is None and asked.given == LATEST and asked.noted is None:
        reuse = _find_latest(experiment_id, plan, own, scratch)
    if reuse is None:
        return None, asked.noted if asked.given else None
    check_alike(reuse, plan)
    logger.info("reusing %s, %d rows", reuse.where, reuse.manifest.rows)
    reuse.log_other_versions(plan)
    return reuse, reuse.record


def _find_latest(experiment_id: str, plan: dict[str, Any], own: Place | None, scratch: Path) -> Reuse | None:
    """The newest output that may be reused of what encode has made in an experiment; None where there is none."""
    for where in _newest_places(experiment_id, plan["model"]["files"]):
        if where == str(own):
            continue
        try:
            reuse = open_reuse(open_place(where, scratch), where)
        except UserError as error:
            logger.warning("reuse=latest passes over %s: %s", where, error)
            continue
        if not find_unlike(reuse, plan):
            return reuse
    logger.warning(
        "reuse=latest: no finished encode of this experiment has this model and these options, so every text is computed"
    )
    return None


def place_of(run_id: str) -> str:
    """Folder or URI of the embeddings that a run of encode has finished. Raises UserError for another run."""
    run = ask(lambda: mlflow.MlflowClient().get_run(run_id))
    if run is None:
        raise UserError(
            f"reuse={run_id}: there is no such run on {mlflow.get_tracking_uri()}. Give the run ID of an encode, its output, or latest."
        )
    return find_place(run)


def _newest_places(experiment_id: str, model_digest: str) -> list[str]:
    """Folders or URIs of what the finished encodes of an experiment have made with a model, the newest first."""
    made = f"tags.model_digest = '{model_digest}' and attributes.status = 'FINISHED'"
    runs = search_encodes(made, experiment_id)
    return list(dict.fromkeys(run.data.tags[PLACE] for run in runs if PLACE in run.data.tags))


def open_place(where: str, scratch: Path) -> Output:
    """An output by folder or URI. What a run holds is read where it is, and where that cannot be reached, fetched file by file;
    what it has written elsewhere is read there.

    `scratch`: for files that are fetched through mlflow. Raises UserError for another artifact.
    """
    if where.partition(":/")[0] not in OF_MLFLOW:
        return Output(locate(where))
    held = re.fullmatch(rf"runs:/([^/]+)/{EMBEDDINGS}/?", where)
    if held is None:
        raise UserError(f"reuse={where} names no output of a run; expected runs:/<run of encode>/{EMBEDDINGS}.")
    elsewhere = place_of(held[1])
    if elsewhere.partition(":/")[0] not in OF_MLFLOW:
        return Output(locate(elsewhere))
    artifacts = mlflow.MlflowClient().get_run(held[1]).info.artifact_uri
    with contextlib.suppress(UserError):
        place = locate(f"{artifacts}/{EMBEDDINGS}")
        if place.joined(MANIFEST).info().type == fs.FileType.File:
            return Output(place)
    return FinishedRunOutput(held[1], scratch)
