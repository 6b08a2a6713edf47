"""encode: turn a corpus into embeddings.

Reads   a run of validate or log_model (run_id) and a corpus: text, CSV, TSV, JSON Lines or Parquet.
Writes  part-00000.parquet, ... (id, text, embedding) in corpus order and manifest.json, under embeddings/ in the
        run or in the folder `output`; metrics of rows, tokens and time.
Refuses a model whose validation failed, and an output folder that holds something already.

    mlflow run . -e encode -P run_id=<run of validate> -P corpus=texts.csv
    python -m steps.encode run_id=latest corpus.path=/data/texts.parquet output=/data/embeddings
"""

import contextlib
import shlex
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from steps.common import inputs, project, summary
from steps.common.errors import UserError


def check_validated(found, logger) -> None:
    """Obey the verdict that validate has written on the model.

    Raises:
        UserError: validation failed.
    """
    if found.validation == "failed":
        run_id = found.tags.get("validation_run_id")
        raise UserError(
            f"model {found.logged.model_id} failed its validation (run {run_id}), so it is not used. See report.html of that run; log a better model, or validate again with other thresholds."
        )
    if found.validation is None:
        logger.warning(
            "model %s was never validated; run validate first to know what it is worth", found.logged.model_id
        )


def load(cfg: DictConfig, found) -> tuple:
    """The backend that computes with a found model, and what is done with its vectors."""
    from steps.common import model as models
    from steps.common import pipeline

    folder = models.download(found)
    native = models.load_native(folder)
    backend = models.load_backend(
        found, folder, native, project.backend_settings(cfg.backend), cfg.embedding.prompt_name
    )
    cut = cfg.embedding.truncate_dim is not None
    options = pipeline.Options(
        dtype=cfg.embedding.dtype.name,
        truncate_dim=cfg.embedding.truncate_dim,
        # The model's own Normalize comes before the cut.
        normalize=cfg.embedding.normalize or (cut and models.normalizes(native)),
        rows_per_part=cfg.rows_per_part,
        keep_text=cfg.keep_text,
    )
    return backend, options


def main(cfg: DictConfig) -> None:
    corpus = cfg.corpus
    texts = inputs.open_corpus(corpus.path, corpus.format.name, corpus.text_column, corpus.id_column)
    output = inputs.open_output(cfg.output)
    with project.run("encode", cfg) as run, tempfile.TemporaryDirectory() as scratch:
        import mlflow

        from steps.common import model as models
        from steps.common import pipeline, shards

        found = models.find_model(cfg.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        project.tag_upstream(found.run_id, found.logged.model_id)
        check_validated(found, project.logger)
        backend, options = load(cfg, found)
        project.logger.info("encoding %d rows with %s", texts.rows, found.tags.get("hub_id", found.logged.name))
        folder = output or Path(scratch)
        # A part that goes into the run leaves this disk as soon as it is whole.
        on_part = project.mover_into_run() if output is None else None
        with contextlib.closing(backend):
            result = pipeline.encode_corpus(texts, backend, folder, options, on_part)

        facts = {
            "run_id": run.info.run_id,
            "upstream_run_id": found.run_id,
            "validation": found.validation,
            "model": found.describe(),
            "corpus": texts.describe(),
            "backend": {name: getattr(backend, name) for name in ("name", "precision", "device", "digest")},
            "options": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
            "versions": models.versions(),
            "code_commit": run.data.tags.get("mlflow.source.git.commit"),
            "normalized": options.normalize,
            **result.manifest(),
        }
        manifest = shards.write_manifest(folder, result.parts, facts)
        mlflow.log_artifact(str(manifest))
        if output is None:
            mlflow.log_artifact(str(manifest), "embeddings")
        where = str(output) if output else f"runs:/{run.info.run_id}/embeddings"
        models.log_data(texts, result, where, found)
        mlflow.set_tag("embeddings", where)
        print("sample embeddings")
        summary.show_embeddings(result.sample_texts, result.sample_embeddings)
        summary.show(
            "encode",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "backend": f"{backend.name} {backend.precision} on {backend.device}",
                **result.metrics(),
                "parts": len(result.parts),
                "embeddings": where,
            },
            shlex.join(["mlflow", "artifacts", "download", "-u", where, "-d", "embeddings"])
            if output is None
            else shlex.join(["ls", "-l", where]),
        )


if __name__ == "__main__":
    project.launch("encode", main)
