"""The index that a run or a URI stands for."""

from dataclasses import replace
from pathlib import Path

import mlflow

from steps.common.embeddings.manifest import Manifest
from steps.common.errors import UserError, first_line
from steps.common.model.find import SCHEME, FoundModel, describe_run, download, find_model, find_run, get_logged
from steps.common.model.reference import COMPARED, REFERENCE, Reference, check_same, digest
from steps.common.model.semantic_search import ARTIFACT, SemanticSearch

# Tag of a run of index: its semantic_search model.
SEMANTIC_SEARCH = "semantic_search_model_id"


def find_index(run_id: str, *, experiment_id: str) -> str:
    """The URI of the semantic_search model of a run of index (by its ID, or `latest`); a models:/ URI is returned as it is.

    Raises:
        UserError: no such run, or a run that holds no index.
    """
    if run_id.startswith(SCHEME):
        return run_id
    run = find_run(run_id, preceding="index", experiment_id=experiment_id)
    model_id = run.data.tags.get(SEMANTIC_SEARCH)
    if model_id is None:
        raise UserError(
            f"run {run.info.run_id} holds no index ({describe_run(run)}). Give the ID of an index run that finished."
        )
    return f"{SCHEME}{model_id}"


def load_index(uri: str) -> SemanticSearch:
    """Load a semantic_search model; raises UserError where it cannot be read, or is a model of another kind."""
    try:
        model = mlflow.pyfunc.load_model(uri).unwrap_python_model()
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(
            f"{uri} cannot be loaded as an index ({first_line(error)}). Give the ID of a run of index."
        ) from None
    # The class is that of the file which MLflow has run, and not the one of this import.
    if type(model).__name__ != SemanticSearch.__name__:
        raise UserError(f"{uri} is not an index. Give the ID of a run of index, or its models:/... URI.")
    return model


def open_index(uri: str) -> tuple[Path, Reference]:
    """The folder of the index that a semantic_search model holds, on this machine, and the model that its queries are embedded with.

    Raises:
        UserError: it cannot be read, or is a model of another kind.
    """
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri)) / "artifacts" / ARTIFACT
        return folder, Reference.read(folder / REFERENCE)
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(
            f"{uri} cannot be read as an index ({first_line(error)}). Give the ID of a run of index, or its models:/... URI."
        ) from None


def find_embedding_model(model: str | None, manifest: Manifest, experiment_id: str) -> FoundModel:
    """The model of the config, else the one that the embeddings name; raises UserError where this server has none."""
    if model is not None:
        return find_model(model, preceding="log_model", experiment_id=experiment_id)
    logged = get_logged(mlflow.MlflowClient(), manifest.model["model_id"])
    if logged is None:
        raise UserError(
            f"the embeddings were made by model {manifest.model['model_id']} ({manifest.model.get('hub_id')}), and {mlflow.get_tracking_uri()} has no such model. Name a run or models:/... that holds it: -P embedding_model=<run>."
        )
    return FoundModel(logged.source_run_id or "", logged)


def refer_to(found: FoundModel) -> Reference:
    """A reference to a found model; raises UserError where its files are out of reach."""
    facts = {name: found.tags[name] for name in ("hub_id", *COMPARED) if name in found.tags}
    return Reference(found.logged.model_id, digest(download(found)), facts)


def refer_from(manifest: Manifest, found: FoundModel) -> Reference:
    """A reference to a model for the queries of stored embeddings; raises UserError where another one made them."""
    logged = get_logged(mlflow.MlflowClient(), manifest.model["model_id"])
    facts = logged.tags if logged is not None else manifest.model
    made = Reference(manifest.model["model_id"], manifest.plan["model"]["files"], facts)
    this = refer_to(found)
    check_same(made, this.digest, this.facts, found.uri)
    return replace(
        this,
        prompt=manifest.plan["model"]["prompt"],
        truncate_dim=manifest.plan["embedding"]["truncate_dim"],
        normalize=manifest.normalized,
    )
