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
from steps.common.each import here
from steps.common.embeddings import resume
from steps.common.embeddings.plan import plan_of
from steps.common.embeddings.reuse import Asked, Reuse, check_alike
from steps.common.engines.conf import EncodeConf, EngineName
from steps.common.engines.spark import Spark
from steps.common.engines.tables import SCHEME, OpenedTable, open_tables, table_name
from steps.common.errors import UserError
from steps.common.launch import paths
from steps.common.launch.call import Call
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
    if table_name(conf.corpus.path) or table_name(conf.output):
        return open_tables(conf, call.config)
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


if __name__ == "__main__":
    launch("encode", open_inputs, manual=__doc__, resumes=True)

# The second half: what computes.

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import mlflow

from steps.common.backends import describe_backend
from steps.common.embeddings import encoder, verify
from steps.common.embeddings import manifest as manifests
from steps.common.embeddings.changes import Made, complete
from steps.common.embeddings.job import Job
from steps.common.embeddings.manifest import PlanRecord
from steps.common.embeddings.pipeline import Result
from steps.common.embeddings.plan import complete_plan
from steps.common.engines.loaded import Loaded, check_model_files, load
from steps.common.engines.local import LocalEngine
from steps.common.engines.parts import SparkEngine
from steps.common.engines.rows import RowEncoder, encode_table
from steps.common.engines.tables import find_version
from steps.common.launch import summary
from steps.common.launch.commands import next_command, resumable
from steps.common.model.find import FoundModel, find_model
from steps.common.tracking import notes
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import locate_corpus, locate_table, log_data, log_reused
from steps.common.tracking.live import LiveMetrics, RunOutput, close_lost_runs, recording
from steps.common.tracking.outputs import tag_origin
from steps.common.tracking.reuse import choose_reuse, open_asked
from steps.common.tracking.run import COMMIT, StepRun, tag_upstream


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
            "vectors of %s cannot be searched together with those of the previous champion (compatibility=reindex_required): encode the whole corpus into a new output, and replace the whole index",
            found.registered,
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
    """What was computed, its manifest, and where it is."""

    result: Result
    manifest: str
    where: str


def encode(call: Call[EncodeConf], opened: Opened, run: StepRun, model: Loaded, scratch: Path) -> Done:
    """Compute and write, up to the manifest."""
    conf, texts, backend = call.conf, opened.texts, model.backend
    plan, run_id = complete_plan(opened.plan, model.plan), run.info.run_id
    origin = model.describe_origin(plan, run.data.tags.get(COMMIT))
    with open_output(opened.place, scratch / "output", run_id) as (output, check):
        reuse, reused = choose_reuse(
            opened.asked, plan, own=opened.place, experiment_id=run.info.experiment_id, scratch=scratch / "reuse"
        )
        check_shared(opened.spark, reuse)
        plan["reuse"] = reused and reused.manifest
        job = Job(texts, model.options, backend.dim, model.chunker, reuse=reuse)
        engine = LocalEngine(backend) if opened.spark is None else SparkEngine(opened.spark, model.recipe)
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
        logger.info("encoding %d rows with %s", texts.rows, model.found.name)
        with LiveMetrics(run_id) as live:
            result = engine.encode_corpus(job, output, before_part=check, on_rows=live.rows)
        made = Made(conf.corpus.id_column is not None, result.parts, result.reused_rows)
        result.reused = complete(begun.reused, reuse, output, made)
        facts = {"corpus": texts.describe(), "plan": plan, "runs": begun.runs, "origin": begun.origin}
        manifest = make_manifest(call, run, model, result, **facts)
        verify.remove_strays(output, result.files())
        text = manifests.write_manifest(output, manifest)
        output.flush()
        output.clear_work()
        return Done(result, text, str(output))


def encode_rows(call: Call[EncodeConf], opened: OpenedTable, run: StepRun, model: Loaded) -> Done:
    """Embed a table into a new one; its manifest has counts, plan and lineage, and no parts."""
    table, plan = opened.table, complete_plan(opened.plan, model.plan)
    origin, where = model.describe_origin(plan, run.data.tags.get(COMMIT)), f"{SCHEME}{opened.output}"
    tag_origin(origin, where)
    rows = RowEncoder(
        *(table.name, call.conf.corpus, model.options, model.chunker), dim=model.backend.dim, recipe=model.recipe
    )
    logger.info("encoding table %s with %s", table.name, model.found.name)
    with LiveMetrics(run.info.run_id) as live:
        result = encode_table(opened.spark, table, rows, output=opened.output, origin=origin, tell=live.counts)
    written = {"output": opened.output, "output_version": find_version(opened.spark, opened.output)}
    facts = {"corpus": table.describe() | written, "plan": plan, "runs": [run.info.run_id], "origin": origin}
    return Done(result, manifests.as_text(make_manifest(call, run, model, result, **facts)), where)


def warn_empty(result: Result) -> None:
    """Log how many rows have an empty text: its vector says nothing, and looks like any other."""
    if result.empty_rows:
        rows = (
            "1 row has an empty text and is"
            if result.empty_rows == 1
            else f"{result.empty_rows} rows have an empty text and are"
        )
        logger.warning("%s embedded as such; corpus.on_bad_row=keep_all gives such rows null embeddings", rows)


def make_manifest(
    call: Call[EncodeConf], run: StepRun, model: Loaded, result: Result, **facts: Any
) -> manifests.Manifest:
    """The manifest of a result; `facts` say what the others do not."""
    found, backend = model.found, model.backend
    return manifests.Manifest(
        run_id=run.info.run_id,
        upstream_run_id=found.run_id,
        validation=found.validation,
        model=found.describe(),
        backend={name: getattr(backend, name) for name in ("name", "precision", "device", "digest")},
        options=call.config,
        versions=facts["plan"]["versions"],
        code_commit=run.data.tags.get(COMMIT),
        normalized=model.options.normalize,
        parts=result.parts,
        **result.manifest(),
        **facts,
    )


def main(call: Call[EncodeConf], opened: Opened | OpenedTable) -> None:
    conf = call.conf
    with opened.spark or contextlib.nullcontext(), runs.run("encode", call.config, call.as_yaml, measured=True) as run:
        found = find_model(conf.run_id, preceding="validate", experiment_id=run.info.experiment_id)
        tag_upstream(found.run_id, found.logged.model_id)
        check_validated(found)
        with resumable(call, run, found.run_id), tempfile.TemporaryDirectory() as scratch:
            folder, of_model = check_model_files(conf, found)
            if not isinstance(opened, OpenedTable):
                resume.check_plan(opened.place, of_model, conf.accept_changes)
                opened = replace(opened, asked=open_asked(opened.asked, of_model, Path(scratch) / "reuse"))
            with contextlib.closing(load(conf, found, folder)) as model:
                if isinstance(opened, OpenedTable):
                    source = locate_table(opened.table.name, opened.table.version)
                    made = encode_rows(call, opened, run, model)
                else:
                    source = locate_corpus(opened.texts)
                    made = encode(call, opened, run, model, Path(scratch))
        warn_empty(made.result)
        result, where, backend = made.result, made.where, describe_backend(model.backend)
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
