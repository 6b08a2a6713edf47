"""Vectors of another output: found by the digests of their texts, checked, and read from its parts."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.embeddings.digests import digest_keys, digest_texts
from steps.common.embeddings.manifest import Manifest, Reused, find_manifest
from steps.common.embeddings.parts import ENDINGS, File, Part, file_facts
from steps.common.embeddings.plan import find_differences, flatten, shown
from steps.common.embeddings.verify import read_manifest, state_of
from steps.common.errors import UserError, first_line
from steps.common.storage.output import Output
from steps.common.vectors import STORED, stored_width

logger = logging.getLogger("steps")

# Rows of digests or vectors that are read at a time.
READ = 8192

# Share of the room on a disk that copies of old parts may take.
SHARE = 4


@dataclass(frozen=True)
class Held:
    """What another output has of some texts."""

    # Which of them it has: bool [n].
    found: np.ndarray
    # Of those that it has: stored vectors [k, width], and tokens before truncation [k], -1 where it has not counted them.
    vectors: np.ndarray
    lengths: np.ndarray

    def fill(self, vectors: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The vectors and token counts of all texts, from those of the texts that it does not have."""
        all_vectors = np.empty((len(self.found), self.vectors.shape[1]), self.vectors.dtype)
        all_lengths = np.empty(len(self.found), np.int64)
        all_vectors[self.found], all_lengths[self.found] = self.vectors, self.lengths
        all_vectors[~self.found], all_lengths[~self.found] = vectors, lengths
        return all_vectors, all_lengths


@dataclass(frozen=True)
class Index:
    """Digests of texts -> rows, numbered through all parts of an output. It takes 24 bytes a row, and 32 while it is made."""

    # First halves of the digests in order, the rows in that order, and the other halves by row.
    firsts: np.ndarray
    rows: np.ndarray
    seconds: np.ndarray

    @classmethod
    def build(cls, firsts: np.ndarray, seconds: np.ndarray) -> "Index":
        """Of digests as uint64 [rows] each, zeros where there is none."""
        rows = np.argsort(firsts, kind="stable")
        return cls(firsts[rows], rows, seconds)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The first row of each digest, uint64 [n, 2]: int64 [n], -1 where there is none.

        Of digests that agree in their first half, once in 10^19 pairs, the first row alone is found.
        """
        if not len(self.firsts):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.firsts, keys[:, 0]), len(self.firsts) - 1)
        rows = self.rows[at]
        return np.where((self.firsts[at] == keys[:, 0]) & (self.seconds[rows] == keys[:, 1]), rows, -1)


@dataclass
class Matrix:
    """The vectors of a part as rows of a temporary file, and the tokens of its texts where they are known."""

    file: IO[bytes]
    bytes: int
    lengths: np.ndarray | None

    def read(self, rows: np.ndarray, width: int, dtype: np.dtype) -> np.ndarray:
        """Some rows in any order: [n, width]. Rows that follow each other are read together."""
        size = width * dtype.itemsize
        distinct, inverse = np.unique(rows, return_inverse=True)
        found = np.empty((len(distinct), size), np.uint8)
        starts = np.flatnonzero(np.diff(distinct, prepend=-2) != 1)
        for start, end in zip(starts, [*starts[1:], len(distinct)]):
            os.preadv(self.file.fileno(), [memoryview(found[start:end]).cast("B")], int(distinct[start]) * size)
        return found.view(dtype)[inverse]


def open_reuse(output: Output, where: str) -> "Reuse":
    """A whole output to take vectors from; `where`: its folder or URI, as a person would type it.

    Raises UserError for an output that is not whole, was changed, or is of an unknown format.
    """
    manifest = find_manifest(output) if state_of(output) == "whole" else None
    if manifest is None:
        read_manifest(output)
        raise UserError(f"reuse={where}: its manifest.json was changed since encode wrote it. Give another output.")
    return Reuse(output, manifest, where)


def check_alike(reuse: "Reuse", plan: dict[str, Any]) -> None:
    """Raises UserError where the vectors of an output are not what a plan, or what is known of it, would give."""
    lines = find_unlike(reuse, plan)
    if lines:
        raise UserError(
            f"reuse={reuse.where} holds vectors of other settings: {shown(lines)}. Vectors of two models do not mix. Give an output of the same model and options, or leave reuse out to compute every text."
        )


def find_unlike(reuse: "Reuse", plan: dict[str, Any]) -> list[str]:
    """Where what decides the vector of a text differs, a line each; what is not known of the plan is left out."""
    before, now = _decisive(reuse.manifest.plan_record.current_plan), _decisive(plan)
    return list(find_differences({key: before.get(key) for key in now}, now).values())


def _decisive(plan: dict[str, Any]) -> dict[str, Any]:
    """What of a plan decides the vector of a text, beside code and versions: dotted keys."""
    flat = flatten({key: plan[key] for key in ("model", "backend", "embedding", "corpus") if key in plan})
    long_text = flat.get("corpus.long_text")
    ignored = {"backend.batch_size", "backend.batch_tokens"}
    # Another version may convert a model to other bytes that compute the same; int8 is calibrated anew.
    if flat.get("backend.precision") != "int8":
        ignored.add("backend.digest")
    kept = {key: value for key, value in flat.items() if not key.startswith("corpus.") and key not in ignored}
    if long_text is not None:
        # An output made with `error` holds no text that would have been cut.
        names = ("long_text", "chunk_overlap", "chunk_pooling") if long_text == "chunk" else ()
        kept |= {f"corpus.{name}": flat[f"corpus.{name}"] for name in names} or {"corpus.long_text": "truncate"}
    return kept


class Reuse:
    """The vectors of another output. Of its parts those are opened whose vectors are asked for, once each; what does not match
    its manifest is as if it were not there. Used by one thread at a time; another process that gets it reads for itself."""

    def __init__(self, output: Output, manifest: Manifest, where: str):
        """`where`: the folder or URI of the output, as a person would type it."""
        self.output, self.manifest, self.where = output, manifest, where
        self._index: Index | None = None
        self._open: OrderedDict[int, Matrix | None] = OrderedDict()
        self._starts = np.cumsum([0, *(part.written_rows for part in manifest.parts)])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None, "_open": OrderedDict()}

    @property
    def record(self) -> Reused:
        """What a new output notes of it."""
        plan = self.manifest.plan
        return Reused(
            run_id=self.manifest.run_id,
            output=self.where,
            manifest=self.manifest.identity,
            code=plan.get("code"),
            versions=plan.get("versions") or {},
        )

    @property
    def index(self) -> Index:
        """Where the texts of its parts are. Raises UserError where it has neither texts nor their digests."""
        if self._index is None:
            self._index = self._build()
        return self._index

    def _build(self) -> Index:
        firsts, seconds = (np.zeros(self._starts[-1], np.uint64) for _ in range(2))
        for number, part in enumerate(self.manifest.parts):
            row = self._starts[number]
            try:
                for digests in self._read_digests(part):
                    keys = digest_keys(digests)
                    end = row + len(keys)
                    firsts[row:end], seconds[row:end] = keys[:, 0], keys[:, 1]
                    row = end
            except (_Damaged, ValueError, pa.ArrowException) as error:
                firsts[self._starts[number] : self._starts[number + 1]] = 0
                seconds[self._starts[number] : self._starts[number + 1]] = 0
                self._drop(number, first_line(error))
        return Index.build(firsts, seconds)

    def _read_digests(self, part: Part) -> Iterator[pa.Array]:
        """The digest of each row's text, as noted beside the part, or from the texts in it."""
        if part.digests is not None:
            with self._checked(part.digests) as path:
                for batch in pq.ParquetFile(path).iter_batches(READ, columns=["digest"]):
                    yield batch.column("digest")
            return
        if self.output.size(part.table) is None:
            raise _Damaged(f"{part.table} is missing")
        # Of an output elsewhere, this column alone is read.
        with self.output.opened(part.table) as stream:
            file = pq.ParquetFile(stream)
            if "text" not in file.schema_arrow.names:
                raise UserError(
                    f"reuse={self.where} holds neither texts nor their digests: an older version of this project wrote it, with keep_text=false. Encode once without reuse; later encodes can reuse that output."
                )
            for batch in file.iter_batches(READ, columns=["text"]):
                yield digest_texts(batch.column("text"))

    def find(self, texts: pa.Array) -> Held:
        """What it has of some texts, none of them null."""
        rows = self.index.find(digest_keys(digest_texts(texts)))
        width, dtype = stored_width(self.manifest.dim, self.manifest.dtype), np.dtype(STORED[self.manifest.dtype])
        vectors, lengths = np.empty((len(rows), width), dtype), np.full(len(rows), -1)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers[rows >= 0]).tolist():
            here = numbers == number
            matrix = self._opened(number)
            if matrix is None:
                rows[here] = -1
                continue
            in_part = rows[here] - self._starts[number]
            vectors[here] = matrix.read(in_part, width, dtype)
            if matrix.lengths is not None:
                lengths[here] = matrix.lengths[in_part]
        found = rows >= 0
        return Held(found, vectors[found], lengths[found])

    def _opened(self, number: int) -> Matrix | None:
        """A part, opened; None where it does not match its manifest."""
        if number not in self._open:
            try:
                self._open[number] = self._copy(self.manifest.parts[number])
            except (_Damaged, ValueError, pa.ArrowException) as error:
                self._drop(number, first_line(error))
        self._open.move_to_end(number)
        return self._open[number]

    def _drop(self, number: int, finding: str) -> None:
        logger.warning("%s of %s is not reused: %s", self.manifest.parts[number].name, self.where, finding)
        self._open[number] = None

    def _copy(self, part: Part) -> Matrix:
        lengths = None
        if part.digests is not None:
            with self._checked(part.digests) as path:
                tokens = pq.read_table(path, columns=["tokens"]).column("tokens")
                lengths = tokens.fill_null(0).to_numpy()
        width, dtype = stored_width(self.manifest.dim, self.manifest.dtype), np.dtype(STORED[self.manifest.dtype])
        self._make_room(part.written_rows * width * dtype.itemsize)
        # Nameless, so that it is gone with this process.
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _make_room, or with this process
        with self._checked(part.files[0]) as path:
            if part.name.endswith(ENDINGS["npy"]):
                with path.open("rb") as stream:
                    np.lib.format.read_magic(stream)
                    np.lib.format.read_array_header_1_0(stream)
                    shutil.copyfileobj(stream, file)
            else:
                for batch in pq.ParquetFile(path).iter_batches(READ, columns=["embedding"]):
                    file.write(_to_matrix(batch.column("embedding"), width, dtype))
        file.flush()
        return Matrix(file, file.tell(), lengths)

    def _make_room(self, size: int) -> None:
        """Close the parts that were used least recently, so that the copies leave room on the disk."""
        room = shutil.disk_usage(tempfile.gettempdir()).free // SHARE
        held = sum(matrix.bytes for matrix in self._open.values() if matrix is not None)
        for number, matrix in list(self._open.items()):
            if held + size <= room:
                return
            if matrix is not None:
                matrix.file.close()
                held -= matrix.bytes
                del self._open[number]

    @contextlib.contextmanager
    def _checked(self, file: File) -> Iterator[Path]:
        """A file on this machine; raises _Damaged where it does not match the manifest."""
        if self.output.size(file.name) is None:
            raise _Damaged(f"{file.name} is missing")
        with self.output.fetched(file.name) as path:
            if file_facts(path, file.name) != file:
                raise _Damaged(f"{file.name} does not match its manifest")
            yield path


class _Damaged(Exception):
    """A file of an output is not what its manifest says."""


def _to_matrix(column: pa.Array, width: int, dtype: np.dtype) -> bytes:
    """The bytes of a batch of vectors, zeros where null."""
    matrix = np.zeros((len(column), width), dtype)
    matrix[column.is_valid().to_numpy(zero_copy_only=False)] = column.drop_null().flatten().to_numpy().reshape(-1, width)
    return matrix.tobytes()
