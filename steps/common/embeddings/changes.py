"""What an output holds that another did not, by the ids of their rows: what a downstream index has to apply."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.corpus.types import PLAIN
from steps.common.embeddings.copies import READ, Damaged
from steps.common.embeddings.digests import digest_keys, digest_texts
from steps.common.embeddings.job import gather
from steps.common.embeddings.manifest import CHANGES, Changes, Reused, check_files
from steps.common.embeddings.parts import File, Part, file_facts
from steps.common.embeddings.reuse import Reuse, read_digests
from steps.common.errors import UserError, first_line
from steps.common.storage.output import Output

logger = logging.getLogger("steps")

# Numbers that are looked up at a time.
LOOKED_UP = 1 << 16

# Rows of `changes.parquet` that are written together.
WRITTEN = 1 << 16

# An odd number without a pattern, by which ids are spread before texts are added to them; it stands for no id, too.
SPREAD = np.uint64(0x9E3779B97F4A7C15)

BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)

# An output and its parts.
Side = tuple[Output, Sequence[Part]]


@dataclass(frozen=True)
class Made:
    """A new output: whether its corpus has ids, its parts, and how many of its rows have vectors of another."""

    has_ids: bool
    parts: list[Part]
    rows: int


def complete(reused: Reused | None, reuse: Reuse | None, output: Output, made: Made) -> Reused | None:
    """What a whole output notes of the one that was reused: how many rows, and where both have ids, what has changed.

    An encode that was resumed without the old output keeps what was found before.
    """
    if reused is None:
        return None
    changes = reused.changes
    if reuse is None:
        if changes is not None and check_files(output, [changes.file]):
            changes = None
    elif made.has_ids and reuse.manifest.corpus.get("id_column") is not None:
        parts = reuse.sound_parts
        # Looking for changes takes more memory than looking for texts did.
        reuse.forget()
        if len(parts) < len(reuse.manifest.parts):
            logger.warning("%s lists the ids of the damaged parts as added", CHANGES)
        try:
            changes = write_changes((reuse.output, parts), (output, made.parts))
        except (UserError, Damaged, ValueError, pa.ArrowException) as error:
            logger.warning("%s is not written: %s", CHANGES, first_line(error))
    return replace(reused, rows=made.rows, changes=changes)


def write_changes(old: Side, new: Side) -> Changes:
    """Write which ids were added, have another text, or are gone. It takes about 40 bytes of memory a row of an output.

    Ids of two types are the same where they read the same, 7 and "7", and are written as strings then, structs as JSON.
    """
    kinds = {_id_type(side) for side in (old, new) if side[1]}
    kind = kinds.pop() if len(kinds) == 1 else pa.string()
    ids_then, pairs_then = _read_numbers(old, kind)
    ids_now, pairs_now = _read_numbers(new, kind)
    is_known, is_same = _are_in(ids_now, ids_then), _are_in(pairs_now, pairs_then)
    is_there, is_kept = _are_in(ids_then, ids_now), _are_in(pairs_then, pairs_now)
    added, changed = _distinct(ids_now, ~is_known), _distinct(ids_now, is_known & ~is_same)
    # An id that stands there several times may have lost one of its texts.
    lost = _distinct(ids_then, is_there & ~is_kept)
    lost = lost[~_are_in(ids_then[lost], ids_now[changed])]
    removed = _distinct(ids_then, ~is_there)
    groups = [(new, added, "added"), (new, changed, "changed"), (old, lost, "changed"), (old, removed, "removed")]
    return Changes(_write(new[0], groups, kind), len(added), len(changed) + len(lost), len(removed))


def _write(output: Output, groups: list[tuple[Side, np.ndarray, str]], kind: pa.DataType) -> File:
    temporary = output.workspace / f"{CHANGES}.tmp"
    schema = pa.schema([("id", kind), ("what", pa.string())])
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for side, rows, what in groups:
                for ids in map(pa.concat_arrays, gather(_take_ids(side, rows), WRITTEN)):
                    writer.write_table(pa.table([_cast(ids, kind), pa.repeat(what, len(ids))], schema=schema))
        file = file_facts(temporary, CHANGES)
        output.put(temporary, CHANGES)
        return file
    finally:
        temporary.unlink(missing_ok=True)


def _id_type(side: Side) -> pa.DataType:
    output, parts = side
    with output.opened(parts[0].table) as stream:
        return pq.read_schema(stream).field("id").type


def _read_numbers(side: Side, kind: pa.DataType) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the corpus, a number that stands for its id, and one for the id with its text: uint64 [rows] each."""
    output, parts = side
    total = sum(part.rows for part in parts)
    ids, pairs = np.empty(total, np.uint64), np.empty(total, np.uint64)
    end = 0
    for part in parts:
        texts = _read_texts(output, part)
        start, end = end, end + len(texts)
        row = start
        for batch in _read_ids(output, part):
            ids[row : row + len(batch)] = _to_numbers(batch, kind)
            row += len(batch)
        pairs[start:end] = ids[start:end] * SPREAD + texts
    return ids, pairs


def _read_texts(output: Output, part: Part) -> np.ndarray:
    """A number for the text of each row of the corpus, of its chunks together: uint64 [rows]."""
    keys = [digest_keys(digests)[:, 0] for digests in read_digests(output, part)]
    numbers = np.concatenate([np.empty(0, np.uint64), *keys])
    firsts = _first_rows(output, part)
    if firsts is None:
        return numbers
    place = np.arange(len(numbers)) - np.repeat(firsts, np.diff([*firsts, len(numbers)]))
    return np.add.reduceat(numbers * SPREAD ** (place + 1).astype(np.uint64), firsts)


def _first_rows(output: Output, part: Part) -> np.ndarray | None:
    """Where each row of the corpus begins in a part that has a row for each chunk; None for another."""
    with output.opened(part.table) as stream:
        file = pq.ParquetFile(stream)
        if "chunk" not in file.schema_arrow.names:
            return None
        return np.flatnonzero(file.read(["chunk"]).column("chunk").to_numpy() == 0)


def _read_ids(output: Output, part: Part) -> Iterator[pa.Array]:
    """The ids of the rows of the corpus in a part."""
    firsts = _first_rows(output, part)
    row = 0
    with output.opened(part.table) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(READ, columns=["id"]):
            # Views have no kernel that takes some of them.
            ids = batch.column("id")
            ids = ids.cast(PLAIN.get(ids.type, ids.type))
            if firsts is not None:
                here = firsts[(firsts >= row) & (firsts < row + len(ids))] - row
                row += len(ids)
                ids = ids.take(pa.array(here))
            yield ids


def _to_numbers(ids: pa.Array, kind: pa.DataType) -> np.ndarray:
    """A number for each id: a whole number itself, of others the beginning of a digest of how they are written."""
    if pa.types.is_integer(kind):
        numbers = ids.fill_null(0).to_numpy().astype(np.uint64)
        return np.where(ids.is_null().to_numpy(zero_copy_only=False), SPREAD, numbers)
    is_binary = any(matches(ids.type) for matches in BINARY)
    return digest_keys(digest_texts(ids if is_binary else _cast(ids, pa.string())))[:, 0]


def _cast(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Ids as another type; as strings, structs and lists are written as JSON, which Arrow does not do."""
    if not pa.types.is_nested(ids.type) or not pa.types.is_string(kind):
        return ids.cast(kind)
    texts = [None if one is None else json.dumps(one, default=str, sort_keys=True) for one in ids.to_pylist()]
    return pa.array(texts, kind)


def _are_in(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some numbers are among others: bool [n]."""
    if not len(others):
        return np.zeros(len(numbers), bool)
    known, found = np.sort(others), np.empty(len(numbers), bool)
    for start in range(0, len(numbers), LOOKED_UP):
        part = numbers[start : start + LOOKED_UP]
        found[start : start + LOOKED_UP] = known[np.minimum(np.searchsorted(known, part), len(known) - 1)] == part
    return found


def _distinct(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first row of each id that is wanted, in order."""
    rows = np.flatnonzero(wanted)
    return np.sort(rows[np.unique(ids[rows], return_index=True)[1]])


def _take_ids(side: Side, rows: np.ndarray) -> Iterator[pa.Array]:
    """The ids of some rows of a corpus, in order; parts without one of them are not read."""
    output, parts = side
    first = 0
    for part in parts:
        here = rows[(rows >= first) & (rows < first + part.rows)] - first
        first += part.rows
        row = 0
        for ids in _read_ids(output, part) if len(here) else ():
            taken = here[(here >= row) & (here < row + len(ids))] - row
            row += len(ids)
            if len(taken):
                yield ids.take(pa.array(taken))
