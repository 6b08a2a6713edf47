"""THE model-and-signature module: load a source model, build its signature, log it, find it again, load it."""

import contextlib
import filecmp
import hashlib
import importlib.metadata
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from fastapi import FastAPI
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ParamSchema, ParamSpec
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from steps.common import corpus, embeddings_api, files, identity, quality, sanity
from steps.common.backends import Backend, Settings, load
from steps.common.backends.torch import find_tasks
from steps.common.errors import UserError
from steps.common.found import ANSWERS_FOR, BACKENDS, VALIDATION, FoundModel
from steps.common.inputs import SAMPLE_CORPUS
from steps.common.pipeline import Result
from steps.common.plan import versions
from steps.common.scoring import Score
from steps.common.source import Source
from steps.common.trials import ByRole, Trial

logger = logging.getLogger("steps")

# What the logged model needs to predict; versions are those installed now.
REQUIREMENTS = ("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch", "numpy", "pandas")

# Inference params that encode() takes and that leave its result float32 [n, dim]. mlflow passes the declared
# defaults on every call, so they are encode()'s own; infer_signature refuses None, so those come second.
PARAMS = {"batch_size": 32, "normalize_embeddings": False}
OPTIONAL_PARAMS = {"prompt_name": "string", "prompt": "string", "truncate_dim": "long"}

# Tag of a run of log_model: the LoggedModel that answers OpenAI's embeddings call for its model.
EMBEDDINGS_API = "embeddings_api_model_id"

# What a model raises over an input that its signature rules out.
Refusal = MlflowException

# Folder of a LoggedModel that holds what was converted from it.
CONVERTED = "converted"


def load_source(
    source: Source, *, trust_remote_code: bool, prompts: dict[str, str], default_prompt_name: str | None
) -> SentenceTransformer:
    """Load a model on the CPU in float32, with the prompts of the config in place of its own if there are any.

    Weights that are stored in half precision would be computed in it, and their embeddings would be float16: what is
    logged keeps its values, and computes in float32.

    Raises:
        UserError: files that do not make a model, or code in it that nobody allowed to run.
    """
    try:
        model = SentenceTransformer(
            str(source.folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            prompts=prompts or None,
            default_prompt_name=default_prompt_name,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{source.name} in {source.folder} cannot be loaded: {error}") from error
    stored = {str(values.dtype).removeprefix("torch.") for values in model.parameters()} - {"float32"}
    if stored:
        logger.info("%s is stored in %s: logged in float32", source.name, ", ".join(sorted(stored)))
    return model.float()


def embed_examples(model: SentenceTransformer, examples: list[str]) -> np.ndarray:
    """The embeddings of the examples: float32 [n, dim].

    Raises:
        UserError: the model cannot embed anything, as where its tokenizer is another model's.
    """
    try:
        return model.encode(examples, show_progress_bar=False)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong inside a model, it cannot be logged
        misfits = ", ".join(
            f"{check.name}: {check.value}, expected {check.threshold}"
            for check in quality.failed(sanity.check_weights(model))
        )
        raise UserError(
            f"the model loads, but cannot embed the examples of the config ({type(error).__name__}: {error}). {misfits or 'Its files do not belong together, or an example is none for it'}."
        ) from error


def facts(model: SentenceTransformer) -> dict[str, str]:
    """What identifies a model: dimension, longest input, pooling, modules, and digests of its tokenizer and parameters."""
    pooling = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    return {
        "dimension": str(model.get_embedding_dimension()),
        "max_seq_length": str(model.max_seq_length),
        "pooling": "+".join(mode if isinstance(mode, str) else "+".join(mode) for mode in pooling) or "none",
        "normalizes": str(normalizes(model)).lower(),
        "modules": " > ".join(type(module).__name__ for module in model),
        "parameters": str(sum(parameter.numel() for parameter in model.parameters())),
        "vocabulary": str(len(identity.vocabulary(model))),
        "tokenizer_sha256": identity.tokenizer_digest(model),
        "parameters_sha256": identity.parameters_digest(model),
    }


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the model's own embeddings have length 1."""
    return any(isinstance(module, Normalize) for module in model)


def build_signature(examples: list[str], embeddings: np.ndarray) -> ModelSignature:
    """String in, float32 [-1, dim] out, and the inference params that encode() obeys.

    Args:
        embeddings: those of the examples, float32 [n, dim].
    """
    signature = infer_signature(examples, embeddings, params=PARAMS)
    optional = [ParamSpec(name, kind, None) for name, kind in OPTIONAL_PARAMS.items()]
    return ModelSignature(signature.inputs, signature.outputs, ParamSchema(signature.params.params + optional))


def requirements() -> list[str]:
    """Exact versions of what the logged model imports, without a build's local part (2.13.0+cpu)."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]


def log(
    model: SentenceTransformer,
    source: Source,
    *,
    signature: ModelSignature,
    examples: list[str],
    name: str,
    expected_facts: dict[str, str],
) -> LoggedModel:
    """Log a model to the active run, with its source and its facts as tags.

    Args:
        expected_facts: those that validate requires of the model.
    """
    tags = {
        "hub_id": source.name,
        "revision": source.revision or "",
        "weights_sha256": source.weights_sha256,
        "expected_facts": json.dumps(expected_facts),
        **facts(model),
    }
    # The flavor records this attribute as source_model_name; a folder of this machine would mean nothing elsewhere.
    if model.transformers_model is not None:
        model.transformers_model.name_or_path = source.name
    info = mlflow.sentence_transformers.log_model(
        model=model,
        name=name,
        signature=signature,
        input_example=examples,
        pip_requirements=requirements(),
        tags=tags,
    )
    mlflow.set_tags({"model_id": info.model_id, **tags})
    return mlflow.get_logged_model(info.model_id)


def log_embeddings_api(
    model: SentenceTransformer, logged: LoggedModel, name: str, trust_remote_code: bool, example: str
) -> ModelInfo:
    """Log, in the run of a logged model, a second model that answers OpenAI's embeddings call with it.

    The run's tag `model_id`, which every later step follows, stays that of the first. No metric is logged with a model_id
    in a run of log_model: mlflow would attach it to the second model too.

    Args:
        name: what the answers call the model. example: a text for the input example.
    """
    info = embeddings_api.log(
        model,
        name,
        tags={ANSWERS_FOR: logged.model_id, "hub_id": name},
        requirements=requirements(),
        trust_remote_code=trust_remote_code,
        example=example,
    )
    mlflow.set_tag(EMBEDDINGS_API, info.model_id)
    return info


def load_native(folder: Path) -> SentenceTransformer:
    """Load a logged model as SentenceTransformer, on the CPU; a backend moves it to where it computes."""
    return mlflow.sentence_transformers.load_model(str(folder)).to("cpu")


def load_pyfunc(folder: Path) -> PyFuncModel:
    """Load a logged model as pyfunc, on the CPU too, so that both can be compared number by number."""
    pyfunc = mlflow.pyfunc.load_model(str(folder))
    pyfunc.get_raw_model().to("cpu")
    return pyfunc


def load_embeddings_api(found: FoundModel) -> PyFuncModel | None:
    """The model that was logged beside this one to answer OpenAI's embeddings call; None where there is none."""
    client = mlflow.MlflowClient()
    tags = client.get_run(found.run_id).data.tags if found.run_id else {}
    # A run may hold several models.
    if EMBEDDINGS_API not in tags or tags.get("model_id") != found.logged.model_id:
        return None
    return mlflow.pyfunc.load_model(f"models:/{tags[EMBEDDINGS_API]}")


def scoring_app(pyfunc: PyFuncModel) -> FastAPI:
    """What `mlflow models serve` runs: an ASGI app."""
    return scoring_server.init(pyfunc)


class ConvertedStore:
    """Converted models, kept among the files of the LoggedModel they were made from (a backends.Store)."""

    def __init__(self, found: FoundModel, folder: Path):
        """`folder` is where the model was downloaded to."""
        self._found, self._folder = found, folder / CONVERTED

    def find(self, name: str) -> Path | None:
        """The folder that was kept under this name; None where there is none."""
        folder = self._folder / name
        return folder if folder.is_dir() else None

    def keep(self, name: str, folder: Path) -> Path:
        """Upload a folder; where the artifact store is this disk, that is where it is read from."""
        model_id = self._found.logged.model_id
        try:
            mlflow.MlflowClient().log_model_artifacts(model_id, str(folder), f"{CONVERTED}/{name}")
        except (MlflowException, OSError) as error:
            logger.warning("%s is not kept with model %s and will be converted again: %s", name, model_id, error)
        kept = self._folder / name
        if not _same_files(folder, kept):
            # The model was downloaded, or the store has taken nothing.
            try:
                shutil.copytree(folder, kept, dirs_exist_ok=True)
            except OSError:
                kept = Path(tempfile.mkdtemp(prefix="converted-")) / name
                shutil.copytree(folder, kept)
        return kept


def _same_files(first: Path, second: Path) -> bool:
    """Whether every file of `first` is in `second`, byte for byte."""
    names = [path.name for path in first.iterdir()]
    return second.is_dir() and filecmp.cmpfiles(first, second, names, shallow=False)[0] == names


def load_backend(
    found: FoundModel,
    folder: Path,
    model: SentenceTransformer,
    settings: Settings,
    *,
    prompt_name: str | None = None,
    task: str | None = None,
) -> Backend:
    """Load a backend for a logged model; what was converted for it before is taken from the model's files.

    Args:
        folder: where the model was downloaded to. model: the model in it.

    Raises:
        UserError: as backends.load.load_backend.
    """
    return load.load_backend(
        settings,
        model,
        store=ConvertedStore(found, folder),
        calibration=calibration_texts,
        prompt_name=prompt_name,
        task=task,
        passed=found.passed_backends,
    )


def load_by_role(
    stack: contextlib.ExitStack, found: FoundModel, folder: Path, model: SentenceTransformer, settings: Settings
) -> ByRole:
    """A backend for texts in any role (as load_backend); the stack closes what is loaded."""

    def load(prompt_name: str | None, task: str | None) -> Backend:
        backend = load_backend(found, folder, model, settings, prompt_name=prompt_name, task=task)
        return stack.enter_context(contextlib.closing(backend))

    return ByRole(load, model.prompts, model.default_prompt_name, find_tasks(model))


def sample_topics() -> tuple[list[str], list[str]]:
    """The texts of the sample corpus, and the topic of each."""
    texts: list[str] = []
    topics: list[str] = []
    for columns in corpus.read_columns(files.locate(SAMPLE_CORPUS), "csv", ["text", "topic"], 1000):
        texts += columns[0].to_pylist()
        topics += columns[1].to_pylist()
    return texts, topics


def calibration_texts() -> list[str]:
    """The sample corpus, and its texts four by four: what int8 ranges are measured on. English; short and long."""
    texts, _ = sample_topics()
    return texts + [" ".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]


def lineage(found: FoundModel, run_id: str) -> dict[str, str]:
    """Where a model and its validation come from: runs, commits, digests, versions of libraries."""
    client = mlflow.MlflowClient()
    made = client.get_run(found.logged.source_run_id) if found.logged.source_run_id else None
    commit = "mlflow.source.git.commit"
    known = {
        "validated": datetime.now(UTC).isoformat(timespec="seconds"),
        "validate run": run_id,
        "log_model run": found.logged.source_run_id or "",
        "upstream run": found.run_id,
        "code (validate)": client.get_run(run_id).data.tags.get(commit, ""),
        "code (log_model)": made.data.tags.get(commit, "") if made else "",
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


def input_example(folder: Path) -> list[str]:
    """The sentences that were logged with the model as its input example."""
    return json.loads((folder / "input_example.json").read_text())


def bad_inputs() -> dict[str, object]:
    """Inputs that `string` in the signature rules out, by name."""
    return {
        "number": 3,
        "list_of_numbers": [1, 2],
        "column_of_numbers": pd.DataFrame({"text": [1.5, 2.5]}),
        "matrix": np.zeros((2, 2)),
        "nothing": None,
    }


def tag_validation(found: FoundModel, verdict: str, run_id: str) -> None:
    """Write the verdict on the LoggedModel, where encode looks for it."""
    mlflow.MlflowClient().set_logged_model_tags(
        found.logged.model_id, {VALIDATION: verdict, "validation_run_id": run_id}
    )


def tag_backends(found: FoundModel, trials: list[Trial]) -> None:
    """Write on the LoggedModel which backends passed, for encode's backend=auto."""
    passed = {
        trial.backend: {"rows_per_second": trial.rows_per_second, "digest": trial.digest}
        for trial in trials
        if trial.passed
    }
    mlflow.MlflowClient().set_logged_model_tags(found.logged.model_id, {BACKENDS: json.dumps(passed)})


def log_validation(found: FoundModel, metrics: dict[str, float], scores: Sequence[Score]) -> None:
    """Log the metrics of validate, linked to the model; those of a suite are linked to the suite as well."""
    mlflow.log_metrics(metrics, model_id=found.logged.model_id)
    for score in scores:
        suite = score.suite
        dataset = from_pandas(
            pd.DataFrame(suite.columns),
            source=dataset_source(str(suite.path)),
            name=suite.name,
            digest=suite.digest[:36],
        )
        mlflow.log_input(dataset, context="validation")
        mlflow.log_metrics(score.as_metrics(), model_id=found.logged.model_id, dataset=dataset)


def log_corpus(texts: corpus.Corpus) -> None:
    """Link a corpus to the active run as a dataset."""
    first = texts.sources[0].place
    where = str(first) if len(texts.sources) == 1 else str(first).rpartition("/")[0]
    name = where.rstrip("/").rpartition("/")[2]
    _log_dataset(where, name, _joint_digest(texts.sources), "corpus")


def log_data(texts: corpus.Corpus, result: Result, where: str, found: FoundModel) -> None:
    """Link the corpus and the embeddings to the active run as datasets, and its metrics to the model.

    Args:
        where: folder or URI of the embeddings.
    """
    log_corpus(texts)
    _log_dataset(where, "embeddings", _joint_digest(result.parts), "embeddings")
    mlflow.log_metrics(result.metrics(), model_id=found.logged.model_id)


def _log_dataset(where: str, name: str, digest: str, context: str) -> None:
    dataset = MetaDataset(dataset_source(where), name=name, digest=digest)
    mlflow.log_input(dataset, context=context)


def _joint_digest(parts: Sequence) -> str:
    """One digest for several files that each have a `sha256`; mlflow takes at most 36 characters."""
    return hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()[:36]


def dataset_source(where: str) -> DatasetSource:
    """The source of a dataset, as mlflow records it, from its path or URI."""
    # Most object stores mlflow resolves with their own libraries only, which the project does not need.
    if "://" in where or where.startswith("runs:/"):
        return CodeDatasetSource(tags={"uri": where})
    # Local paths match two of mlflow's types, and it warns.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        return resolve_dataset_source(where)
