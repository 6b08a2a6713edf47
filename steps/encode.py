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


def look_at(cfg: DictConfig, found) -> tuple[Path, dict]:
    """What the files of a found model say before it is loaded: where they are, and their share of the plan.

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
    from steps.common import encoder
    from steps.common import found as founds
    from steps.common import model as models
    from steps.common.backends import check_task
    from steps.common.backends.load import check_asked
    from steps.common.backends.torch import find_input, find_prompt, find_tasks
    from steps.common.chunks import Chunker

    settings, embedding = OmegaConf.to_object(cfg.backend), cfg.embedding
    check_asked(settings)
    native = models.load_native(folder)
    prompt, task = find_prompt(native, embedding.prompt_name), embedding.task
    check_task(find_tasks(native), task)
    chunks = cfg.corpus.long_text.name == "chunk"
    chunker = Chunker(find_input(native, task), prompt, cfg.corpus.chunk_overlap) if chunks else None
    backend = models.load_backend(found, folder, native, settings, prompt_name=embedding.prompt_name, task=task)
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
        "model": {"files": founds.digest(folder), "prompt": prompt},
        "backend": {
            **{name: getattr(backend, name) for name in ("name", "precision", "digest")},
            "device": backend.device.partition(":")[0],
        },
    }
    return backend, chunker, options, plan


def plan_before(cfg: DictConfig, texts) -> dict:
    """What of a plan is known before the model is: all but the model, and what of the backend is not asked for by name."""
    from steps.common import plan as plans

    given = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    corpus = {key: value for key, value in given["corpus"].items() if key not in ("path", "format")}
    corpus |= {"format": texts.format, **texts.decisive()}
    options = {key: given[key] for key in ("output_format", "rows_per_part", "keep_text", "embedding")}
    backend = given["backend"]
    asked = {key: backend[key] for key in ("name", "precision", "device") if backend[key] != "auto"}
    if "device" in asked:
        asked["device"] = asked["device"].partition(":")[0]
    sizes = {key: backend[key] for key in ("batch_size", "batch_tokens")}
    plan = {"backend": asked | sizes, "corpus": corpus, **options, "versions": plans.versions()}
    plan["code"] = plans.code_digest(project.PROJECT / "steps")
    # As it is read back.
    return json.loads(json.dumps(plan))


def whole_plan(before: dict, computed: dict) -> dict:
    """All that decides the result: two encodes of one plan write the same."""
    return {**computed, **before, "backend": {**computed["backend"], **_sizes(before["backend"])}}


def _sizes(backend: dict) -> dict:
    return {key: backend[key] for key in ("batch_size", "batch_tokens")}


def check_begun(place, known: dict, accepted: list[str]) -> None:
    """Compare the part of a plan that is known with that of an output; `begin` compares the whole, and holds the claim.

    Raises:
        UserError: the output was begun with another.
    """
    from steps.common import manifest as manifests
    from steps.common.output import Output

    if place is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        output = Output(place, Path(scratch))
        state = manifests.held(output)
        noted = manifests.known_manifest(output) if state == "whole" else output.read_json(manifests.PLAN)
        before = noted.get("plan") if state in ("whole", "interrupted") and isinstance(noted, dict) else None
        if not isinstance(before, dict):
            return
        # Of these more is in a plan than is known.
        open_nodes = {key: before.get(key) for key in ("model", "backend") if key in known}
        if not all(isinstance(node, dict) for node in open_nodes.values()):
            return
        shared = {key: before.get(key) for key in known}
        shared |= {
            key: {name: value for name, value in node.items() if name in known[key]} for key, node in open_nodes.items()
        }
        refuse_differences(output, shared, known, accepted)


def refuse_differences(output, before: dict, plan: dict, accepted: list[str]) -> None:
    """Raises UserError where an output was begun with another plan."""
    from steps.common import plan as plans

    different = plans.differences(before, plan, tuple(accepted))
    if not different:
        return
    only = {line.partition(":")[0].partition(".")[0] for line in different}
    remedy = f", or accept that with -P accept_changes=[{','.join(sorted(only))}]" if only <= set(ACCEPTABLE) else ""
    raise UserError(
        f"output {output} was begun with something else: {plans.shown(different)}. Go on with what it was begun with, or give another output{remedy}."
    )


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

    state = manifests.held(output)
    before = manifests.restore(output) if state == "whole" else output.read_json(manifests.PLAN)
    is_lost = state != "new" and not manifests.is_plan(before)
    if is_lost:
        project.logger.warning("what output %s was made of cannot be read, so all of its parts are made again", output)
        output.clear_work()
    if state == "new" or is_lost:
        before = {"plan": plan, "runs": before["runs"] if manifests.is_plan(before) else [], "ranges": None}
    refuse_differences(output, before["plan"], plan, accepted)
    ranges = np.array(before["ranges"], np.float32) if before["ranges"] else make_ranges()
    runs = [*before["runs"], run_id]
    noted = {"plan": plan, "runs": runs, "ranges": None if ranges is None else ranges.tolist()}
    output.write_text(manifests.PLAN, json.dumps(noted, allow_nan=False))
    if is_lost:
        # From here on it is an output that was stopped.
        for name in (manifests.MANIFEST, manifests.COPY):
            if output.size(name) is not None:
                output.delete(name)
    return ranges, runs


def encode(cfg: DictConfig, run, found, folder: Path, before: dict, texts, place, scratch: Path) -> tuple:
    """Compute and write, up to the manifest: the result, the manifest, what computed it, and where it is."""
    from steps.common import encoder, pipeline, tracking
    from steps.common import manifest as manifests

    backend, chunker, options, computed = load(cfg, found, folder)
    plan, run_id = whole_plan(before, computed), run.info.run_id
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
            "versions": plan["versions"],
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
    with project.resumable(None, cfg.run_id, cfg.output):
        run_encode(cfg)


def run_encode(cfg: DictConfig) -> None:
    accepted = list(cfg.accept_changes)
    check_accepted(accepted)
    inputs.check_apart(cfg.corpus.path, cfg.output)
    texts = project.open_corpus(cfg.corpus)
    place = inputs.open_output(cfg.output)
    before = plan_before(cfg, texts)
    check_begun(place, before, accepted)
    with project.run("encode", *project.resolve(cfg)) as run, tempfile.TemporaryDirectory() as scratch:
        from steps.common import found as founds
        from steps.common import tracking

        found = founds.find_model(cfg.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        project.tag_upstream(found.run_id, found.logged.model_id)
        check_validated(found, project.logger)
        with project.resumable(run, found.run_id, cfg.output):
            folder, of_model = look_at(cfg, found)
            check_begun(place, of_model, accepted)

            import mlflow

            from steps.common import model as models

            result, manifest, backend, where = encode(cfg, run, found, folder, before, texts, place, Path(scratch))
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
            project.next_command("verify", run, output=where),
        )


if __name__ == "__main__":
    project.launch("encode", main)
