"""A file of any known format -> its rows."""

from collections.abc import Iterator

import pyarrow as pa

from steps.common.corpus.readers import lines as liness
from steps.common.corpus.readers.arrow import arrow_batches
from steps.common.corpus.readers.columns import columnar_chunk, slices
from steps.common.corpus.readers.csv import csv_records
from steps.common.corpus.readers.formats import DELIMITERS, LINE_FORMATS, split_name
from steps.common.corpus.readers.jsonl import json_records
from steps.common.corpus.readers.lines import HEAD, JQ, Dialect, check_head, chunks, command
from steps.common.corpus.readers.orc import orc_batches
from steps.common.corpus.readers.parquet import parquet_batches
from steps.common.corpus.readers.text import text_records
from steps.common.corpus.rows import Column, Rows
from steps.common.errors import UserError
from steps.common.storage.place import Place, first_line, reaching
from steps.common.storage.stream import open_bytes


def columnar_rows(place: Place, format: str, columns: list[Column], size: int) -> Iterator[Rows]:
    batches = {"parquet": parquet_batches, "arrow": arrow_batches, "orc": orc_batches}[format]
    try:
        for batch in batches(place, columns, size):
            for slice in slices(batch, size):
                yield columnar_chunk(slice, columns)
    except FileNotFoundError:
        raise UserError(f"there is nothing at {place} (any more). Check its spelling, or bring it back.") from None
    except PermissionError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}.") from None
    except (pa.ArrowException, OSError, OverflowError, ValueError, MemoryError) as error:
        raise UserError(f"{place} is damaged, or no file of {format}: {first_line(error)}.") from None


def read_rows(
    place: Place,
    format: str,
    columns: list[Column],
    size: int,
    digest=None,
    dialect: Dialect = Dialect(),  # noqa: B008 - frozen
    keys: dict[str, None] | None = None,
) -> Iterator[Rows]:
    """Stream columns of a file, at most `size` rows at a time. A text file has one column, the line.

    Args:
        digest: a hashlib object that is shown the file's bytes, in formats of lines.
        keys: takes the keys of the objects of JSON Lines, those asked for and some others. Without it a key that none
            of a file's objects has is an error.

    Raises:
        UserError: a file that cannot be read, with the line where there is one.
    """
    if format not in LINE_FORMATS:
        yield from columnar_rows(place, format, columns, size)
        return
    with reaching(place), open_bytes(place, split_name(place.name)[1], digest) as stream:
        check_head(place, format, stream.peek(1))
        if format == "jsonl" and stream.peek(1)[:1] == b"[":
            raise UserError(
                f"{place} holds one JSON array; expected one JSON object a line. Convert it first: {command(place, JQ, 'lines')}"
            )
        lines = liness.lines(place, stream, 0 in stream.peek(1)[:HEAD])
        if format == "text":
            records = text_records(lines)
        elif format == "jsonl":
            records = json_records(place, lines, columns, keys)
        else:
            delimiter = dialect.delimiter or DELIMITERS[format]
            records = csv_records(place, lines, columns, delimiter, format == "tsv", dialect.quoted)
        yield from chunks(place, records, columns, size, format)
