"""Log a model with its signature, its facts and where it came from."""

import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
from huggingface_hub import ModelCard
from mlflow.entities import LoggedModel
from mlflow.models import ModelSignature, infer_signature
from mlflow.models.model import ModelInfo
from mlflow.types import ParamSchema, ParamSpec
from sentence_transformers import SentenceTransformer

from steps.common.errors import UserError
from steps.common.model import bridge, embeddings_api
from steps.common.model.conf import ModelConf
from steps.common.model.facts import facts
from steps.common.model.find import ANSWERS_FOR, BRIDGES_FROM, BRIDGES_TO, EMBEDDINGS_API, FoundModel
from steps.common.model.source import Source

logger = logging.getLogger("steps")

# What the logged model needs to predict; versions are those installed now.
REQUIREMENTS = ("mlflow", "sentence-transformers", "transformers", "tokenizers", "torch", "numpy", "pandas")
BRIDGE_REQUIREMENTS = ("mlflow", "numpy", "pandas")

# Inference params that encode() takes and that leave its result float32 [n, dim]. mlflow passes the declared
# defaults on every call, so they are encode()'s own; infer_signature refuses None, so those come second.
PARAMS = {"batch_size": 32, "normalize_embeddings": False}

OPTIONAL_PARAMS = {"prompt_name": "string", "prompt": "string", "truncate_dim": "long"}


def load_source(source: Source, conf: ModelConf) -> SentenceTransformer:
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
            trust_remote_code=conf.trust_remote_code,
            prompts=conf.prompts or None,
            default_prompt_name=conf.default_prompt_name,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{source.name} in {source.folder} cannot be loaded: {error}") from error
    stored = {str(values.dtype).removeprefix("torch.") for values in model.parameters()} - {"float32"}
    if stored:
        logger.info("%s is stored in %s: logged in float32", source.name, ", ".join(sorted(stored)))
    return model.float()


def build_signature(examples: list[str], embeddings: np.ndarray) -> ModelSignature:
    """String in, float32 [-1, dim] out, and the inference params that encode() obeys.

    Args:
        embeddings: those of the examples, float32 [n, dim].
    """
    signature = infer_signature(examples, embeddings, params=PARAMS)
    optional = [ParamSpec(name, kind, None) for name, kind in OPTIONAL_PARAMS.items()]
    return ModelSignature(signature.inputs, signature.outputs, ParamSchema(signature.params.params + optional))


def requirements(names: Sequence[str] = REQUIREMENTS) -> list[str]:
    """Exact versions of what a logged model imports, without a build's local part (2.13.0+cpu)."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def read_license(folder: Path) -> str:
    """The licence that a model's card declares, such as apache-2.0; empty where there is no card, or it does not say."""
    try:
        declared = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.license
    except (OSError, ValueError):
        return ""
    return ", ".join(declared) if isinstance(declared, list) else declared or ""


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
        "license": read_license(source.folder),
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


def log_code(
    model: ModuleType,
    artifact: Path,
    *,
    signature: ModelSignature,
    example: Any,
    tags: dict[str, str],
    packages: Sequence[str],
    code_paths: list[str] | None = None,
    config: dict[str, Any] | None = None,
) -> ModelInfo:
    """Log a model that MLflow runs as code to the active run, under the name of its module.

    Args:
        artifact: the file or folder that the model loads, its ARTIFACT.
        example: an input, as mlflow takes it.
        tags: of the LoggedModel; they say what it was made of.
        packages: what it imports.
        code_paths: folders of code that it needs beside its module. config: its model_config.
    """
    return mlflow.pyfunc.log_model(
        name=model.__name__.rpartition(".")[2],
        python_model=str(model.__file__),
        artifacts={model.ARTIFACT: str(artifact)},
        signature=signature,
        input_example=example,
        pip_requirements=requirements(packages),
        tags=tags,
        code_paths=code_paths,
        model_config=config,
    )


def log_embeddings_api(
    model: SentenceTransformer, logged: LoggedModel, name: str, trust_remote_code: bool, example: str
) -> ModelInfo:
    """Log, in the run of a logged model, a second model that answers OpenAI's embeddings call with it.

    The run's tag `model_id`, which every later step follows, stays that of the first. No metric is logged with a model_id
    in a run of log_model: mlflow would attach it to the second model too.

    Args:
        name: what the answers call the model. example: a text for the input example.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / embeddings_api.ARTIFACT
        model.save(str(folder))
        info = log_code(
            embeddings_api,
            folder,
            signature=embeddings_api.signature(),
            example={"input": [example], "model": name, "encoding_format": "float"},
            tags={ANSWERS_FOR: logged.model_id, "hub_id": name},
            packages=REQUIREMENTS,
            config={"name": name, "trust_remote_code": trust_remote_code},
        )
    mlflow.set_tag(EMBEDDINGS_API, info.model_id)
    return info


def log_bridge(rotation: np.ndarray, old: FoundModel, new: FoundModel) -> ModelInfo:
    """Log, in the run that compared two models, a model that carries vectors of the old one over to the new one.

    Log it before metrics of the new model: mlflow attaches those to every model that the run logs later.

    Args:
        rotation: float32 [old dim, new dim], for `old @ rotation` (compatibility.fit_bridge).
    """
    tags = {BRIDGES_FROM: old.logged.model_id, BRIDGES_TO: new.logged.model_id}
    for side, model in (("from", old), ("to", new)):
        tags[f"bridges_{side}"] = model.registered or model.name
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "map.npy"
        np.save(file, rotation)
        return log_code(
            bridge,
            file,
            signature=bridge.signature(rotation.shape),
            example=np.zeros((1, len(rotation)), np.float32),
            tags=tags,
            packages=BRIDGE_REQUIREMENTS,
        )
