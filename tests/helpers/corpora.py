"""Corpora are opened as encode opens them: what a test leaves out is as conf/encode.yaml has it."""

import functools
from pathlib import Path

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
