"""Corpora are opened as encode opens them: what a test leaves out is as conf/encode.yaml has it."""

import functools
from pathlib import Path

import pyarrow as pa
from helpers.errors import refusal
from omegaconf import OmegaConf

from steps.common.corpus import opening
from steps.common.corpus.conf import EncodedCorpusConf
from steps.common.corpus.corpus import Corpus

ENCODE = Path(__file__).resolve().parents[2] / "conf" / "encode.yaml"


@functools.cache
def _defaults() -> dict:
    return OmegaConf.to_container(OmegaConf.load(ENCODE).corpus)


def make_conf(**options) -> EncodedCorpusConf:
    return EncodedCorpusConf(**{**_defaults(), **options})


def open_corpus(path, noted: dict | None = None, **options) -> Corpus:
    return opening.open_corpus(path, make_conf(path=str(path), **options), noted)


def read(corpus: Corpus, size: int = 1000) -> pa.Table:
    """All rows of a corpus, with the line and the reason of each fault; as many, and as many nulls, as it says itself."""
    table = pa.Table.from_batches(corpus.batches(size), corpus.schema)
    assert (table.num_rows, table["text"].null_count) == (corpus.rows, corpus.null_rows)
    return table


def table_of(path, size: int = 1000, **options) -> pa.Table:
    return read(open_corpus(path, **options), size)


def texts_of(path, **options) -> list:
    return table_of(path, **options)["text"].to_pylist()


def ids_of(path, **options) -> list:
    return table_of(path, **options)["id"].to_pylist()


def refusal_of(path, **options) -> str:
    """What is said of a corpus that cannot be opened, or not be read."""
    return refusal(table_of, path, **options)
