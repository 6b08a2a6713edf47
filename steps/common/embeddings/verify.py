"""The check of an output: what a folder is, and whether a whole output still matches its manifest."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from steps.common.embeddings.digests import DIGESTS
from steps.common.embeddings.manifest import (
    CHANGES,
    COPY,
    MANIFEST,
    OURS,
    REJECTS,
    Manifest,
    check_files,
    find_manifest,
    read_copy,
)
from steps.common.embeddings.origin import Origin, find_other, read_facts
from steps.common.embeddings.parts import ENDINGS, File, Part, part_stem
from steps.common.embeddings.plan import shown
from steps.common.embeddings.records import find_rejects
from steps.common.errors import UserError, first_line
from steps.common.storage.output import DONE, PLAN, WORK, Output
from steps.common.storage.place import Place
from steps.common.vectors import STORED, stored_width

logger = logging.getLogger("steps")

# How a finding ends that encode does not repair.
MOVE = "; move it away"

# What a manifest says of its parts together, from what it says of each.
TOTALS = ("null_rows", "empty_rows", "long_rows", "truncated_rows", "tokens")

# The first version of which every output has a copy of its manifest.
COPIED_SINCE = 5

# What is shown of the model and the settings that made an output.
SHOWN = ("model_id", "hub_id", "registered_version", "model_digest", "backend", "prompt", "dtype", "git_commit")


def state_of(output: Output) -> str:
    """What an output is: `new` (no part of it is there), `interrupted`, `whole`, or `foreign`, not made by encode."""
    names = [name for name in output.names() if not name.startswith(f"{WORK}/claim-") and not name.endswith(".tmp")]
    if MANIFEST in names or (COPY in names and PLAN not in names):
        return "whole"
    if PLAN in names:
        # No part was written under this plan, so a new plan may replace it.
        return "interrupted" if any(name.startswith(("part-", f"{DONE}/part-")) for name in names) else "new"
    return "foreign" if names else "new"


def check_kinds(output: Output) -> None:
    """Raises UserError where a folder has the name of a file that encode writes, or a file that of a folder."""
    for name in output.folders():
        if OURS.fullmatch(name) or name in (MANIFEST, COPY, REJECTS, CHANGES) or name.startswith(f"{DONE}/"):
            raise UserError(f"{output.place.joined(name)} is a folder, expected a file. Move it away.")
    for name in output.names():
        if name in (WORK, DONE):
            raise UserError(f"{output.place.joined(name)} is a file, expected a folder. Move it away.")


def check_output(place: Place) -> Place:
    """Take a place for an output: new, empty, or what encode has written there before.

    Raises UserError for a file, or a folder that holds something else, cannot be written or has a folder for a file.
    """
    if place.info().type == fs.FileType.File:
        raise UserError(f"output {place} is a file; expected a folder that is new, empty or an output of encode.")
    output = Output(place)
    check_kinds(output)
    state, names = state_of(output), output.names()
    if state == "foreign" or (state == "whole" and not _is_ours(output, names)):
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(
            f"output {place} already holds {some}; expected a folder that is new, empty or an output of encode. Give another one, or move that away."
        )
    if place.local is not None:
        try:
            place.local.mkdir(parents=True, exist_ok=True)
            # Permissions do not show that a filesystem is read-only: write a file.
            with tempfile.TemporaryFile(dir=place.local):
                pass
        except OSError as error:
            raise UserError(f"output {place} cannot be written: {error.strerror}. Give another folder.") from None
    return place


def _is_ours(output: Output, names: list[str]) -> bool:
    """Whether a folder with a manifest.json is an output of encode: many tools call a file so."""
    manifest = output.read_json(MANIFEST)
    if (isinstance(manifest, dict) and isinstance(manifest.get("parts"), list)) or read_copy(output) is not None:
        return True
    rest = [
        name for name in names if name not in (MANIFEST, COPY, REJECTS, CHANGES) and not name.startswith(f"{WORK}/")
    ]
    return bool(rest) and all(OURS.fullmatch(name) for name in rest)


def remove_strays(output: Output, expected: Iterable[File]) -> None:
    """Remove files that look like parts of this output but are not. Other files stay."""
    for name in _find_strays(output, expected):
        if OURS.fullmatch(name) or name in (REJECTS, CHANGES):
            logger.warning("%s does not belong to this output, so it is removed", name)
            output.delete(name)
        else:
            logger.warning("%s was not made by encode. Move it away: a reader of part-* takes it for a part", name)


def _find_strays(output: Output, expected: Iterable[File]) -> list[str]:
    """Files that a reader would take for parts or rejects of the output; no other file there matters."""
    known = {file.name for file in expected}
    return [
        name
        for name in output.names()
        if name not in known and (name.startswith(("part-", f"{DIGESTS}/part-")) or name in (REJECTS, CHANGES))
    ]


def verify_output(output: Output) -> tuple[Manifest, list[str]]:
    """Check an output against its manifest: every file, every row, nothing more. Returns manifest and findings.

    Raises UserError without a manifest that can be read, and where a folder has the name of a file.
    """
    check_kinds(output)
    manifest = read_manifest(output)
    findings = []
    if not manifest.keeps_digest() or (manifest.digest is None and find_manifest(output) != manifest):
        findings.append(f"{MANIFEST} was changed since encode wrote it")
    damaged = check_files(output, manifest.files)
    findings += damaged
    sound = {file.name for file in manifest.files} - {finding.partition(" ")[0] for finding in damaged}
    for part in manifest.parts:
        if part.name in sound:
            findings += check_rows(output, part) or _check_columns(output, part, manifest)
        findings += check_origin(output, part, manifest.origin)
    findings += _check_order(manifest) + _check_totals(manifest) + _check_rejects(output, manifest, REJECTS in sound)
    for name in _find_strays(output, manifest.files):
        ours = OURS.fullmatch(name) or name in (REJECTS, CHANGES)
        findings.append(f"{name} is not in the manifest" + ("" if ours else MOVE))
    return manifest, findings


def check_copy(output: Output, manifest: Manifest) -> list[str]:
    """Whether the copy of a manifest, from which encode repairs it, is there and says the same. A run holds none.

    Apart from what `verify_output` finds: an output without its copy can be used like any other.
    """
    if manifest.format_version < COPIED_SINCE:
        return []
    if output.size(COPY) is None:
        # Also where it was downloaded since, no encode can repair what was made in a run.
        is_of_run = manifest.options.get("output") is None
        return [] if is_of_run else [f"{COPY}, the copy of the manifest, is missing"]
    copy = read_copy(output)
    if copy is None:
        return [f"{COPY}, the copy of the manifest, was changed since encode wrote it"]
    # Of a manifest that was changed itself, verify_output says so.
    is_other = manifest.keeps_digest() and copy != manifest
    return [f"{COPY}, the copy of the manifest, is that of another output"] if is_other else []


def check_whole(output: Output, where: str) -> Manifest:
    """The manifest of an output that is to be used; raises UserError where the output does not match it.

    Args:
        where: what the user knows the output by.
    """
    manifest, findings = verify_output(output)
    if findings:
        raise UserError(
            f"embeddings {where} do not match their manifest, {len(findings)} finding(s): {'; '.join(findings[:3])}. {describe_remedy(findings)}"
        )
    return manifest


def read_manifest(output: Output) -> Manifest:
    """What manifest.json says, changed or not; raises UserError where it is missing or cannot be read."""
    state = state_of(output)
    if state == "interrupted":
        raise UserError(
            f"output {output} is not complete: encode is still running, or was stopped. Run the same encode again to resume it."
        )
    if state != "whole":
        raise UserError(f"output {output} has no {MANIFEST}; expected a folder that encode has written.")
    if output.size(MANIFEST) is None:
        raise UserError(f"output {output} has lost its {MANIFEST}. Run the same encode again to write it again.")
    try:
        return Manifest.from_json(output.read_json(MANIFEST))
    except ValueError as error:
        # Says so where encode cannot repair it: an unknown version, and no copy of one that is known.
        find_manifest(output)
        raise UserError(
            f"{MANIFEST} of output {output} cannot be read: {error}. Run the same encode again to write it again."
        ) from None


def describe_origin(manifest: Manifest) -> dict[str, str]:
    """Whose embeddings an output holds, in a few facts; a manifest without an origin says some of them elsewhere."""
    if manifest.origin is not None:
        facts = manifest.origin.facts()
        return {name: facts[name] for name in SHOWN if name in facts}
    model, backend = manifest.model, manifest.backend
    known = {
        "model_id": model.get("model_id"),
        "hub_id": model.get("hub_id"),
        "registered_version": model.get("registered"),
        "backend": "/".join(str(backend[name]) for name in ("name", "precision") if name in backend),
        "git_commit": manifest.code_commit,
    }
    return {name: str(value) for name, value in known.items() if value}


def describe_remedy(findings: list[str]) -> str:
    """What to do about what verify has found."""
    foreign = sum(finding.endswith(MOVE) for finding in findings)
    if not foreign:
        return "Run the same encode again to repair it."
    rest = "; run the same encode again to repair the rest" if foreign < len(findings) else ""
    return f"Move away the files that encode did not make{rest}."


def _check_order(manifest: Manifest) -> list[str]:
    """Whether the parts are in order and hold each row of the corpus once."""
    findings = []
    first = 0
    for index, part in enumerate(manifest.parts):
        stem = part_stem(index, len(manifest.parts))
        if part.name.partition(".")[0] != stem:
            findings.append(f"{part.name} is part {index} in the manifest, expected {stem}")
        if part.first_row != first:
            findings.append(f"{part.name} begins at row {part.first_row} of the corpus, expected {first}")
        first = part.first_row + part.rows
    if first != manifest.rows:
        findings.append(f"the parts hold {first} rows of the corpus, the manifest says {manifest.rows}")
    return findings


def _check_totals(manifest: Manifest) -> list[str]:
    """What a manifest says of the whole, compared with its parts and its plan."""
    sums = {"written_rows": sum(part.written_rows for part in manifest.parts)}
    sums |= {name: sum(part.counts.get(name, 0) for part in manifest.parts) for name in TOTALS}
    findings = [
        f"the parts have {name} {total}, the manifest says {getattr(manifest, name)}"
        for name, total in sums.items()
        if getattr(manifest, name) != total
    ]
    planned = manifest.plan.get("embedding")
    if isinstance(planned, dict):
        for name, asked in (("dtype", planned.get("dtype")), ("dim", planned.get("truncate_dim"))):
            if asked is not None and getattr(manifest, name) != asked:
                findings.append(f"the manifest says {name} {getattr(manifest, name)}, its plan {asked}")
    return findings


def _check_rejects(output: Output, manifest: Manifest, sound: bool) -> list[str]:
    """Whether rejects.parquet has a row for each row without an embedding; `sound`: its bytes match the manifest."""
    nulls = sum(part.counts.get("null_rows", 0) for part in manifest.parts)
    if manifest.rejects is None:
        return [f"the parts have null_rows {nulls}, the manifest names no {REJECTS}"] if nulls else []
    if not sound:
        return []
    rows = find_rejects(output, manifest)
    found = None if rows is None else rows.num_rows
    return [] if found == nulls else [f"{REJECTS} has {found} rows, expected {nulls}"]


def _check_columns(output: Output, part: Part, manifest: Manifest) -> list[str]:
    """Compare the columns of a part with what the manifest says of all of them."""
    if manifest.dtype not in STORED:
        return [f"the manifest says dtype {manifest.dtype}, expected one of {', '.join(STORED)}"]
    expected = (stored_width(manifest.dim, manifest.dtype), np.dtype(STORED[manifest.dtype]))
    _, width, kind, names = _read_shape(output, part)
    findings = []
    if kind != expected[1] or width not in (None, expected[0]):
        findings.append(f"{part.name} holds vectors of {width or 'some'} {kind}, expected {expected[0]} {expected[1]}")
    plan: dict[str, Any] = manifest.plan
    kept = plan["corpus"].get("keep_columns") if isinstance(plan.get("corpus"), dict) else None
    if names is not None and isinstance(plan.get("keep_text"), bool) and isinstance(kept, list):
        columns = ["id", *(["text"] if plan["keep_text"] else []), *kept, "embedding"]
        columns[1:1] = ["chunk"] if "chunk" in names else []
        if names != columns:
            findings.append(f"{part.name} has the columns {', '.join(names)}; expected {', '.join(map(str, columns))}")
    return findings


def _read_shape(output: Output, part: Part) -> tuple[int, int | None, np.dtype, list[str] | None]:
    """Rows, width (None where every row is null), type of the numbers and columns (None of a matrix) of a part."""
    place = output.place.joined(part.name)
    width: int | None
    with place.filesystem.open_input_file(place.path) as stream:
        if part.name.endswith(ENDINGS["npy"]):
            np.lib.format.read_magic(stream)
            (rows, width), _, kind = np.lib.format.read_array_header_1_0(stream)
            return rows, width, kind, None
        file = pq.ParquetFile(stream)
        column = file.schema_arrow.field("embedding").type
        width = column.list_size if pa.types.is_fixed_size_list(column) else _read_first_width(file)
        kind = np.dtype(column.value_type.to_pandas_dtype())
        return file.metadata.num_rows, width, kind, file.schema_arrow.names


def _read_first_width(file: pq.ParquetFile) -> int | None:
    """Numbers of the first vector of a part whose rows may be null."""
    for batch in file.iter_batches(batch_size=64, columns=["embedding"]):
        vectors = batch.column("embedding").drop_null()
        if len(vectors):
            return len(vectors[0])
    return None


def check_rows(output: Output, part: Part) -> list[str]:
    """Compare the rows of a part that is there with what is noted of it."""
    try:
        rows = _read_shape(output, part)[0]
    except (ValueError, KeyError, AttributeError, OSError, pa.ArrowException) as error:
        return [f"{part.name} cannot be read: {first_line(error)}"]
    return [] if rows == part.written_rows else [f"{part.name} has {rows} rows, expected {part.written_rows}"]


def check_origin(output: Output, part: Part, origin: Origin | None) -> list[str]:
    """Compare the metadata of a part, its model and settings, with the origin of the output; of a damaged part, what can be read.

    A matrix has them in the file beside it.
    """
    if origin is None:
        return []
    place = output.place.joined(part.table)
    with (
        contextlib.suppress(OSError, ValueError, pa.ArrowException),
        place.filesystem.open_input_file(place.path) as stream,
    ):
        other = find_other(read_facts(pq.read_schema(stream)), origin)
        return [f"{part.name}: its metadata does not match the origin of the output: {shown(other)}"] if other else []
    return []
