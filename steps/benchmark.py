"""benchmark: compare the library's own encode with every backend that can run here, on your texts.

Reads   a run of log_model, validate or encode (run_id), a corpus, and a suite for the quality beside the speed.
Writes  a table on the screen; benchmark.json, benchmark.png and the same numbers as metrics in the run.

    mlflow run . -e benchmark -P run_id=<run of log_model> -P corpus=texts.csv
    python -m steps.benchmark run_id=latest corpus.path=/data/texts.parquet rows=2000 repeats=7
"""

import contextlib
import copy
import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from steps.common import inputs, kinds, project, summary
from steps.common.backends.kinds import check_candidates, keys
from steps.common.errors import UserError


def pick_texts(corpus, rows: int) -> list[str]:
    """Texts from evenly over a corpus.Corpus, those that are null left out; all of them where there are fewer."""
    present = corpus.rows - corpus.null_rows
    step = max(1, present // rows)
    texts, seen = [], 0
    for batch in corpus.batches(8192):
        for text in batch.column("text").drop_null().to_pylist():
            if seen % step == 0 and len(texts) < rows:
                texts.append(text)
            seen += 1
    return texts


def load_contenders(cfg: DictConfig, found, folder, native, stack: contextlib.ExitStack) -> tuple[list, dict]:
    """The library itself and every candidate that can run here, loaded; and why the others are not there."""
    from steps.common import benchmark
    from steps.common import model as models
    from steps.common.backends.check import Refused
    from steps.common.backends.hardware import pick_devices, why_emulated

    settings = OmegaConf.to_object(cfg.backend)
    device = pick_devices(settings.device)[0]
    stock = native if device == "cpu" else copy.deepcopy(native).to(device)

    def encode(texts: list[str]):
        return stock.encode(texts, show_progress_bar=False)

    contenders, left_out = [benchmark.Contender(benchmark.STOCK, "f32", encode, 0.0, 0.0)], {}
    for name in cfg.candidates if cfg.candidates is not None else keys():
        emulated = why_emulated(name.partition("/")[2], device)
        if emulated and cfg.candidates is None:
            left_out[name] = f"{emulated}; candidates=[{name}] times it nevertheless"
            project.logger.warning("%s is left out: %s", name, left_out[name])
            continue
        before, start = benchmark.rss_mb(), time.perf_counter()
        try:
            backend = stack.enter_context(
                contextlib.closing(models.load_backend(found, folder, native, settings.of(name)))
            )
        except Refused as refused:
            project.logger.warning("%s is left out: %s", name, refused.reason)
            left_out[name] = refused.reason
            continue
        contenders.append(
            benchmark.Contender(
                name,
                backend.precision,
                backend.encode,
                time.perf_counter() - start,
                max(0.0, benchmark.rss_mb() - before),
                lambda backend=backend: backend.padding_share,
            )
        )
    return contenders, left_out


def compare(cfg: DictConfig, found, texts: list[str], suite) -> tuple[list, str, dict]:
    """Load, time and score every contender: a row for each, the table, and all there is to know as a dict."""
    from steps.common import benchmark, scoring
    from steps.common import found as founds
    from steps.common import model as models
    from steps.common.backends.hardware import pick_devices, usable_cores
    from steps.common.backends.tokens import make_tokenizer
    from steps.common.backends.torch import token_counter
    from steps.common.plan import versions

    folder = founds.download(found)
    native = models.load_native(folder)
    lengths = token_counter(native)(texts)
    if native.max_seq_length:
        lengths = lengths.clip(max=native.max_seq_length)
    device = pick_devices(cfg.backend.device)[0]
    base_mb = benchmark.rss_mb()
    with contextlib.ExitStack() as stack:
        contenders, left_out = load_contenders(cfg, found, folder, native, stack)
        early = benchmark.warm_up(contenders, texts, cfg.stop_below)
        for one in early:
            project.logger.warning("%s is stopped: %s", one.name, one)
        contenders = [one for one in contenders if one.name not in [slow.name for slow in early]]
        peaks = {contender.precision: None for contender in contenders}

        def before_round(number: int) -> None:
            project.logger.info("round %d of %d, %d texts", number + 1, cfg.repeats, len(texts))
            # In every round, as the contenders: whatever slows the machine down slows both.
            for precision, best in peaks.items():
                found = benchmark.matrix_peak(precision, device)
                peaks[precision] = found if best is None else max(best, found)

        rounds, late = benchmark.run_rounds(contenders, texts, cfg.repeats, before_round, cfg.stop_below)
        for one in late:
            project.logger.warning("%s is stopped: %s", one.name, one)
        contenders = [one for one in contenders if one.name in rounds]
        spearman = {contender.name: scoring.spearman(suite, contender.encode) for contender in contenders}
        rows = benchmark.summarize(
            contenders,
            rounds,
            spearman,
            tokens=int(lengths.sum()),
            # Of what reads no token ids, such as a bag of words, nobody knows the products.
            flops=benchmark.matrix_flops(native, lengths) if make_tokenizer(native, None) else None,
            peaks=peaks,
            base_mb=base_mb,
        )
    facts = {
        "processor": benchmark.processor(),
        "cores": usable_cores(),
        "device": device,
        "model": found.describe(),
        "suite": suite.name,
        "texts": len(texts),
        "tokens_per_text": float(lengths.mean()),
        "repeats": cfg.repeats,
        "versions": versions(),
    }
    stopped = early + late
    table = benchmark.as_table(rows, stopped, left_out)
    return rows, table, benchmark.as_dict(rows, stopped, left_out, peaks, **facts)


def main(cfg: DictConfig) -> None:
    check_candidates(cfg.candidates or [])
    corpus = cfg.corpus
    texts = inputs.open_corpus(
        corpus.path,
        corpus.format.name,
        corpus.text_column,
        None,
        delimiter=corpus.delimiter,
        quoting=corpus.quoting.name,
    )
    if texts.null_rows == texts.rows:
        raise UserError(
            f"corpus.path={corpus.path}: all {texts.rows:,} rows are null in {corpus.text_column!r}; expected at least one text. Name the column that holds them: -P corpus.text_column=<column>."
        )
    (suite,) = kinds.read_suites(inputs.find_suites([OmegaConf.to_object(cfg.suite)]))
    with project.run("benchmark", *project.resolve(cfg)) as run, tempfile.TemporaryDirectory() as scratch:
        import mlflow

        from steps.common import benchmark
        from steps.common import found as founds
        from steps.common import model as models

        found = founds.find_model(cfg.run_id, preceding="log_model", experiment_id=run.info.experiment_id)
        project.tag_upstream(found.run_id, found.logged.model_id)
        rows, table, report = compare(cfg, found, pick_texts(texts, cfg.rows), suite)

        mlflow.log_dict(summary.as_json(report | {"corpus": texts.describe()}), "benchmark.json")
        source = texts.sources[0].place.name if len(texts.sources) == 1 else f"{len(texts.sources)} files"
        chart = Path(scratch) / "benchmark.png"
        title = f"{found.describe()['hub_id'] or found.logged.name}, {report['texts']:,} texts of {source}\n{report['processor']}, {report['cores']} cores"
        benchmark.plot(rows, title, chart)
        mlflow.log_artifact(str(chart))
        names = (
            "ratio",
            "sentences_per_second",
            "tokens_per_second",
            "peak_share",
            "peak_mb",
            "cosine_min",
            "spearman",
        )
        metrics = {
            f"benchmark/{row.name.replace('/', '-')}/{name}": getattr(row, name)
            for row in rows
            for name in names
            if getattr(row, name) is not None
        }
        models.log_corpus(texts)
        mlflow.log_metrics(metrics, model_id=found.logged.model_id)
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
            project.ui_command(run),
        )


if __name__ == "__main__":
    project.launch("benchmark", main)
