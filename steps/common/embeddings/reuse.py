"""Vectors of another output: found by the digests of their texts, if the same model and options made them."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.embeddings.copies import READ, Copies, Damaged, fetch_checked
from steps.common.embeddings.digests import Index, digest_keys, digest_texts
from steps.common.embeddings.manifest import Manifest, Reused, find_manifest
from steps.common.embeddings.parts import Part
from steps.common.embeddings.plan import find_differences, flatten, shown
from steps.common.embeddings.verify import read_manifest, state_of
from steps.common.errors import UserError, first_line
from steps.common.storage.output import Output
from steps.common.storage.place import OF_MLFLOW

logger = logging.getLogger("steps")

# Reused texts that each process computes anew.
CHECKED = 32

# What stands for the newest output that can be reused, and how mlflow writes the ID of a run.
LATEST = "latest"

RUN_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Held:
    """What another output has of some texts."""

    # Which of them it has: bool [n].
    found: np.ndarray
    # Stored vectors [n, width], and tokens before truncation [n], -1 where it has not counted them; of the others nothing yet.
    vectors: np.ndarray
    lengths: np.ndarray

    def fill(self, vectors: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The vectors and token counts of all texts, once those that it does not have are computed."""
        self.vectors[~self.found], self.lengths[~self.found] = vectors, lengths
        return self.vectors, self.lengths


class Reuse:
    """A whole output to take vectors from; what of it does not match its manifest is as if it were not there.

    Used by one thread at a time. Another process that gets it reads for itself.
    """

    def __init__(self, output: Output, manifest: Manifest, where: str):
        """`where`: the folder or URI of the output, as a person would type it."""
        self.output, self.manifest, self.where = output, manifest, where
        self._starts = np.cumsum([0, *(part.written_rows for part in manifest.parts)])
        self._begin()

    def _begin(self) -> None:
        self._index: Index | None = None
        self._copies = Copies(self.output, self.manifest)
        self._damaged: set[int] = set()
        # How many texts are still to be computed anew.
        self.unchecked = CHECKED
        # Whether it was said that new vectors do not fit its ranges of int8.
        self.warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("output", "manifest", "where", "_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

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

    def log_other_versions(self, plan: dict[str, Any]) -> None:
        """Say where the code and the libraries that made it are not those of a plan."""
        names = ("code", "versions")
        lines = find_differences(*({name: one.get(name) for name in names} for one in (self.manifest.plan, plan)))
        if lines:
            logger.info("the reused output was made with other code or libraries: %s", shown(list(lines.values())))

    @property
    def sound_parts(self) -> list[Part]:
        """Its parts, without those that were found damaged so far."""
        return [part for number, part in enumerate(self.manifest.parts) if number not in self._damaged]

    @property
    def index(self) -> Index:
        """Where its texts are. Raises UserError where it has neither texts nor their digests."""
        if self._index is None:
            self._index = self._build()
        return self._index

    def _build(self) -> Index:
        firsts, seconds = (np.zeros(self._starts[-1], np.uint64) for _ in range(2))
        for number, part in enumerate(self.manifest.parts):
            row = start = self._starts[number]
            try:
                for digests in read_digests(self.output, part):
                    keys = digest_keys(digests)
                    firsts[row : row + len(keys)], seconds[row : row + len(keys)] = keys[:, 0], keys[:, 1]
                    row += len(keys)
            except (Damaged, ValueError, pa.ArrowException) as error:
                firsts[start : self._starts[number + 1]] = seconds[start : self._starts[number + 1]] = 0
                self._drop(number, error)
        return Index.build(firsts, seconds)

    def find(self, texts: list[str]) -> Held:
        """What it has of some texts."""
        rows = self.index.find(digest_keys(digest_texts(pa.array(texts, pa.string()))))
        vectors, lengths = self._copies.empty(len(rows)), np.full(len(rows), -1)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers[rows >= 0]).tolist():
            here = numbers == number
            try:
                if number not in self._damaged:
                    vectors[here], lengths[here] = self._copies.read(number, rows[here] - self._starts[number])
            except Damaged as error:
                self._drop(number, error)
            if number in self._damaged:
                rows[here] = -1
        return Held(rows >= 0, vectors, lengths)

    def forget(self) -> None:
        """Give back what was read of it, memory and room on the disk; which parts are damaged stays known."""
        self._index, self._copies = None, Copies(self.output, self.manifest)

    def _drop(self, number: int, error: Exception) -> None:
        logger.warning("%s of %s is not reused: %s", self.manifest.parts[number].name, self.where, first_line(error))
        self._damaged.add(number)


@dataclass(frozen=True)
class Asked:
    """Which old output an encode was asked to reuse."""

    # A folder, a URI, the ID of a run, or LATEST; None where nothing is reused.
    given: str | None
    # Opened, where it was named by its folder or URI.
    reuse: Reuse | None
    # What an encode that is resumed has noted of its old output.
    noted: Reused | None

    @property
    def is_place(self) -> bool:
        """Whether it is named by its folder or URI: mlflow is not needed to find it."""
        given = self.given or LATEST
        return given != LATEST and not RUN_ID.fullmatch(given) and given.partition(":/")[0] not in OF_MLFLOW


def read_digests(output: Output, part: Part) -> Iterator[pa.Array]:
    """The digest of the text of each row of a part, as noted beside it, or from the texts in it.

    Raises Damaged, and UserError for a part that has neither.
    """
    if part.digests is not None:
        with fetch_checked(output, part.digests) as path:
            for batch in pq.ParquetFile(path).iter_batches(READ, columns=["digest"]):
                yield batch.column("digest")
        return
    if output.size(part.table) is None:
        raise Damaged(f"{part.table} is missing")
    # Of an output elsewhere, this column alone is read.
    with output.opened(part.table) as stream:
        file = pq.ParquetFile(stream)
        if "text" not in file.schema_arrow.names:
            raise UserError(
                f"output {output} holds neither texts nor their digests, so it cannot be reused: an older version of this project wrote it, with keep_text=false. Encode once without reuse; what that writes can be reused."
            )
        for batch in file.iter_batches(READ, columns=["text"]):
            yield digest_texts(batch.column("text"))


def open_reuse(output: Output, where: str) -> Reuse:
    """A whole output to take vectors from; `where`: its folder or URI, as a person would type it.

    Raises UserError for an output that is not whole, was changed, or is of an unknown format.
    """
    manifest = find_manifest(output) if state_of(output) == "whole" else None
    if manifest is None:
        read_manifest(output)
        raise UserError(f"reuse={where}: its manifest.json was changed since encode wrote it. Give another output.")
    return Reuse(output, manifest, where)


def check_alike(reuse: Reuse, plan: dict[str, Any]) -> None:
    """Raises UserError where the vectors of an output are not what a plan, or what is known of it, would give."""
    lines = find_unlike(reuse, plan)
    if lines:
        raise UserError(
            f"reuse={reuse.where} holds vectors of other settings: {shown(lines)}. Vectors of two models do not mix. Give an output of the same model and options, or leave reuse out to compute every text."
        )


def find_unlike(reuse: Reuse, plan: dict[str, Any]) -> list[str]:
    """Where what decides the vector of a text differs, a line each; what is not known of the plan is left out."""
    before, now = _decisive(reuse.manifest.plan_record.current_plan), _decisive(plan)
    return list(find_differences({key: before.get(key) for key in now}, now).values())


def _decisive(plan: dict[str, Any]) -> dict[str, Any]:
    """What of a plan decides the vector of a text, beside code and versions: dotted keys."""
    flat = flatten({key: plan[key] for key in ("model", "backend", "embedding", "corpus") if key in plan})
    ignored = {"backend.batch_size", "backend.batch_tokens"}
    # Other versions may convert a model to other bytes that compute the same; int8 is calibrated anew.
    if flat.get("backend.precision") != "int8":
        ignored.add("backend.digest")
    kept = {key: value for key, value in flat.items() if not key.startswith("corpus.") and key not in ignored}
    if flat.get("corpus.long_text") == "chunk":
        kept |= {f"corpus.{name}": flat[f"corpus.{name}"] for name in ("long_text", "chunk_overlap", "chunk_pooling")}
    elif "corpus.long_text" in flat:
        # An output made with `error` holds no text that would have been cut.
        kept["corpus.long_text"] = "truncate"
    return kept
