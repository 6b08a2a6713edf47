"""The outputs of encode, as their runs tell of them: tags that say what made them and where they are."""

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import Run, ViewType

from steps.common.embeddings.manifest import Manifest
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.verify import check_whole
from steps.common.errors import UserError, first_line
from steps.common.model.find import describe_run
from steps.common.storage.output import Output
from steps.common.storage.place import OF_MLFLOW, locate
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


@dataclass(frozen=True)
class Whole:
    """An output that matches its manifest, and where it is."""

    where: str
    output: Output
    manifest: Manifest


def tag_origin(origin: Origin, where: str) -> None:
    """Tag the active run with what made its embeddings and where they are.

    Args:
        where: folder or URI of the embeddings.
    """
    facts = origin.facts()
    mlflow.set_tags({**{name: shorten(facts[name]) for name in TAGGED if name in facts}, PLACE: where})


def open_output(where: str, scratch: Path) -> Output:
    """The output at a place; one that a run holds is downloaded. Raises UserError where the run does not hold it."""
    if where.partition(":/")[0] in OF_MLFLOW:
        try:
            # Two outputs have files of the same names.
            where = mlflow.artifacts.download_artifacts(where, dst_path=tempfile.mkdtemp(dir=scratch))
        except (mlflow.MlflowException, OSError) as error:
            raise UserError(f"output {where} cannot be read from its run: {first_line(error)}.") from None
    return Output(locate(where), scratch)


def open_whole(where: str | Run, scratch: Path) -> Whole:
    """The output at a place, or that a run of encode has made; raises UserError for another run, and where it is not whole."""
    where = where if isinstance(where, str) else find_place(where)
    output = open_output(where, scratch)
    return Whole(where, output, check_whole(output, where))


def find_place(run: Run) -> str:
    """Folder or URI of the embeddings that a run of encode has made; raises UserError for another run."""
    tags = run.data.tags
    if tags.get("step") == "encode" and PLACE in tags and run.info.status == "FINISHED":
        return tags[PLACE]
    raise UserError(
        f"run {run.info.run_id} holds no embeddings ({describe_run(run)}). Give the ID of an encode run that finished, or the folder or URI of its embeddings."
    )


def find_outputs(model_id: str) -> list[EncodedOutput]:
    """What encode has made with a model, in every experiment; the newest first."""
    outputs = [_describe(run) for run in search_encodes(f"tags.model_id = '{model_id}'")]
    # A run that was stopped, and the one that went on with its output.
    whole = {one.place for one in outputs if one.state == "whole"}
    return [
        replace(one, state=FINISHED_ELSEWHERE) if one.state == UNFINISHED and one.place in whole else one
        for one in outputs
    ]


def search_encodes(filter: str, experiment_id: str | None = None) -> list[Run]:
    """The runs of encode that mlflow's filter lets through, of an experiment or of all, the newest first."""
    return mlflow.search_runs(
        None if experiment_id is None else [experiment_id],
        search_all_experiments=experiment_id is None,
        filter_string=f"tags.step = 'encode' and {filter}",
        run_view_type=ViewType.ACTIVE_ONLY,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )


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
