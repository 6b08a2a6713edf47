"""Parts of another output as matrices on this machine, from which any row is read at once."""

import contextlib
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.embeddings.manifest import Manifest
from steps.common.embeddings.parts import ENDINGS, File, Part, embedding_matrix, file_facts
from steps.common.storage.output import Output
from steps.common.storage.stream import BUFFER
from steps.common.vectors import STORED, stored_width

# Rows that are read of a file at a time.
READ = 2048

# Share of the room on a disk that the copies may take.
SHARE = 4


class Damaged(Exception):
    """A file of an output is not what its manifest says."""


@contextlib.contextmanager
def fetch_checked(output: Output, file: File) -> Iterator[Path]:
    """A file of an output on this machine; raises Damaged where it does not match the manifest."""
    if output.size(file.name) is None:
        raise Damaged(f"{file.name} is missing")
    with output.fetched(file.name) as path:
        if file_facts(path, file.name) != file:
            raise Damaged(f"{file.name} does not match its manifest")
        yield path


@dataclass(frozen=True)
class Copy:
    """The vectors of a part as rows of a temporary file, and the tokens of its texts where they are known."""

    file: IO[bytes]
    bytes: int
    lengths: np.ndarray | None


class Copies:
    """The vectors of an output, part by part: each is read whole, and checked, when one of its rows is first asked for."""

    def __init__(self, output: Output, manifest: Manifest):
        self._output, self._manifest = output, manifest
        self._width, self._dtype = stored_width(manifest.dim, manifest.dtype), np.dtype(STORED[manifest.dtype])
        self._copies: OrderedDict[int, Copy] = OrderedDict()

    def empty(self, rows: int) -> np.ndarray:
        """Room for vectors: [rows, width]."""
        return np.empty((rows, self._width), self._dtype)

    def read(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a part, in any order: vectors [n, width], and tokens of their texts [n], -1 where they are not known.

        Rows that follow each other are read together. Raises Damaged.
        """
        copy = self._find(number)
        distinct, inverse = np.unique(rows, return_inverse=True)
        vectors = self.empty(len(distinct))
        size = self._width * self._dtype.itemsize
        starts = np.flatnonzero(np.diff(distinct, prepend=-2) != 1)
        for start, end in zip(starts, [*starts[1:], len(distinct)]):
            os.preadv(copy.file.fileno(), [vectors[start:end].data], int(distinct[start]) * size)
        lengths = np.full(len(distinct), -1) if copy.lengths is None else copy.lengths[distinct]
        if len(distinct) == len(rows) and (distinct == rows).all():
            return vectors, lengths
        return vectors[inverse], lengths[inverse]

    def _find(self, number: int) -> Copy:
        if number not in self._copies:
            try:
                self._copies[number] = self._make(self._manifest.parts[number])
            except (ValueError, pa.ArrowException) as error:
                raise Damaged(str(error)) from error
        self._copies.move_to_end(number)
        return self._copies[number]

    def _make(self, part: Part) -> Copy:
        lengths = None
        if part.digests is not None:
            with fetch_checked(self._output, part.digests) as path:
                lengths = pq.read_table(path, columns=["tokens"]).column("tokens").fill_null(0).to_numpy()
        self._make_room(part.written_rows * self._width * self._dtype.itemsize)
        with fetch_checked(self._output, part.files[0]) as path:
            # Nameless, so that it is gone with this process.
            file = tempfile.TemporaryFile()  # noqa: SIM115 - _make_room closes it
            if part.name.endswith(ENDINGS["npy"]):
                with path.open("rb") as stream:
                    np.lib.format.read_magic(stream)
                    np.lib.format.read_array_header_1_0(stream)
                    shutil.copyfileobj(stream, file)
            else:
                # Page by page, not a row group at a time.
                rows = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
                for batch in rows.iter_batches(READ, columns=["embedding"]):
                    file.write(embedding_matrix(batch.column("embedding"), self._width, self._dtype).data)
        file.flush()
        return Copy(file, file.tell(), lengths)

    def _make_room(self, size: int) -> None:
        """Close the copies that were used least recently, until one of `size` bytes leaves room on the disk."""
        room = shutil.disk_usage(tempfile.gettempdir()).free // SHARE
        while self._copies and sum(copy.bytes for copy in self._copies.values()) + size > room:
            self._copies.popitem(last=False)[1].file.close()
