"""Which columns of a corpus make a text, and what becomes of a row without one."""

import string
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from steps.common.corpus.readers.csv import advice
from steps.common.corpus.readers.lines import Dialect
from steps.common.corpus.rows import Column, Rows, null_like
from steps.common.errors import UserError
from steps.common.storage.place import Place

# What an output calls its own columns.
OUTPUT_COLUMNS = ("id", "text", "embedding", "chunk")

# Columns of a batch beside those of the corpus: the row's line in its file, and why it has no text.
LINE, REASON = "__line__", "__reason__"

RESERVED = (*OUTPUT_COLUMNS, LINE, REASON)


@dataclass(frozen=True)
class Fields:
    """Which columns of a corpus make a row, and what becomes of a row that has no text to embed.

    on_bad_row: "null" keeps its place, "error" refuses it, "auto" keeps the place of a null text and refuses the rest.
    """

    text_column: str
    id_column: str | None
    template: str | None
    keep_columns: tuple[str, ...]
    on_bad_row: str
    dialect: Dialect = Dialect()

    @property
    def text_columns(self) -> list[Column]:
        if self.template is None:
            return [Column(self.text_column, "string")]
        return [Column(name, "text") for name in template_columns(self.template)]

    @property
    def value_columns(self) -> list[Column]:
        ids = [Column(self.id_column, "id")] if self.id_column is not None else []
        return ids + [Column(name) for name in self.keep_columns]


def check_fields(fields: Fields, format: str, place: Place, keys: dict[str, str | None]) -> None:
    if format == "text":
        kept = [name for name in fields.keep_columns if name not in keys]
        for key, given in (("id_column", fields.id_column), ("template", fields.template), ("keep_columns", kept)):
            if given:
                raise UserError(
                    f"a text file has no columns, so corpus.{key}={given} cannot be read from {place}; leave it out to number the lines."
                )
    taken = [name for name in fields.keep_columns if name in RESERVED]
    if taken:
        raise UserError(
            f"corpus.keep_columns names {taken[0]!r}, which is a name of the project's own ({', '.join(RESERVED)}). Rename the column, or leave it out."
        )
    if len(set(fields.keep_columns)) < len(fields.keep_columns):
        raise UserError(f"corpus.keep_columns names a column twice: {', '.join(fields.keep_columns)}.")
    if fields.template is not None:
        template_columns(fields.template)


def template_columns(template: str) -> list[str]:
    """The columns that a template names, each once.

    Raises:
        UserError: a template that names none, or holds more than names in braces.
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


@dataclass(frozen=True)
class TextRows:
    """Rows of a file whose text is made, and judged."""

    texts: pa.Array
    values: list[pa.Array]
    lines: pa.Array | None
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.texts)


def fill(template: str, columns: list[Column], arrays: list[pa.Array]) -> pa.Array:
    """A text for each row: null where all its columns are null."""
    names = [column.name for column in columns]
    parts = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]
    texts = []
    for values in zip(*(array.to_pylist() for array in arrays)):
        row = dict(zip(names, values))
        filled = "".join(literal + (row[name] or "" if name is not None else "") for literal, name in parts)
        texts.append(filled if any(value is not None for value in values) else None)
    return pa.array(texts, pa.string())


def judge(place: Place, on_bad_row: str, made: TextRows, rows: Rows, first: int) -> TextRows:
    """Give every row without a text to embed its reason, and take its text away.

    Raises:
        UserError: a row that `on_bad_row` refuses.
    """
    reasons = made.reasons
    broken = sorted(reasons)
    if made.texts.null_count:
        for row in pc.indices_nonzero(pc.is_null(made.texts)).to_pylist():
            reasons.setdefault(row, "null")
    if on_bad_row != "auto":
        # Lengths before and after, so that the texts themselves are not gone through one by one.
        blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(made.texts)), 0)
        for row in pc.indices_nonzero(pc.fill_null(blank, False)).to_pylist():
            reasons.setdefault(row, "only white space" if made.texts[row].as_py() else "empty")
        for row in pc.indices_nonzero(pc.fill_null(pc.match_substring(made.texts, "\0"), False)).to_pylist():
            reasons.setdefault(row, "with a NUL character, as broken text has")
    refused = broken if on_bad_row == "auto" else sorted(reasons) if on_bad_row == "error" else []
    if refused:
        raise _refusal(place, refused[0], reasons[refused[0]], rows, first)
    return TextRows(null_like(made.texts, reasons), made.values, made.lines, reasons) if reasons else made


def _refusal(place: Place, row: int, reason: str, rows: Rows, first: int) -> UserError:
    where = f"line {rows.lines[row].as_py()}" if rows.lines is not None else f"row {first + row + 1}"
    what = f"the text is {reason}" if reason.startswith(("null", "empty", "only ", "with a NUL")) else reason
    remedy = " ".join(filter(None, [advice(place, reason), "corpus.on_bad_row=null keeps the place of such rows."]))
    return UserError(f"{place} {where}: {what}. {remedy}")
