"""search: ask an index in words.

Reads   a run of index (run_id), and a question (query), a file of them (queries) or the terminal (interactive=true).
Writes  the hits as a table on the screen, as hits.parquet, and as a table of the run.

    mlflow run . -e search -P run_id=<run of index> -P query="a red car"
    python -m steps.search run_id=latest interactive=true
"""

from steps.common.corpus import opening
from steps.common.corpus.corpus import Corpus
from steps.common.errors import UserError
from steps.common.launch.call import Call
from steps.common.launch.config import SearchConf
from steps.common.launch.paths import corpus_place, reading_as
from steps.common.launch.process import launch
from steps.common.search.filters import read_filter


def open_inputs(call: Call[SearchConf]) -> Corpus | None:
    """The file of questions, None without one; raises UserError where it cannot be read, or not one source of questions is given, or the filter is not JSON."""
    conf = call.conf
    given = [conf.query is not None, conf.queries.path is not None, conf.interactive]
    if sum(given) != 1:
        raise UserError(
            f'{"several of " if any(given) else "none of "}query, queries and interactive=true given; expected one. Type -P query="a red car".'
        )
    if conf.filter:
        read_filter(conf.filter)
    if conf.queries.path is None:
        return None
    with reading_as("queries"):
        return opening.open_corpus(corpus_place(conf.queries.path, "queries"), conf.queries)


if __name__ == "__main__":
    launch("search", open_inputs, manual=__doc__)

# The second half: what computes.

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.errors import clip
from steps.common.launch import summary
from steps.common.model.answers import QUERY, RANK, SCORE, TRUNCATED
from steps.common.model.indexes import find_index, load_index
from steps.common.model.semantic_search import Options, SemanticSearch
from steps.common.tracking import run as runs
from steps.common.tracking.tables import log_table

# Questions that are answered together.
TOGETHER = 512

# Hits that the screen and the table of the run show at most.
SHOWN, TABLED = 50, 1000


def read_questions(conf: SearchConf, texts: Corpus | None) -> Iterator[list[str]]:
    """The questions, those that are answered together at a time."""
    if texts is not None:
        for batch in texts.batches(TOGETHER):
            yield batch.column("text").drop_null().to_pylist()
    elif conf.query is not None:
        yield [conf.query]
    else:
        while question := ask():
            yield [question]


def ask() -> str:
    """A question from the terminal; empty at the end."""
    if sys.stdin.isatty():
        print("question (an empty line ends): ", end="", flush=True)
    return sys.stdin.readline().strip()


def answer(
    search: SemanticSearch, questions: Iterable[list[str]], options: Options, path: Path
) -> Iterator[tuple[int, pa.Table]]:
    """Answer questions into a Parquet file; yields how many were answered together, and their hits."""
    writer = None
    try:
        for texts in questions:
            hits = search.answer(texts, options)
            writer = writer or pq.ParquetWriter(path, hits.schema, compression="zstd")
            writer.write_table(hits)
            yield len(texts), hits
    finally:
        if writer is not None:
            writer.close()


def show(hits: pa.Table) -> None:
    """Print a table for each question."""
    columns = [name for name in hits.column_names if name not in (QUERY, TRUNCATED)]
    rows = hits.to_pylist()
    starts = [number for number, row in enumerate(rows) if row[RANK] == 1]
    for start, end in zip(starts, [*starts[1:], len(rows)]):
        cut = " (longer than the model reads: only its beginning was searched with)" if rows[start][TRUNCATED] else ""
        print(f"{chr(10) if start else ''}{clip(rows[start][QUERY])}{cut}")
        summary.show_table(
            columns,
            [
                [f"{row[name]:.4f}" if name == SCORE else clip(row[name], 80) for name in columns]
                for row in rows[start:end]
            ],
        )
    if not rows:
        print("no hits", flush=True)


def describe(conf: SearchConf, asked: int) -> str:
    """What was asked, for the name of the run."""
    if conf.query is not None:
        return f'"{conf.query}"'
    name = (conf.queries.path or "").rstrip("/").rpartition("/")[2]
    return f"{name} {asked:,} question{'s' if asked != 1 else ''}".lstrip()


def main(call: Call[SearchConf], texts: Corpus | None) -> None:
    conf = call.conf
    with runs.run("search", call.config, call.as_yaml) as run, tempfile.TemporaryDirectory() as scratch:
        uri = find_index(conf.run_id, experiment_id=run.info.experiment_id)
        search = load_index(uri)
        options = Options(conf.top_k, conf.minimum_score, conf.prompt_name, conf.filter)
        path = Path(scratch) / "hits.parquet"
        asked, found = 0, 0
        first: list[pa.Table] = []
        for count, hits in answer(search, read_questions(conf, texts), options, path):
            asked, found = asked + count, found + hits.num_rows
            if asked == count or conf.interactive:
                show(hits if conf.interactive else hits.slice(0, SHOWN))
            if sum(table.num_rows for table in first) < TABLED:
                first.append(hits.slice(0, TABLED))
        if first:
            mlflow.log_artifact(str(path))
            log_table(pa.concat_tables(first).slice(0, TABLED).to_pandas(), "hits.json", (RANK, SCORE))
        run.name(describe(conf, asked))
        mlflow.log_metrics({"search/queries": asked, "search/hits": found})
        summary.show(
            "search",
            {
                "run_id": run.info.run_id,
                "index": uri,
                "queries": asked,
                "hits": found,
                "table": f"runs:/{run.info.run_id}/hits.parquet",
            },
        )
