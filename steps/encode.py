"""encode: turn a corpus into embeddings.

Reads   a run of validate or log_model (run_id) and a corpus: text, CSV, TSV, JSON Lines, Parquet, Arrow or ORC, on this
        machine or in an object store.
Writes  part-00000.parquet, ... (id, text, embedding) in corpus order, rejects.parquet (the rows without an embedding)
        and manifest.json, under embeddings/ in the run or in the folder or URI `output`; metrics of rows, tokens and time.
Resumes the same command on the same `output` goes on where it was stopped, and computes no finished part again.
Refuses a model whose validation failed, an output of another model, corpus or option, and one that is being written.

    mlflow run . -e encode -P run_id=<run of validate> -P corpus=texts.csv -P output=embeddings
    python -m steps.encode run_id=latest corpus.path=s3://bucket/texts/ output=s3://bucket/embeddings
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from steps.common import inputs, project, summary
from steps.common.errors import UserError

# What of a plan may differ, where accept_changes names it.
ACCEPTABLE = ("code", "versions")


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
    """What computes with a found model: the backend, the chunker, what is done with the vectors, and the plan's share."""
    from steps.common import encoder
    from steps.common import model as models
    from steps.common.backends.torch import check_task, find_input, find_prompt
    from steps.common.chunks import Chunker

    folder = models.download(found)
    native = models.load_native(folder)
    settings, embedding = project.backend_settings(cfg.backend), cfg.embedding
    prompt, task = find_prompt(native, embedding.prompt_name), embedding.task
    check_task(native, task)
    chunks = cfg.corpus.long_text.name == "chunk"
    chunker = Chunker(find_input(native, task), prompt, cfg.corpus.chunk_overlap) if chunks else None
    backend = models.load_backend(found, folder, native, settings, embedding.prompt_name, task)
    cut = embedding.truncate_dim is not None
    options = encoder.Options(
        dtype=embedding.dtype.name,
        truncate_dim=embedding.truncate_dim,
        # The model's own Normalize comes before the cut.
        normalize=embedding.normalize or (cut and models.normalizes(native)),
        rows_per_part=cfg.rows_per_part,
        keep_text=cfg.keep_text,
        format=cfg.output_format.name,
        row_per_chunk=chunks and cfg.corpus.chunk_pooling.name == "none",
        normalize_mean=models.normalizes(native),
    )
    plan = {
        "model": {"files": models.digest(folder), "prompt": prompt},
        "backend": {
            **{name: getattr(backend, name) for name in ("name", "precision", "digest")},
            "device": backend.device.partition(":")[0],
            "batch_size": settings.batch_size,
            "batch_tokens": settings.batch_tokens,
        },
        "versions": models.versions(),
    }
    return backend, chunker, options, plan


def plan_of(cfg: DictConfig, texts, computed: dict) -> dict:
    """All that decides the result: two encodes of one plan write the same."""
    from steps.common.plan import code_digest

    given = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    corpus = {key: value for key, value in given["corpus"].items() if key not in ("path", "format")}
    sources = {
        f"{i:05d} {source.place.name}": f"{source.sha256} ({source.rows} rows)"
        for i, source in enumerate(texts.sources)
    }
    options = {key: given[key] for key in ("output_format", "rows_per_part", "keep_text", "embedding")}
    plan = {**computed, "corpus": {"format": texts.format, **corpus, "sources": sources}, **options}
    plan["code"] = code_digest(project.PROJECT / "steps")
    # As it is read back.
    return json.loads(json.dumps(plan))


@contextlib.contextmanager
def opened(place, scratch: Path, run_id: str) -> Iterator[tuple]:
    """The output and what is to be called before each of its parts; nobody else writes to it meanwhile."""
    from steps.common.output import Claim, Output
    from steps.common.tracking import RunOutput

    if place is None:
        output = RunOutput(run_id, scratch)
        with contextlib.closing(output):
            output.make()
            yield output, lambda: None
        return
    output = Output(place, scratch)
    with Claim(output, run_id) as claim:
        output.make()
        try:
            yield output, claim.check
        except BaseException:
            with contextlib.suppress(UserError):
                claim.check()
                forget_restored(output)
            raise


def forget_restored(output) -> None:
    """Remove what was restored of an output that is whole, or was: its manifest says the same, and more."""
    from steps.common import manifest as manifests

    if manifests.held(output) == "whole" and manifests.known_manifest(output) is not None:
        output.clear_work()


def begin(output, plan: dict, run_id: str, accepted: list[str], make_ranges):
    """Note the plan in an output, or go on with one that has the same: the ranges of int8, and the runs so far.

    Raises:
        UserError: the output was begun with another plan.
    """
    import numpy as np

    from steps.common import manifest as manifests
    from steps.common import plan as plans

    state = manifests.held(output)
    before = manifests.restore(output) if state == "whole" else output.read_json(manifests.PLAN)
    is_lost = state != "new" and not manifests.is_plan(before)
    if is_lost:
        project.logger.warning("what output %s was made of cannot be read, so all of its parts are made again", output)
        output.clear_work()
    if state == "new" or is_lost:
        before = {"plan": plan, "runs": before["runs"] if manifests.is_plan(before) else [], "ranges": None}
    different = plans.differences(before["plan"], plan, tuple(accepted))
    if different:
        only = {line.partition(":")[0].partition(".")[0] for line in different}
        remedy = (
            f", or accept that with -P accept_changes=[{','.join(sorted(only))}]" if only <= set(ACCEPTABLE) else ""
        )
        raise UserError(
            f"output {output} was begun with something else: {plans.shown(different)}. Go on with what it was begun with, or give another output{remedy}."
        )
    ranges = np.array(before["ranges"], np.float32) if before["ranges"] else make_ranges()
    runs = [*before["runs"], run_id]
    noted = {"plan": plan, "runs": runs, "ranges": None if ranges is None else ranges.tolist()}
    output.write_text(manifests.PLAN, json.dumps(noted))
    if is_lost:
        # From here on it is an output that was stopped.
        for name in (manifests.MANIFEST, manifests.COPY):
            if output.size(name) is not None:
                output.delete(name)
    return ranges, runs


def encode(cfg: DictConfig, run, found, texts, place, scratch: Path) -> tuple:
    """Compute and write, up to the manifest: the result, the manifest, what computed it, and where it is."""
    from steps.common import encoder, pipeline, tracking
    from steps.common import manifest as manifests

    backend, chunker, options, computed = load(cfg, found)
    plan, run_id = plan_of(cfg, texts, computed), run.info.run_id
    with contextlib.closing(backend), opened(place, scratch, run_id) as (output, check):
        if cfg.corpus.long_text.name == "error":
            encoder.refuse_long(texts, backend)

        def ranges_of_int8():
            return encoder.sample_ranges(texts, backend, options, chunker) if options.dtype == "int8" else None

        ranges, runs = begin(output, plan, run_id, list(cfg.accept_changes), ranges_of_int8)
        tracking.close_lost_runs(runs, by=run_id)
        project.logger.info("encoding %d rows with %s", texts.rows, found.tags.get("hub_id", found.logged.name))
        with tracking.LiveMetrics(run_id) as live:
            result = pipeline.encode_corpus(
                texts, backend, output, options, chunker=chunker, ranges=ranges, before_part=check, on_rows=live.rows
            )
        facts = {
            "run_id": run_id,
            "upstream_run_id": found.run_id,
            "validation": found.validation,
            "model": found.describe(),
            "corpus": texts.describe(),
            "backend": {name: getattr(backend, name) for name in ("name", "precision", "device", "digest")},
            "options": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
            "versions": computed["versions"],
            "code_commit": run.data.tags.get("mlflow.source.git.commit"),
            "normalized": options.normalize,
            "plan": plan,
            "runs": runs,
            **result.manifest(),
        }
        manifests.remove_strays(output, result.files())
        manifest = manifests.write_manifest(output, result.parts, facts)
        output.flush()
        output.clear_work()
        return result, manifest, f"{backend.name} {backend.precision} on {backend.device}", str(output)


def check_accepted(names: list[str]) -> None:
    """Raises UserError for a name that accept_changes does not know."""
    for name in names:
        if name not in ACCEPTABLE:
            raise UserError(f"accept_changes: there is no {name!r}; expected some of {', '.join(ACCEPTABLE)}.")


def main(cfg: DictConfig) -> None:
    check_accepted(list(cfg.accept_changes))
    inputs.check_apart(cfg.corpus.path, cfg.output)
    texts = project.open_corpus(cfg.corpus)
    place = inputs.open_output(cfg.output)
    with project.run("encode", cfg) as run, tempfile.TemporaryDirectory() as scratch:
        import mlflow

        from steps.common import model as models
        from steps.common import tracking

        os.environ.setdefault(tracking.RETRIES, tracking.PATIENT)
        found = models.find_model(cfg.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        project.tag_upstream(found.run_id, found.logged.model_id)
        check_validated(found, project.logger)
        with project.resumable(found.run_id, cfg.output):
            result, manifest, backend, where = encode(cfg, run, found, texts, place, Path(scratch))
        with tracking.recording(where):
            mlflow.log_text(manifest, "manifest.json")
            models.log_data(texts, result, where, found)
            mlflow.set_tag("embeddings", where)
        print("sample embeddings")
        summary.show_embeddings(result.sample_texts, result.sample_embeddings)
        summary.show(
            "encode",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "backend": backend,
                **result.metrics(),
                "parts": len(result.parts),
                "embeddings": where,
            },
            project.next_command("verify", output=where),
        )


if __name__ == "__main__":
    project.launch("encode", main)
