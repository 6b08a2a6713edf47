"""Suites made of any corpus, without labels: each text has to be found again by a part of it."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from steps.common.corpus.conf import PairedConf
from steps.common.corpus.opening import open_corpus
from steps.common.corpus.rows import Column
from steps.common.errors import UserError
from steps.common.quality.columns import name_suite
from steps.common.quality.retrieval import Retrieval
from steps.common.quality.spec import SuiteSpec

# Rows read at a time, and the least characters that a query and a document have.
BATCH, LEAST = 8192, 12

# Least rows of a suite: the intervals of fewer say nothing.
LEAST_ROWS = 20


@dataclass(frozen=True)
class KnownItem(Retrieval):
    """Rows of a corpus: the title of each has to find its text; without titles, its first half the second. Every other row
    of the suite is there to distract.

    Known-item retrieval (Azzopardi, de Rijke and Balog 2007), with a part of the text for a query, as in the inverse cloze
    task (Lee, Chang and Toutanova 2019).
    """

    kind: ClassVar[str] = "known_item"

    @classmethod
    def read(cls, spec: SuiteSpec, path: Path) -> Self:
        """Take at most `spec.rows` rows of the corpus, by `spec.seed`: the same ones each time.

        Raises:
            UserError: no corpus, a column that is not there, or too few rows that can be used.
        """
        if spec.corpus is None:
            raise UserError(
                "suite.corpus is null; a suite of kind known_item needs a corpus. Type suite=own corpus.path=<file>."
            )
        where = spec.path or spec.corpus.path
        title = None if spec.title is None else Column(spec.title, "text", "suite.title")
        pairs = draw_pairs(where, PairedConf(**vars(spec.corpus), second=title), spec.rows, spec.seed)
        width = len(str(len(pairs)))
        keys = [f"{number:0{width}d}" for number in range(len(pairs))]
        return cls(
            name_suite(spec.name, Path(where)),
            Path(where),
            Path(where),
            queries=[query for query, _ in pairs],
            relevant=[frozenset({key}) for key in keys],
            documents={key: document for key, (_, document) in zip(keys, pairs)},
        )

    @property
    def digest(self) -> str:
        """SHA-256 of its queries and documents: of a large corpus only a few rows are in it."""
        made = json.dumps([self.queries, list(self.documents.values())], ensure_ascii=False)
        return hashlib.sha256(made.encode()).hexdigest()


def draw_pairs(where: str, conf: PairedConf, most: int, seed: int) -> list[tuple[str, str]]:
    """A query and its document from each of at most so many rows, drawn by a seed from those that can be used.

    Texts that occur twice are used once, and so are queries.

    Raises:
        UserError: fewer than LEAST_ROWS can be used.
    """
    rows = unusable = 0
    draw = random.Random(seed)
    seen: set[str] = set()
    kept: list[tuple[str, str]] = []
    for text, title in read_rows(where, conf):
        rows += 1
        pair = None if text is None else split(text, title, conf.second is not None)
        if pair is None or not seen.isdisjoint(pair):
            unusable += 1
            continue
        seen.update(pair)
        # A reservoir: each row so far is kept with the same probability (Vitter 1985).
        if len(kept) < most:
            kept.append(pair)
        elif (place := draw.randrange(rows - unusable)) < most:
            kept[place] = pair
    if len(kept) < LEAST_ROWS:
        needed = (
            "a title and a text" if conf.second is not None else f"a text that can be halved ({2 * LEAST} characters)"
        )
        raise UserError(
            f"{where} has {rows:,} rows, of which {rows - unusable} have {needed} of their own; a suite needs at least {LEAST_ROWS}. Give a larger corpus, or another column: corpus.text_column=<name>."
        )
    return kept


def read_rows(where: str, conf: PairedConf) -> Iterator[tuple[str | None, str | None]]:
    """The text of each row of a corpus, and its title."""
    for batch in open_corpus(where, conf).batches(BATCH):
        texts = batch.column("text").to_pylist()
        titles = [None] * len(texts) if conf.second is None else batch.column(conf.second.name).to_pylist()
        yield from zip(texts, titles)


def split(text: str, title: str | None, has_titles: bool) -> tuple[str, str] | None:
    """A query and its document: title and text, or without titles both halves of the text; None where one is too short."""
    query, document = ((title or "").strip(), text.strip()) if has_titles else halve(text.strip())
    return (query, document) if len(document) >= LEAST and len(query) >= (1 if has_titles else LEAST) else None


def halve(text: str) -> tuple[str, str]:
    """Cut a text at the white space nearest to its middle; in the middle, where a half would be short of words."""
    middle = len(text) // 2
    spaces = [place for place, character in enumerate(text) if character.isspace()]
    cut = min(spaces, key=lambda place: abs(place - middle), default=middle)
    if not LEAST <= cut <= len(text) - LEAST:
        cut = middle
    return text[:cut].strip(), text[cut:].strip()
