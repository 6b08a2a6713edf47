"""What is noted of an output: its plan while it is made, the manifest when it is whole."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from steps.common.embeddings.declared import read_declared
from steps.common.embeddings.digests import DIGESTS
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.parts import File, Part
from steps.common.errors import UserError
from steps.common.storage.output import PLAN, Output

MANIFEST = "manifest.json"

# The same text once more, from which a damaged or lost manifest is repaired.
COPY = ".manifest.json"

REJECTS = "rejects.parquet"

CHANGES = "changes.parquet"

# 3: the manifest always carries its digest, and the plan has a version too. 4: both have the origin, and so has each part.
# 5: the digests of the texts are beside each part, and both say what was reused. 2 to 4 are still read.
FORMAT_VERSION = 5

READABLE = (2, 3, 4, FORMAT_VERSION)

# Version 2's names for corpus.on_bad_row, and today's.
RENAMED_POLICIES = {"auto": "keep_nulls", None: "keep_all", "error": "refuse_all"}

# Names of the parts that encode makes.
OURS = re.compile(rf"part-\d{{5,}}\.(parquet|npy|ids\.parquet)|{DIGESTS}/part-\d{{5,}}\.parquet")


@dataclass(frozen=True)
class Changes:
    """`changes.parquet` (id, what) and how many ids are in it as added, changed and removed; an id is in it once."""

    file: File
    added: int
    changed: int
    removed: int

    def metrics(self) -> dict[str, int]:
        """How many ids there are of each kind, as metrics of an encode run."""
        return {f"encode/{what}_ids": getattr(self, what) for what in ("added", "changed", "removed")}


@dataclass(frozen=True)
class Reused:
    """The output whose vectors another output has taken."""

    run_id: str
    # Its folder or URI then, and the digest of its manifest.
    output: str
    manifest: str
    # What its plan says of the code and the libraries.
    code: str | None
    versions: dict[str, str]
    # Counted when the new output is whole: rows that have its vectors, and where both have ids, those that differ.
    rows: int = 0
    changes: Changes | None = None


@dataclass(frozen=True)
class PlanRecord:
    """What an output is made of, noted before its first part."""

    plan: dict[str, Any]
    # The run IDs that have worked on it, oldest first.
    runs: list[str]
    # What int8 is scaled between, [2, dim]; None for other types.
    ranges: list[list[float]] | None
    # Version 2 did not note it; write_plan notes the current one.
    format_version: int = 2
    # What each part says of the model and the settings that made it; noted from version 4 on.
    origin: Origin | None = None
    # Noted from version 5 on.
    reused: Reused | None = None

    @property
    def ranges_of_int8(self) -> np.ndarray | None:
        """The ranges as what computes takes them: float32 [2, dim]."""
        return np.array(self.ranges, np.float32) if self.ranges else None

    @property
    def current_plan(self) -> dict[str, Any]:
        """The plan, in the names that a plan of today has."""
        corpus = self.plan.get("corpus")
        if self.format_version != 2 or not isinstance(corpus, dict):
            return self.plan
        policy = corpus.get("on_bad_row", [])
        if isinstance(policy, (list, dict)):
            return self.plan
        return {**self.plan, "corpus": {**corpus, "on_bad_row": RENAMED_POLICIES.get(policy, policy)}}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says of a whole output: what made it, and every file of it with its size and digest."""

    format_version: int = FORMAT_VERSION
    run_id: str
    upstream_run_id: str
    validation: str | None
    model: dict[str, Any]
    corpus: dict[str, Any]
    backend: dict[str, Any]
    options: dict[str, Any]
    versions: dict[str, str]
    code_commit: str | None
    normalized: bool
    plan: dict[str, Any]
    runs: list[str]
    # Rows of the corpus, and rows written: more, where a long text has a row for each of its chunks.
    rows: int
    written_rows: int
    null_rows: int
    empty_rows: int
    long_rows: int
    truncated_rows: int
    tokens: int
    dim: int
    dtype: str
    # What int8 is scaled between, [2, dim]; None for other types.
    ranges: list[list[float]] | None
    rejects: File | None
    parts: list[Part]
    # What each part says of the model and the settings that made it; noted from version 4 on.
    origin: Origin | None = None
    # Noted from version 5 on.
    reused: Reused | None = None
    # SHA-256 of all of the above. Early manifests of version 2 have none.
    digest: str | None = None

    @classmethod
    def from_json(cls, content: Any) -> "Manifest":
        """Raises ValueError where some JSON is no manifest of a readable version; the message says what is wrong."""
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        version = content.get("format_version")
        if version not in READABLE:
            raise ValueError(f"format_version is {'missing' if version is None else version}")
        return read_declared(cls, content)

    def keeps_digest(self) -> bool:
        """Whether the manifest says what it said when it was written; true of one that was written without a digest."""
        if self.digest is None:
            return self.format_version == 2
        content = asdict(self)
        if self.format_version < 4:
            del content["origin"]
        if self.format_version < 5:
            del content["reused"]
        try:
            return self.digest == digest_of(content)
        except RecursionError:
            return False

    @property
    def plan_record(self) -> PlanRecord:
        return PlanRecord(
            self.plan, self.runs, self.ranges, self.format_version, origin=self.origin, reused=self.reused
        )

    @property
    def identity(self) -> str:
        """What no other output has: its digest."""
        return self.digest or digest_of(asdict(self))

    @property
    def files(self) -> list[File]:
        """Every file of the output but the manifest itself."""
        return list_files(self.parts, self.rejects, self.reused)


def list_files(parts: Iterable[Part], rejects: File | None, reused: Reused | None) -> list[File]:
    """Every file of an output but the manifest."""
    changes = reused.changes if reused else None
    more = [rejects, changes and changes.file]
    return [file for part in parts for file in part.files] + [file for file in more if file]


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of what some JSON says, however it is written; its own `digest` is left out."""
    # As it is read back: a key that is a number is a text then, and sorted as one.
    read = json.loads(json.dumps({name: value for name, value in content.items() if name != "digest"}))
    text = json.dumps(read, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_plan(output: Output, record: PlanRecord) -> None:
    """Note what an output is made of."""
    content = asdict(replace(record, format_version=FORMAT_VERSION))
    output.write_text(PLAN, json.dumps(content, allow_nan=False))


def read_plan(output: Output) -> PlanRecord | None:
    """What write_plan has noted; None where it is damaged or missing. Raises UserError for an unknown version."""
    content = output.read_json(PLAN)
    check_version(output, content)
    with contextlib.suppress(ValueError):
        return read_declared(PlanRecord, content)
    return None


def check_version(output: Output, content: Any) -> None:
    """Raises UserError where a manifest or plan says that it is of a version that this code does not read."""
    version = content.get("format_version", FORMAT_VERSION) if isinstance(content, dict) else FORMAT_VERSION
    if version not in READABLE:
        raise UserError(
            f"output {output} has format {version}, this version of the project reads formats {READABLE[0]} to {READABLE[-1]}. Use the version that wrote it, or give another output."
        )


def write_manifest(output: Output, manifest: Manifest) -> str:
    """Write `manifest.json` with its digest, last of all: it says that the output is whole. Returns its text."""
    text = as_text(manifest)
    output.write_text(COPY, text)
    output.write_text(MANIFEST, text)
    return text


def as_text(manifest: Manifest) -> str:
    """A manifest as JSON, with its digest."""
    content = asdict(manifest)
    return json.dumps(content | {"digest": digest_of(content)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def find_manifest(output: Output) -> Manifest | None:
    """The manifest of a whole output, or its copy: the unchanged one that agrees with more of the files that are there.

    Either may have come from another output. None where both were changed; raises UserError for an unknown version.
    """
    manifest, copy = _read_unchanged(output, MANIFEST), read_copy(output)
    known = [one for one in (manifest, copy) if one is not None]
    # A manifest without a digest says less than a copy that has one.
    known.sort(key=lambda one: one.digest is None)
    if len(known) == 2 and known[0] != known[1]:
        known.sort(key=lambda one: -_count_fitting(output, one))
    for one in known:
        if one is manifest or _count_fitting(output, one) or not _has_parts(output):
            return one
    check_version(output, output.read_json(MANIFEST))
    return None


def read_copy(output: Output) -> Manifest | None:
    """What the copy of a manifest says; None where it is not there, or is not what encode has written."""
    copy = _read_unchanged(output, COPY)
    return None if copy is None or copy.digest is None else copy


def _read_unchanged(output: Output, name: str) -> Manifest | None:
    with contextlib.suppress(ValueError):
        manifest = Manifest.from_json(output.read_json(name))
        return manifest if manifest.keeps_digest() else None
    return None


def _count_fitting(output: Output, manifest: Manifest) -> int:
    """How many of the files of a manifest are there, byte for byte."""
    return len(manifest.files) - len(check_files(output, manifest.files))


def _has_parts(output: Output) -> bool:
    return any(OURS.fullmatch(name) for name in output.names())


def check_files(output: Output, files: Iterable[File]) -> list[str]:
    """Compare files with what they have to be; returns what is wrong, a line each."""
    findings = []
    for file in files:
        found = output.facts(file.name)
        if found is None:
            findings.append(f"{file.name} is missing")
        elif found[0] != file.bytes:
            findings.append(f"{file.name} has {found[0]} bytes, expected {file.bytes}")
        elif found[1] != file.sha256:
            findings.append(f"{file.name} has SHA-256 {found[1][:12]}..., expected {file.sha256[:12]}...")
    return findings
