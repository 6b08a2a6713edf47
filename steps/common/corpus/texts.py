"""Which columns of a corpus make a text, and how a row without one is treated."""

import string
from collections.abc import Generator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from steps.common.corpus.conf import CorpusConf, OnBadRow, Quoting
from steps.common.corpus.readers.format import Format, Request
from steps.common.corpus.rows import Column, Mark, missing, null_like
from steps.common.errors import UserError
from steps.common.storage.place import Place

# What an output calls its own columns.
OUTPUT_COLUMNS = ("id", "text", "embedding", "chunk")

# Columns of a batch beside those of the corpus: the row's line in its file, and why it has no text.
LINE, REASON = "__line__", "__reason__"

RESERVED = (*OUTPUT_COLUMNS, LINE, REASON)


@dataclass(frozen=True)
class TextRows:
    """Rows of a file with their texts, null where there is none to embed, and the values of the other columns."""

    texts: pa.Array
    values: list[pa.Array]
    lines: pa.Array | None
    # Position -> why the row has no text.
    reasons: dict[int, str]
    next: Mark | None

    def __len__(self) -> int:
        return len(self.texts)


def check_conf(conf: CorpusConf, format: Format, place: Place | str, keys: dict[str, str | None]) -> None:
    """Raises UserError for a setting that cannot be used with a format; `keys` are the columns that folders name."""
    if format.delimiter is None and (conf.delimiter is not None or conf.quoting != Quoting.csv):
        given = f"delimiter={conf.delimiter}" if conf.delimiter is not None else f"quoting={conf.quoting}"
        raise UserError(
            f"corpus.{given} is for CSV and TSV, but the corpus is {format.name}. Leave it out, or give corpus.format."
        )
    delimiter = conf.dialect.delimiter
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(
            f"corpus.delimiter is {conf.delimiter!r}; expected one character that is no quote and no line end, or tab."
        )
    asked = {
        ("id_column" if column.kind == "id" else "keep_columns"): column.name
        for column in conf.value_columns
        if column.kind == "id" or column.name not in keys
    }
    asked |= {"template": conf.template} if conf.template is not None else {}
    if asked and not format.has_columns:
        key, value = next(iter(asked.items()))
        raise UserError(
            f"a {format.name} file has no columns, so corpus.{key}={value} cannot be read from {place}; leave it out to number the lines."
        )
    kept = [column.name for column in conf.value_columns if column.kind != "id"]
    taken = next((name for name in kept if name in RESERVED), None)
    if taken is not None:
        raise UserError(
            f"corpus.keep_columns names {taken!r}, which is reserved for the output's own column ({', '.join(RESERVED)}). Rename the column, or leave it out."
        )
    if len(set(kept)) < len(kept):
        raise UserError(f"corpus.keep_columns names a column twice: {', '.join(kept)}.")


def read_texts(request: Request, format: Format, conf: CorpusConf, keys: dict[str, str | None]) -> Generator[TextRows]:
    """Stream the rows of a file; raises UserError for one that cannot be read, or a row that `conf.on_bad_row` refuses.

    Args:
        request: without columns: they follow from `conf`.
        keys: columns that the file's folders name, and their values.
    """
    place, columns = request.place, conf.text_columns + conf.value_columns
    inside = [column for column in columns if column.name not in keys]
    if not inside:
        raise UserError(
            f"{place}: all requested columns are partition columns (folder names). The text column must be in the file."
        )
    seen = {} if request.keys is None else request.keys
    first = request.first
    for rows in format.read(replace(request, columns=inside, keys=seen)):
        held = iter(rows.arrays)
        arrays = [
            pa.array([keys[column.name]] * len(rows), pa.string()) if column.name in keys else next(held)
            for column in columns
        ]
        texts, values = arrays[: len(conf.text_columns)], arrays[len(conf.text_columns) :]
        text, reasons = take_texts(conf, texts, rows.reasons)
        stops = {OnBadRow.keep_nulls: rows.reasons, OnBadRow.keep_all: {}, OnBadRow.refuse_all: reasons}
        refused = min(stops[conf.on_bad_row], default=None)
        if refused is not None:
            if seen:
                # Where no object so far has the text's key, that is why the text is null: say so.
                check_text_key(place, conf, seen, keys)
            raise _refuse(place, format, reasons[refused], rows.where(refused, first))
        yield TextRows(text, values, rows.lines, reasons, rows.next)
        first += len(rows)


def take_texts(conf: CorpusConf, columns: list[pa.Array], broken: dict[int, str]) -> tuple[pa.Array, dict[int, str]]:
    """The text of each row, null where there is none to embed, and why not, by the rows' positions.

    Args:
        columns: the values of conf.text_columns. broken: rows that could not be read, and why.
    """
    text = columns[0] if conf.template is None else _fill(conf.template, conf.text_columns, columns)
    reasons = _find_reasons(text, broken, conf.on_bad_row)
    return null_like(text, reasons) if reasons else text, reasons


def check_text_key(place: Place, conf: CorpusConf, seen: dict[str, None], keys: dict[str, str | None]) -> None:
    """Raises UserError for a file in which no object has a text; `seen` are their keys."""
    columns = conf.text_columns
    if not any(column.name in seen or column.name in keys for column in columns):
        raise missing(place, list(seen), columns[0])


def _fill(template: str, columns: list[Column], arrays: list[pa.Array]) -> pa.Array:
    """A text for each row: null where all its columns are null."""
    names = [column.name for column in columns]
    parts = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]
    texts = []
    for values in zip(*(array.to_pylist() for array in arrays)):
        row = dict(zip(names, values))
        filled = "".join(literal + (row[name] or "" if name is not None else "") for literal, name in parts)
        texts.append(filled if any(value is not None for value in values) else None)
    return pa.array(texts, pa.string())


def _find_reasons(texts: pa.Array, broken: dict[int, str], on_bad_row: OnBadRow) -> dict[int, str]:
    """Why rows have no text to embed, by their position; `broken` are those that could not be read."""
    reasons = dict(broken)
    for row in pc.indices_nonzero(pc.is_null(texts)).to_pylist():
        reasons.setdefault(row, "null")
    if on_bad_row == OnBadRow.keep_nulls:
        return reasons
    # Lengths before and after, so that the texts themselves are not gone through one by one.
    blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)
    for row in pc.indices_nonzero(pc.fill_null(blank, False)).to_pylist():
        reasons.setdefault(row, "only white space" if texts[row].as_py() else "empty")
    for row in pc.indices_nonzero(pc.fill_null(pc.match_substring(texts, "\0"), False)).to_pylist():
        reasons.setdefault(row, "with a NUL character, as broken text has")
    return reasons


def _refuse(place: Place, format: Format, reason: str, where: str) -> UserError:
    what = f"the text is {reason}" if reason.startswith(("null", "empty", "only ", "with a NUL")) else reason
    remedy = "corpus.on_bad_row=keep_all keeps such rows, with a null embedding."
    advice = format.advise(place, reason)
    # A command comes last, so that nothing runs on behind it.
    both = [advice, remedy] if advice.endswith(".") else [remedy, advice]
    return UserError(f"{place} {where}: {what}. {' Or: '.join(filter(None, both))}")
