"""log_model: record a sentence-transformers model and its signature as an MLflow LoggedModel.

Reads   the model that conf/model names: an installed package, a folder or the Hub.
Writes  a LoggedModel (native flavor, signature, input example, pinned requirements, lineage tags) and
        reference.json, the embeddings of the examples by the source model, for validate to compare with; with
        serving.embeddings_api=true a second LoggedModel, embeddings_api, that answers OpenAI's embeddings call.

    mlflow run . -e log_model -P model=all-MiniLM-L6-v2
    python -m steps.log_model model=all-MiniLM-L6-v2
"""

from dataclasses import replace

from steps.common.launch.call import Call
from steps.common.launch.config import LogModelConf
from steps.common.launch.paths import local_path
from steps.common.launch.process import launch
from steps.common.model.source import Source, find_source


def open_inputs(call: Call[LogModelConf]) -> Source:
    """The folder of the model; raises UserError where it is missing, or its weights are not those of the config."""
    conf = call.conf.model
    path = None if conf.path is None else str(local_path(conf.path, "model.path"))
    return find_source(replace(conf, path=path))


if __name__ == "__main__":
    launch("log_model", open_inputs, manual=__doc__)

# The second half: what computes.

import logging

import mlflow
import numpy as np
from sentence_transformers import SentenceTransformer

from steps.common.errors import UserError
from steps.common.launch import summary
from steps.common.launch.commands import next_command
from steps.common.model.facts import facts
from steps.common.model.find import FoundModel
from steps.common.model.log import build_signature, load_source, log, log_embeddings_api
from steps.common.tracking import notes
from steps.common.tracking import run as runs
from steps.common.validation.checks import failed
from steps.common.validation.weights import check_weights

logger = logging.getLogger("steps")


def main(call: Call[LogModelConf], source: Source) -> None:
    conf, spec = call.conf, call.conf.model
    with runs.run("log_model", call.config, call.as_yaml) as run:
        logger.info("loading %s from %s", source.name, source.folder)
        model = load_source(source, spec)
        embeddings = embed_examples(model, conf.examples)
        signature = build_signature(conf.examples, embeddings)
        print(f"signature\n{signature}", flush=True)
        logged = log(
            model,
            source,
            signature=signature,
            examples=conf.examples,
            name=conf.artifact_name,
            expected_facts=spec.expected_facts,
        )
        found = FoundModel(run.info.run_id, logged)
        run.describe(*notes.of_log_model(found, next_command("encode", run, run_id=found.uri, corpus="texts.csv")))
        shown = {"run_id": run.info.run_id, "model_id": logged.model_id}
        shown["model_uri"] = f"runs:/{run.info.run_id}/{conf.artifact_name}"
        if conf.serving.embeddings_api:
            api = log_embeddings_api(model, logged, source.name, spec.trust_remote_code, conf.examples[0])
            shown["embeddings_api"] = f"models:/{api.model_id}"
        shown |= {"source": f"{source.name}@{source.revision or 'local'}", "weights_sha256": source.weights_sha256}
        reference = {"sentences": conf.examples, "embeddings": summary.as_json(embeddings.tolist())}
        mlflow.log_dict(reference, "reference.json")
        following = next_command("validate", run, run_id=run.info.run_id)
        summary.show("log_model", shown | facts(model), following)


def embed_examples(model: SentenceTransformer, examples: list[str]) -> np.ndarray:
    """The embeddings of the examples: float32 [n, dim].

    Raises UserError where the model cannot embed anything, as with the tokenizer of another model.
    """
    try:
        return model.encode(examples, show_progress_bar=False)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong inside a model, it cannot be logged
        misfits = ", ".join(
            f"{check.name}: {check.value}, expected {check.threshold}" for check in failed(check_weights(model))
        )
        raise UserError(
            f"the model loads, but cannot embed the examples of the config ({type(error).__name__}: {error}). {misfits or 'Its files do not belong together, or an example does not suit it'}."
        ) from error
