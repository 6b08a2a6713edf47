"""encode: turn a corpus into embeddings.

Reads   a run of validate or log_model (run_id) and a corpus: text, CSV, TSV, JSON Lines, Parquet, Arrow or ORC, on this
        machine or in an object store.
Writes  part-00000.parquet, ... (id, text, embedding) in corpus order, rejects.parquet (the rows without an embedding)
        and manifest.json, under embeddings/ in the run or in the folder or URI `output`; metrics of rows, tokens and time.
Reuses  with reuse=<old output>: what that holds is copied, the rest is computed; changes.parquet lists the ids that differ.
Resumes the same command on the same `output` goes on where it was stopped, and computes no finished part again.
Refuses a model whose validation failed, an output of another model, corpus or option, and one that is being written.

    mlflow run . -e encode -P run_id=<run of validate> -P corpus=texts.csv -P output=embeddings
    python -m steps.encode run_id=latest corpus.path=s3://bucket/texts/ output=s3://bucket/embeddings
"""

import contextlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.common.corpus import opening
from steps.common.corpus.corpus import Corpus
from steps.common.corpus.texts import check_conf
from steps.common.each import here
from steps.common.embeddings import resume
from steps.common.embeddings.plan import plan_of
from steps.common.embeddings.reuse import Asked, Reuse, check_alike
from steps.common.engines.conf import EngineName
from steps.common.engines.spark import Spark
from steps.common.engines.tables import (
    SCHEME,
    OpenedTable,
    TableFormat,
    check_new,
    check_table_options,
    open_table,
    table_name,
)
from steps.common.errors import UserError
from steps.common.launch import paths
from steps.common.launch.call import Call
from steps.common.launch.config import EncodeConf
from steps.common.launch.paths import check_apart, corpus_place, output_place
from steps.common.launch.process import launch
from steps.common.project import PROJECT
from steps.common.storage.output import CORPUS, Output
from steps.common.storage.place import Place, locate

logger = logging.getLogger("steps")


@dataclass(frozen=True)
class Opened:
    """The corpus, the place of the output (None: in the run), and the plan as far as it is known without the model."""

    texts: Corpus
    place: Place | None
    plan: dict[str, Any]
    spark: Spark | None
    asked: Asked


def open_inputs(call: Call[EncodeConf]) -> Opened | OpenedTable:
    """Read the corpus through, and see that the output may be written; raises UserError where one cannot be used."""
    conf = call.conf
    resume.check_accepted(conf.accept_changes)
    source, target = table_name(conf.corpus.path), table_name(conf.output)
    if source or target:
        return open_tables(call, source, target)
    check_apart(conf.corpus.path, conf.output)
    # What an encode that was stopped noted of its corpus: then its files are only hashed.
    noted = Output(output_place(conf.output)).read_json(CORPUS) if conf.output else None
    where = corpus_place(conf.corpus.path)
    with contextlib.ExitStack() as stack:
        spark = stack.enter_context(Spark(conf.engine)) if conf.engine.name == EngineName.spark else None
        if spark is not None:
            spark.check_reachable(locate(where), "corpus.path")
            spark.check_reachable(output_place(conf.output or ""), "output")
        texts = opening.open_corpus(where, conf.corpus, noted, spark.each if spark else here)
        place = paths.open_output(conf.output)
        plan = plan_of(call.config, {"format": texts.format.name, **texts.decisive()}, PROJECT / "steps")
        resume.check_plan(place, plan, conf.accept_changes)
        asked = paths.open_reused(conf.reuse, conf.output)
        if asked.reuse is not None:
            check_alike(asked.reuse, plan)
        # Open until `main` has ended.
        stack.pop_all()
    return Opened(texts, place, plan, spark, asked)


def open_tables(call: Call[EncodeConf], source: str | None, target: str | None) -> OpenedTable:
    """Find the table and see that the other is new; raises UserError where one cannot be used."""
    conf = call.conf
    if conf.engine.name != EngineName.spark or source is None or target is None:
        raise UserError(
            f"tables are read and written by Spark, from one into another: expected engine=spark corpus=table:<name> output=table:<name>, found engine={conf.engine.name} corpus={conf.corpus.path} output={conf.output}."
        )
    if conf.reuse is not None:
        raise UserError(f"reuse={conf.reuse} is for an output of files; a table is embedded as a whole.")
    check_table_options(conf.embedding.dtype, conf.output_format)
    check_conf(conf.corpus, TableFormat(), f"table {source}", {})
    with contextlib.ExitStack() as stack:
        spark = stack.enter_context(Spark(conf.engine))
        table = open_table(spark, source, conf.corpus)
        check_new(spark, target)
        # Open until `main` has ended.
        stack.pop_all()
    return OpenedTable(table, target, plan_of(call.config, table.describe(), PROJECT / "steps"), spark)


if __name__ == "__main__":
    launch("encode", open_inputs, manual=__doc__, resumes=True)

# The second half: what computes.

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import mlflow
import tokenizers

from steps.common.backends import Backend, check_task, choose_prompt
from steps.common.backends.load import check_asked
from steps.common.backends.tokens import without_limits
from steps.common.backends.torch import find_input, find_prompt, find_tasks
from steps.common.embeddings import encoder, verify
from steps.common.embeddings import manifest as manifests
from steps.common.embeddings.changes import Made, complete
from steps.common.embeddings.chunks import Chunker, chunk_room
from steps.common.embeddings.job import Job, Options
from steps.common.embeddings.manifest import PlanRecord
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.pipeline import Result
from steps.common.embeddings.plan import complete_plan
from steps.common.engines.local import LocalEngine
from steps.common.engines.parts import SparkEngine
from steps.common.engines.rows import RowEncoder, encode_table
from steps.common.engines.tables import find_version
from steps.common.launch import summary
from steps.common.launch.commands import next_command, resumable
from steps.common.model import load as models
from steps.common.model.facts import normalizes
from steps.common.model.find import (
    FoundModel,
    download,
    find_model,
    saved_modules,
    saved_prompts,
    saved_tokenizer,
)
from steps.common.model.load import load_backend
from steps.common.model.recipe import Recipe, describe_recipe
from steps.common.model.reference import digest
from steps.common.tracking import notes
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import locate_corpus, locate_table, log_data, log_reused
from steps.common.tracking.live import LiveMetrics, RunOutput, close_lost_runs, recording
from steps.common.tracking.outputs import tag_origin
from steps.common.tracking.reuse import choose_reuse, open_asked
from steps.common.tracking.run import COMMIT, StepRun, tag_upstream
from steps.common.vectors import check_dim


def check_validated(found: FoundModel) -> None:
    """Raises UserError for a model whose validation failed."""
    if found.validation == "failed":
        run_id = found.tags.get("validation_run_id")
        raise UserError(
            f"model {found.logged.model_id} failed its validation (run {run_id}), so it is not used. See report.html of that run; log a better model, or validate again with other thresholds."
        )
    if found.validation is None:
        logger.warning("model %s was never validated; run validate to know its quality", found.logged.model_id)
    if found.compatibility == "reindex_required":
        logger.warning(
            "vectors of %s do not mix with those of the champion before it (compatibility=reindex_required): embed all of a corpus again, into a new output, and replace its index as a whole",
            found.registered,
        )


def check_model_files(conf: EncodeConf, found: FoundModel) -> tuple[Path, dict]:
    """Check the files of a found model before it is loaded: returns their folder, and their share of the plan.

    Raises UserError for an embedding or chunks that the model does not have.
    """
    dim, longest = found.tags.get("dimension", ""), found.tags.get("max_seq_length", "")
    if dim.isdecimal():
        check_dim(conf.embedding.truncate_dim, int(dim))
    folder = download(found)
    facts: dict[str, str | None] = {"files": digest(folder)}
    saved = saved_prompts(folder)
    if saved is not None:
        facts["prompt"] = choose_prompt(*saved, conf.embedding.prompt_name)
    modules = saved_modules(folder)
    if modules is not None and not {"Router", "Asym"} & set(modules):
        check_task([], conf.embedding.task)
    tokenizer = saved_tokenizer(folder)
    if conf.corpus.long_text == "chunk" and tokenizer is not None and saved is not None and longest.isdecimal():
        fast = without_limits(tokenizers.Tokenizer.from_file(str(tokenizer)))
        chunk_room(fast, facts["prompt"] or "", int(longest), conf.corpus.chunk_overlap)
    return folder, {"model": facts}


def load(conf: EncodeConf, found: FoundModel, folder: Path) -> tuple[Backend, Chunker | None, Options, dict]:
    """What computes with a found model: the backend, the chunker, what is done with the vectors, and the plan's share."""
    settings, embedding = conf.backend, conf.embedding
    check_asked(settings)
    native = models.load_native(folder)
    prompt, task = find_prompt(native, embedding.prompt_name), embedding.task
    check_task(find_tasks(native), task)
    chunks = conf.corpus.long_text == "chunk"
    chunker = Chunker(find_input(native, task), prompt, conf.corpus.chunk_overlap) if chunks else None
    backend = load_backend(found, folder, native, settings, prompt_name=embedding.prompt_name, task=task)
    cut = embedding.truncate_dim is not None
    options = Options(
        dtype=embedding.dtype,
        truncate_dim=embedding.truncate_dim,
        # The model's own Normalize comes before the cut.
        normalize=embedding.normalize or (cut and normalizes(native)),
        rows_per_part=conf.rows_per_part,
        keep_text=conf.keep_text,
        format=conf.output_format,
        row_per_chunk=chunks and conf.corpus.chunk_pooling == "none",
        normalize_mean=normalizes(native),
    )
    plan = {
        "model": {"files": digest(folder), "prompt": prompt},
        "backend": {
            **{name: getattr(backend, name) for name in ("name", "precision", "digest")},
            "device": backend.device.partition(":")[0],
        },
    }
    return backend, chunker, options, plan


def describe_origin(found: FoundModel, plan: dict[str, Any], commit: str | None) -> Origin:
    """What the parts say of the model and the settings that made them."""
    facts = found.describe()
    return Origin(
        model_id=found.logged.model_id,
        hub_id=facts["hub_id"] or None,
        revision=facts["revision"] or None,
        registered_version=found.registered,
        model_digest=plan["model"]["files"],
        backend=f"{plan['backend']['name']}/{plan['backend']['precision']}",
        prompt=plan["model"]["prompt"] or None,
        options=plan["embedding"],
        git_commit=commit,
    )


@contextlib.contextmanager
def open_output(place: Place | None, scratch: Path, run_id: str) -> Iterator[tuple[Output, Callable[[], None]]]:
    """The output, in its place or in the run, and what is to be called before each of its parts."""
    if place is not None:
        with resume.claim_output(place, scratch, run_id) as claimed:
            yield claimed
        return
    output = RunOutput(run_id, scratch)
    with contextlib.closing(output):
        output.make()
        yield output, lambda: None


def check_shared(spark: Spark | None, reuse: Reuse | None) -> None:
    """Raises UserError for an old output that the workers of Spark cannot read."""
    if spark is None or reuse is None:
        return
    if isinstance(reuse.output, RunOutput):
        raise UserError(
            f"reuse={reuse.where} is in a run, which one process reads; Spark's workers need a folder or URI. Take engine=local."
        )
    spark.check_reachable(reuse.output.place, "reuse")


@dataclass(frozen=True)
class Done:
    """What was computed, its manifest, what computed it, and where it is."""

    result: Result
    manifest: str
    backend: str
    where: str


def encode(
    call: Call[EncodeConf], opened: Opened, run: StepRun, found: FoundModel, *, folder: Path, scratch: Path
) -> Done:
    """Compute and write, up to the manifest."""
    conf, texts = call.conf, opened.texts
    backend, chunker, options, computed = load(conf, found, folder)
    plan, run_id, commit = complete_plan(opened.plan, computed), run.info.run_id, run.data.tags.get(COMMIT)
    origin = describe_origin(found, plan, commit)
    with (
        contextlib.closing(backend),
        open_output(opened.place, scratch / "output", run_id) as (output, check),
    ):
        reuse, reused = choose_reuse(
            opened.asked, plan, own=opened.place, experiment_id=run.info.experiment_id, scratch=scratch / "reuse"
        )
        check_shared(opened.spark, reuse)
        plan["reuse"] = reused and reused.manifest
        job = Job(texts, options, backend.dim, chunker, reuse=reuse)
        engine = make_engine(call, opened, found, folder, backend)
        if conf.corpus.long_text == "error":
            encoder.refuse_long(engine.find_long(job), backend.max_tokens)
        record = PlanRecord(plan, [run_id], None, origin=origin, reused=reused)
        ranges = partial(encoder.make_ranges, job, backend, engine.sample_texts)
        begun = resume.begin(output, record, conf.accept_changes, ranges)
        job = replace(job, ranges=begun.ranges_of_int8, origin=begun.origin)
        tag_origin(origin, str(output))
        if opened.place is not None:
            # After the plan: without one, the folder would not count as an output.
            output.write_text(CORPUS, json.dumps(texts.noted()))
        close_lost_runs(begun.runs, by=run_id)
        logger.info("encoding %d rows with %s", texts.rows, found.tags.get("hub_id", found.logged.name))
        with LiveMetrics(run_id) as live:
            result = engine.encode_corpus(job, output, before_part=check, on_rows=live.rows)
        made = Made(conf.corpus.id_column is not None, result.parts, result.reused_rows)
        result.reused = complete(begun.reused, reuse, output, made)
        manifest = make_manifest(
            *(call, run, found, backend, result),
            corpus=texts.describe(),
            normalized=options.normalize,
            plan=plan,
            runs=begun.runs,
            origin=begun.origin,
        )
        verify.remove_strays(output, result.files())
        text = manifests.write_manifest(output, manifest)
        output.flush()
        output.clear_work()
        return Done(result, text, name_backend(backend), str(output))


def encode_rows(call: Call[EncodeConf], opened: OpenedTable, run: StepRun, found: FoundModel, folder: Path) -> Done:
    """Embed a table into a new one; its manifest has counts, plan and lineage, and no parts."""
    conf = call.conf
    backend, chunker, options, computed = load(conf, found, folder)
    plan, commit = complete_plan(opened.plan, computed), run.data.tags.get(COMMIT)
    origin, where = describe_origin(found, plan, commit), f"{SCHEME}{opened.output}"
    tag_origin(origin, where)
    with contextlib.closing(backend):
        recipe = make_recipe(call, found, folder, backend)
        rows = RowEncoder(opened.table.name, conf.corpus, options, chunker, dim=backend.dim, recipe=recipe)
        logger.info("encoding table %s with %s", opened.table.name, found.tags.get("hub_id", found.logged.name))
        with LiveMetrics(run.info.run_id) as live:
            result = encode_table(
                opened.spark, opened.table, rows, output=opened.output, origin=origin, tell=live.counts
            )
        written = {"output": opened.output, "output_version": find_version(opened.spark, opened.output)}
        manifest = make_manifest(
            *(call, run, found, backend, result),
            corpus=opened.table.describe() | written,
            normalized=options.normalize,
            plan=plan,
            runs=[run.info.run_id],
            origin=origin,
        )
        return Done(result, manifests.as_text(manifest), name_backend(backend), where)


def make_manifest(
    call: Call[EncodeConf], run: StepRun, found: FoundModel, backend: Backend, result: Result, **facts: Any
) -> manifests.Manifest:
    """The manifest of a result; `facts` say what the others do not."""
    return manifests.Manifest(
        run_id=run.info.run_id,
        upstream_run_id=found.run_id,
        validation=found.validation,
        model=found.describe(),
        backend={name: getattr(backend, name) for name in ("name", "precision", "device", "digest")},
        options=call.config,
        versions=facts["plan"]["versions"],
        code_commit=run.data.tags.get(COMMIT),
        parts=result.parts,
        **result.manifest(),
        **facts,
    )


def make_engine(
    call: Call[EncodeConf], opened: Opened, found: FoundModel, folder: Path, backend: Backend
) -> LocalEngine | SparkEngine:
    """What reads and embeds the corpus."""
    if opened.spark is None:
        return LocalEngine(backend)
    return SparkEngine(opened.spark, make_recipe(call, found, folder, backend))


def make_recipe(call: Call[EncodeConf], found: FoundModel, folder: Path, backend: Backend) -> Recipe:
    """How a worker elsewhere gets the backend that was loaded here."""
    embedding = call.conf.embedding
    return describe_recipe(
        found, folder, backend, call.conf.backend, prompt_name=embedding.prompt_name, task=embedding.task
    )


def name_backend(backend: Backend) -> str:
    """A backend in a few words."""
    return f"{backend.name} {backend.precision} on {backend.device}"


def main(call: Call[EncodeConf], opened: Opened | OpenedTable) -> None:
    conf = call.conf
    with opened.spark or contextlib.nullcontext(), runs.run("encode", call.config, call.as_yaml, measured=True) as run:
        found = find_model(conf.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        tag_upstream(found.run_id, found.logged.model_id)
        check_validated(found)
        with resumable(call, run, found.run_id), tempfile.TemporaryDirectory() as scratch:
            folder, of_model = check_model_files(conf, found)
            if isinstance(opened, OpenedTable):
                source = locate_table(opened.table.name, opened.table.version)
                made = encode_rows(call, opened, run, found, folder)
            else:
                resume.check_plan(opened.place, of_model, conf.accept_changes)
                opened = replace(opened, asked=open_asked(opened.asked, of_model, Path(scratch) / "reuse"))
                source = locate_corpus(opened.texts)
                made = encode(call, opened, run, found, folder=folder, scratch=Path(scratch))
        result, backend, where = made.result, made.backend, made.where
        with recording(where):
            mlflow.log_text(made.manifest, "manifest.json")
            log_data(source, result, where)
            log_reused(result.reused, where)
            run.describe(*notes.of_encode(found, source, result, backend=backend, where=where))
        if result.samples:
            print("sample embeddings")
            summary.show_embeddings([text for text, _ in result.samples], [vector for _, vector in result.samples])
        summary.show(
            "encode",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "backend": backend,
                **({"reused": result.reused.output} if result.reused else {}),
                **result.metrics(),
                "parts": len(result.parts),
                "embeddings": where,
            },
            None if isinstance(opened, OpenedTable) else next_command("verify", run, output=where),
        )
