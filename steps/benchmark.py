"""benchmark: compare the library's own encode with every backend that can run here, on your texts.

Reads   a run of log_model, validate or encode (run_id), a corpus, and a suite for the quality beside the speed.
Writes  a table on the screen; benchmark.json, benchmark.png and the same numbers as metrics in the run.

    mlflow run . -e benchmark -P run_id=<run of log_model> -P corpus=texts.csv
    python -m steps.benchmark run_id=latest corpus.path=/data/texts.parquet rows=2000 repeats=7
"""

from steps.common.backends.kinds import check_candidates
from steps.common.corpus import opening
from steps.common.corpus.corpus import Corpus
from steps.common.errors import UserError
from steps.common.launch.call import Call
from steps.common.launch.config import BenchmarkConf
from steps.common.launch.paths import corpus_place, find_suites
from steps.common.launch.process import launch
from steps.common.quality import kinds
from steps.common.quality.suite import Suite


def open_inputs(call: Call[BenchmarkConf]) -> tuple[Corpus, Suite]:
    """The corpus and the suite; raises UserError where one cannot be read or is empty, and for an unknown candidate."""
    check_candidates(call.conf.candidates or [])
    corpus = call.conf.corpus
    texts = opening.open_corpus(corpus_place(corpus.path), corpus)
    if texts.null_rows == texts.rows:
        raise UserError(
            f"corpus.path={corpus.path}: all {texts.rows:,} rows are null in {corpus.text_column!r}; expected at least one text. Name the column that holds them: -P corpus.text_column=<column>."
        )
    (suite,) = kinds.read_suites(find_suites([call.conf.suite]))
    if suite.of_one_model:
        raise UserError(
            f"Suite {suite.name} (kind {call.conf.suite.kind}) scores only the model of its index. Use it with validate; give benchmark another suite."
        )
    return texts, suite


if __name__ == "__main__":
    launch("benchmark", open_inputs, manual=__doc__)

# The second half: what computes.

import contextlib
import copy
import logging
import tempfile
import time
from pathlib import Path

import mlflow
from sentence_transformers import SentenceTransformer

from steps.common.backends.check import Refused
from steps.common.backends.hardware import pick_devices, usable_cores, why_emulated
from steps.common.backends.kinds import keys
from steps.common.backends.machine import matrix_flops, matrix_peak, processor, rss_mb
from steps.common.backends.tokens import make_tokenizer
from steps.common.backends.torch import token_counter
from steps.common.corpus.sample import pick_texts
from steps.common.embeddings.plan import versions
from steps.common.launch import summary
from steps.common.launch.commands import ui_command
from steps.common.model import load as models
from steps.common.model.find import FoundModel, download, find_model
from steps.common.model.load import load_backend
from steps.common.quality import benchmark, scoring
from steps.common.quality.benchmark import Contender, Row
from steps.common.tracking import run as runs
from steps.common.tracking.datasets import locate_corpus, log_corpus
from steps.common.tracking.run import tag_upstream

logger = logging.getLogger("steps")


def load_contenders(
    conf: BenchmarkConf, found: FoundModel, folder: Path, native: SentenceTransformer, stack: contextlib.ExitStack
) -> tuple[list[Contender], dict[str, str]]:
    """The library itself and every candidate that can run here, which the stack closes; and why the others cannot."""
    device = pick_devices(conf.backend.device)[0]
    stock = native if device == "cpu" else copy.deepcopy(native).to(device)
    contenders = [
        Contender(benchmark.STOCK, "f32", lambda texts: stock.encode(texts, show_progress_bar=False), 0.0, 0.0)
    ]
    left_out = {}
    for name in conf.candidates if conf.candidates is not None else keys():
        emulated = why_emulated(name.partition("/")[2], device)
        if emulated and conf.candidates is None:
            left_out[name] = f"{emulated}; candidates=[{name}] times it nevertheless"
        else:
            try:
                contenders.append(load_contender(name, conf, found, folder, native, stack=stack))
            except Refused as refused:
                left_out[name] = refused.reason
        if name in left_out:
            logger.warning("%s is left out: %s", name, left_out[name])
    return contenders, left_out


def load_contender(
    name: str,
    conf: BenchmarkConf,
    found: FoundModel,
    folder: Path,
    native: SentenceTransformer,
    *,
    stack: contextlib.ExitStack,
) -> Contender:
    """Load a backend, name/precision, and measure what that takes; raises Refused where it cannot run."""
    before, start = rss_mb(), time.perf_counter()
    backend = load_backend(found, folder, native, conf.backend.of(name))
    stack.enter_context(contextlib.closing(backend))
    return Contender(
        name,
        backend.precision,
        backend.encode,
        load_seconds=time.perf_counter() - start,
        load_mb=max(0.0, rss_mb() - before),
        padding_share=lambda: backend.padding_share,
    )


def compare(conf: BenchmarkConf, found: FoundModel, texts: list[str], suite: Suite) -> tuple[list[Row], str, dict]:
    """Load, time and score every contender: a row for each, the table, and the content of benchmark.json."""
    folder = download(found)
    native = models.load_native(folder)
    lengths = token_counter(native)(texts)
    if native.max_seq_length:
        lengths = lengths.clip(max=native.max_seq_length)
    device = pick_devices(conf.backend.device)[0]
    with contextlib.ExitStack() as stack:
        base_mb = rss_mb()
        contenders, left_out = load_contenders(conf, found, folder, native, stack)
        peaks = time_contenders(conf, contenders, texts, device)
        rows = benchmark.summarize(
            contenders,
            {one.name: scoring.compute_score(suite, one.encode) for one in benchmark.running(contenders)},
            tokens=int(lengths.sum()),
            # The number of operations is unknown for models without token ids, such as a bag of words.
            flops=matrix_flops(native, lengths) if make_tokenizer(native, None) else None,
            peaks=peaks,
            base_mb=base_mb,
        )
    facts = {
        "processor": processor(),
        "cores": usable_cores(),
        "device": device,
        "model": found.describe(),
        "suite": suite.name,
        "texts": len(texts),
        "tokens_per_text": float(lengths.mean()),
        "repeats": conf.repeats,
        "versions": versions(),
    }
    stopped = [one.stopped for one in contenders if one.stopped is not None]
    table = benchmark.as_table(rows, stopped, left_out)
    return rows, table, benchmark.as_dict(rows, stopped, left_out, peaks, **facts)


def time_contenders(
    conf: BenchmarkConf, contenders: list[Contender], texts: list[str], device: str
) -> dict[str, float | None]:
    """Warm up and time; returns the peaks of the machine, by precision."""
    benchmark.warm_up(contenders, texts, conf.stop_below)
    peaks: dict[str, float | None] = {one.precision: None for one in benchmark.running(contenders)}

    def before_round(number: int) -> None:
        logger.info("round %d of %d, %d texts", number + 1, conf.repeats, len(texts))
        # In every round, as the contenders: whatever slows the machine down slows both.
        for precision, best in peaks.items():
            measured = matrix_peak(precision, device)
            peaks[precision] = measured if best is None or measured is None else max(best, measured)

    benchmark.run_rounds(contenders, texts, conf.repeats, before_round, conf.stop_below)
    for one in contenders:
        if one.stopped is not None:
            logger.warning("%s is stopped: %s", one.name, one.stopped)
    return peaks


METRICS = ("ratio", "sentences_per_second", "tokens_per_second", "peak_share", "peak_mb", "cosine_min", "score")


def log(found: FoundModel, texts: Corpus, rows: list[Row], report: dict) -> None:
    """Log the report, its chart, and its numbers as metrics of the model."""
    mlflow.log_dict(summary.as_json(report | {"corpus": texts.describe()}), "benchmark.json")
    source = texts.sources[0].place.name if len(texts.sources) == 1 else f"{len(texts.sources)} files"
    title = f"{found.name}, {report['texts']:,} texts of {source}\n{report['processor']}, {report['cores']} cores"
    with tempfile.TemporaryDirectory() as scratch:
        chart = Path(scratch) / "benchmark.png"
        benchmark.plot(rows, title, chart)
        mlflow.log_artifact(str(chart))
    metrics = {
        f"benchmark/{row.name.replace('/', '-')}/{name}": getattr(row, name)
        for row in rows
        for name in METRICS
        if getattr(row, name) is not None
    }
    log_corpus(locate_corpus(texts))
    mlflow.log_metrics(metrics, model_id=found.logged.model_id)


def main(call: Call[BenchmarkConf], opened: tuple[Corpus, Suite]) -> None:
    conf, (texts, suite) = call.conf, opened
    with runs.run("benchmark", call.config, call.as_yaml) as run:
        found = find_model(conf.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        tag_upstream(found.run_id, found.logged.model_id)
        rows, table, report = compare(conf, found, pick_texts(texts, conf.rows), suite)
        log(found, texts, rows, report)
        print(table)
        fastest = max(rows, key=lambda row: row.ratio)
        summary.show(
            "benchmark",
            {
                "run_id": run.info.run_id,
                "model_id": found.logged.model_id,
                "texts": report["texts"],
                "tokens_per_text": report["tokens_per_text"],
                "fastest": f"{fastest.name}, {fastest.ratio:.1f} x stock",
                "chart": f"runs:/{run.info.run_id}/benchmark.png",
            },
            ui_command(run),
        )
