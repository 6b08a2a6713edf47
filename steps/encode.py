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
import tempfile
from collections.abc import Iterator
from dataclasses import replace
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


def check_model_files(cfg: DictConfig, found) -> tuple[Path, dict]:
    """Check the files of a found model before it is loaded: returns their folder, and their share of the plan.

    Raises:
        UserError: an embedding or chunks that the model does not have.
    """
    from steps.common import found as founds
    from steps.common.backends import check_task, choose_prompt
    from steps.common.embedding import check_dim

    dim, longest = found.tags.get("dimension", ""), found.tags.get("max_seq_length", "")
    if dim.isdecimal():
        check_dim(cfg.embedding.truncate_dim, int(dim))
    folder = founds.download(found)
    facts, saved = {"files": founds.digest(folder)}, founds.saved_prompts(folder)
    if saved is not None:
        facts["prompt"] = choose_prompt(*saved, cfg.embedding.prompt_name)
    modules = founds.saved_modules(folder)
    if modules is not None and not {"Router", "Asym"} & set(modules):
        check_task([], cfg.embedding.task)
    tokenizer = founds.saved_tokenizer(folder)
    if cfg.corpus.long_text.name == "chunk" and tokenizer is not None and saved is not None and longest.isdecimal():
        import tokenizers

        from steps.common.backends.tokens import without_limits
        from steps.common.chunks import chunk_room

        fast = without_limits(tokenizers.Tokenizer.from_file(str(tokenizer)))
        chunk_room(fast, facts["prompt"] or "", int(longest), cfg.corpus.chunk_overlap)
    return folder, {"model": facts}


def load(cfg: DictConfig, found, folder: Path) -> tuple:
    """What computes with a found model: the backend, the chunker, what is done with the vectors, and the plan's share."""
    from steps.common import found as founds
    from steps.common import model as models
    from steps.common.backends import check_task
    from steps.common.backends.load import check_asked
    from steps.common.backends.torch import find_input, find_prompt, find_tasks
    from steps.common.chunks import Chunker
    from steps.common.job import Options

    settings, embedding = OmegaConf.to_object(cfg.backend), cfg.embedding
    check_asked(settings)
    native = models.load_native(folder)
    prompt, task = find_prompt(native, embedding.prompt_name), embedding.task
    check_task(find_tasks(native), task)
    chunks = cfg.corpus.long_text.name == "chunk"
    chunker = Chunker(find_input(native, task), prompt, cfg.corpus.chunk_overlap) if chunks else None
    backend = models.load_backend(found, folder, native, settings, prompt_name=embedding.prompt_name, task=task)
    cut = embedding.truncate_dim is not None
    options = Options(
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
        "model": {"files": founds.digest(folder), "prompt": prompt},
        "backend": {
            **{name: getattr(backend, name) for name in ("name", "precision", "digest")},
            "device": backend.device.partition(":")[0],
        },
    }
    return backend, chunker, options, plan


def read_corpus_note(output: str | None) -> dict | None:
    """What an encode that was stopped noted of its corpus, so that only the digest of its files is computed again."""
    from steps.common.output import CORPUS, Output

    if not output:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return Output(inputs.output_place(output), Path(scratch)).read_json(CORPUS)


@contextlib.contextmanager
def open_output(place, scratch: Path, run_id: str) -> Iterator[tuple]:
    """The output, in its place or in the run, and what is to be called before each of its parts."""
    from steps.common import resume
    from steps.common.tracking import RunOutput

    if place is not None:
        with resume.claim_output(place, scratch, run_id) as claimed:
            yield claimed
        return
    output = RunOutput(run_id, scratch)
    with contextlib.closing(output):
        output.make()
        yield output, lambda: None


def encode(cfg: DictConfig, run, found, folder: Path, before: dict, texts, place, scratch: Path) -> tuple:
    """Compute and write, up to the manifest: the result, the manifest, what computed it, and where it is."""
    from steps.common import encoder, pipeline, resume, tracking, verify
    from steps.common import manifest as manifests
    from steps.common import plan as plans
    from steps.common.job import Job
    from steps.common.output import CORPUS

    backend, chunker, options, computed = load(cfg, found, folder)
    plan, run_id = plans.complete_plan(before, computed), run.info.run_id
    with contextlib.closing(backend), open_output(place, scratch, run_id) as (output, check):
        job = Job(texts, options, backend.dim, chunker)
        if cfg.corpus.long_text.name == "error":
            encoder.refuse_long(job, backend)

        def ranges_of_int8():
            return encoder.sample_ranges(job, backend) if options.dtype == "int8" else None

        ranges, runs = resume.begin(output, plan, run_id, list(cfg.accept_changes), ranges_of_int8)
        job = replace(job, ranges=ranges)
        if place is not None:
            # After the plan: an output without one is none of encode's.
            output.write_text(CORPUS, json.dumps(texts.noted()))
        tracking.close_lost_runs(runs, by=run_id)
        project.logger.info("encoding %d rows with %s", texts.rows, found.tags.get("hub_id", found.logged.name))
        with tracking.LiveMetrics(run_id) as live:
            result = pipeline.encode_corpus(job, backend, output, before_part=check, on_rows=live.rows)
        manifest = manifests.Manifest(
            run_id=run_id,
            upstream_run_id=found.run_id,
            validation=found.validation,
            model=found.describe(),
            corpus=texts.describe(),
            backend={name: getattr(backend, name) for name in ("name", "precision", "device", "digest")},
            options=OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
            versions=plan["versions"],
            code_commit=run.data.tags.get("mlflow.source.git.commit"),
            normalized=options.normalize,
            plan=plan,
            runs=runs,
            parts=result.parts,
            **result.manifest(),
        )
        verify.remove_strays(output, result.files())
        text = manifests.write_manifest(output, manifest)
        output.flush()
        output.clear_work()
        return result, text, f"{backend.name} {backend.precision} on {backend.device}", str(output)


def main(cfg: DictConfig) -> None:
    with project.resumable(None, cfg.run_id, cfg.output):
        run_encode(cfg)


def run_encode(cfg: DictConfig) -> None:
    from steps.common import plan as plans
    from steps.common import resume

    accepted = list(cfg.accept_changes)
    resume.check_accepted(accepted)
    inputs.check_apart(cfg.corpus.path, cfg.output)
    texts = project.open_corpus(cfg.corpus, read_corpus_note(cfg.output))
    place = inputs.open_output(cfg.output)
    given = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    before = plans.plan_of(given, {"format": texts.format, **texts.decisive()}, project.PROJECT / "steps")
    resume.check_plan(place, before, accepted)
    with project.run("encode", *project.resolve(cfg)) as run, tempfile.TemporaryDirectory() as scratch:
        from steps.common import found as founds
        from steps.common import tracking

        found = founds.find_model(cfg.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        project.tag_upstream(found.run_id, found.logged.model_id)
        check_validated(found, project.logger)
        with project.resumable(run, found.run_id, cfg.output):
            folder, of_model = check_model_files(cfg, found)
            resume.check_plan(place, of_model, accepted)

            import mlflow

            from steps.common import model as models

            result, manifest, backend, where = encode(cfg, run, found, folder, before, texts, place, Path(scratch))
        with tracking.recording(where):
            mlflow.log_text(manifest, "manifest.json")
            models.log_data(texts, result, where, found)
            mlflow.set_tag("embeddings", where)
        if result.samples:
            print("sample embeddings")
            summary.show_embeddings([text for text, _ in result.samples], [vector for _, vector in result.samples])
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
            project.next_command("verify", run, output=where),
        )


if __name__ == "__main__":
    project.launch("encode", main)
