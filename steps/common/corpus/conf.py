"""The node `corpus` of a config: which files are read, and how a text is made of each row."""

import string
from dataclasses import dataclass, field
from enum import StrEnum

from steps.common.corpus import readers
from steps.common.corpus.readers.format import Dialect
from steps.common.corpus.rows import Column
from steps.common.errors import UserError


class Quoting(StrEnum):
    csv = "csv"
    none = "none"


class OnBadRow(StrEnum):
    """keep_nulls keeps the row of a null text, with a null embedding, embeds an empty text, and refuses a row that cannot
    be read. keep_all keeps all of these rows, with a null embedding. refuse_all refuses them."""

    keep_nulls = "keep_nulls"
    keep_all = "keep_all"
    refuse_all = "refuse_all"


class LongText(StrEnum):
    truncate = "truncate"
    error = "error"
    chunk = "chunk"


class ChunkPooling(StrEnum):
    mean = "mean"
    none = "none"


@dataclass
class CorpusConf:
    """Texts to read. The defaults are in conf/."""

    path: str
    format: str = field(metadata={"one_of": readers.names})
    text_column: str
    template: str | None
    delimiter: str | None
    quoting: Quoting
    on_bad_row: OnBadRow

    @property
    def text_columns(self) -> list[Column]:
        if self.template is None:
            return [Column(self.text_column, "string")]
        return [Column(name, "text") for name in template_columns(self.template)]

    @property
    def value_columns(self) -> list[Column]:
        """The column of the ids, if there is one, and those that go with the text."""
        return []

    @property
    def dialect(self) -> Dialect:
        delimiter = "\t" if self.delimiter in ("tab", "\\t") else self.delimiter
        return Dialect(delimiter, self.quoting == Quoting.csv)


@dataclass
class EncodedCorpusConf(CorpusConf):
    """Texts to read with their ids and other columns, and how long ones are treated."""

    id_column: str | None
    keep_columns: list[str]
    long_text: LongText
    chunk_overlap: int = field(metadata={"min": 0})
    chunk_pooling: ChunkPooling

    @property
    def value_columns(self) -> list[Column]:
        ids = [Column(self.id_column, "id")] if self.id_column is not None else []
        return ids + [Column(name) for name in self.keep_columns]


@dataclass
class PairedConf(CorpusConf):
    """Texts to read with what stands beside each, if there is a column of that."""

    second: Column | None

    @property
    def value_columns(self) -> list[Column]:
        return [self.second] if self.second else []


def template_columns(template: str) -> list[str]:
    """The columns that a template names, each once.

    Raises UserError for a template that names none, or holds more than names in braces.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"corpus.template={template!r} cannot be read: {error}. Write column names in braces, as in '{{title}}. {{body}}', and {{{{ for a brace itself."
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    odd = [name for _, name, spec, conversion in parts if name is not None and (not name or spec or conversion)]
    if odd or not names:
        raise UserError(
            f"corpus.template={template!r} {'names no column' if not names else 'holds more than column names in its braces'}; expected something like '{{title}}. {{body}}'."
        )
    return list(dict.fromkeys(names))
