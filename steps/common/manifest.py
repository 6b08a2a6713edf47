"""What is noted of an output: a record of each part while it is made, the manifest when it is whole, and the check of both.

Knows neither MLflow nor Hydra.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common import files
from steps.common.errors import UserError
from steps.common.output import DONE, PLAN, WORK, Output
from steps.common.shards import ENDINGS, File, Part, file_facts, rejects_schema

MANIFEST = "manifest.json"
REJECTS = "rejects.parquet"
FORMAT_VERSION = 2


# What is known of an output while it is being made.


def write_record(output: Output, part: Part, rejects: pa.Table) -> None:
    """Note that a part is finished: written after its files, read by whoever goes on.

    Args:
        rejects: its rows without an embedding, by shards.rejects_schema.
    """
    stem = part.name.partition(".")[0]
    record = {"part": asdict(part), "rejects": _pack(rejects) if rejects.num_rows else None}
    output.write_text(f"{DONE}/{stem}.json", json.dumps(record, allow_nan=False))


def _pack(table: pa.Table) -> str:
    """A table as text: an id may be of any type that Arrow has, and JSON has few of them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode("ascii")


def read_rejects(record: dict, id_type: pa.DataType) -> pa.Table:
    """The rows without an embedding that a record holds, by shards.rejects_schema."""
    schema, rejects = rejects_schema(id_type), record["rejects"]
    if not isinstance(rejects, str):
        # None, or the rows themselves, as older code wrote them.
        return pa.Table.from_pylist(rejects or [], schema)
    with pa.ipc.open_stream(base64.b64decode(rejects)) as reader:
        table = reader.read_all()
    # What comes from rejects.parquet (restore) is as Parquet holds it, which has no seconds.
    return pa.table(
        [column if column.type == field.type else column.cast(field.type) for column, field in zip(table, schema)],
        schema=schema,
    ).combine_chunks()


def part_from(facts: dict) -> Part:
    return Part(**{**facts, "beside": [File(**file) for file in facts.get("beside", [])]})


def read_record(output: Output, stem: str) -> dict | None:
    """What write_record has noted of a part; None where it is not finished."""
    return output.read_json(f"{DONE}/{stem}.json")


def write_rejects(output: Output, id_type: pa.DataType, rejects: Iterable[pa.Table]) -> File | None:
    """Write `rejects.parquet`, a row for each corpus row without an embedding; None where there is none.

    Args:
        rejects: those of each part, in order.
    """
    temporary = output.workspace / f"{REJECTS}.tmp"
    try:
        writer = None
        for table in rejects:
            if table.num_rows:
                writer = writer or pq.ParquetWriter(temporary, rejects_schema(id_type), compression="zstd")
                writer.write_table(table)
        if writer is None:
            return None
        writer.close()
        file = file_facts(temporary, REJECTS)
        output.put(temporary, REJECTS)
        return file
    finally:
        temporary.unlink(missing_ok=True)


def write_manifest(output: Output, parts: Sequence[Part], facts: dict) -> str:
    """Write `manifest.json`, last of all: it says that the output is whole. Returns its text."""
    content = {"format_version": FORMAT_VERSION, **facts, "parts": [asdict(part) for part in parts]}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    output.write_text(MANIFEST, text)
    return text


def restore(output: Output) -> dict:
    """Write the records of a whole output again, so that what was damaged in it can be mended.

    Where the rejects are damaged or gone, the parts that may have some get no record, and are made again.

    Returns:
        Its plan, its runs and its ranges, as PLAN holds them of an output that is not whole.

    Raises:
        UserError: a manifest that cannot be read.
    """
    manifest = read_manifest(output)
    try:
        rows = _read_rejects(output, manifest["rejects"])
        for facts in manifest["parts"]:
            part = part_from(facts)
            # A row that was rejected is null.
            if rows is None and part.counts["null_rows"]:
                continue
            write_record(output, part, _between(rows, part.first_row, part.first_row + part.rows))
        return {name: manifest[name] for name in ("plan", "runs", "ranges")}
    except (TypeError, KeyError) as error:
        raise UserError(
            f"output {output} is of another version of this project ({error}). Give another output."
        ) from None


def _read_rejects(output: Output, facts: dict | None) -> pa.Table | None:
    """The rejected rows of a whole output; None where their file is not what the manifest says."""
    if facts is None:
        return rejects_schema(pa.null()).empty_table()
    try:
        content = output.read_bytes(REJECTS)
    except UserError:
        return None
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        return None
    return pq.read_table(pa.BufferReader(content))


def _between(rejects: pa.Table | None, first: int, end: int) -> pa.Table:
    """Those of rejected rows, which are in order, that are in a range of the corpus; no rows of None."""
    if rejects is None:
        return rejects_schema(pa.null()).empty_table()
    start, stop = np.searchsorted(rejects.column("row").to_numpy(), [first, end])
    return rejects.slice(start, stop - start)


# Checks.


def held(output: Output) -> str:
    """What an output is: `new` (no part of it is there), `interrupted`, `whole`, or `foreign`, something that no encode has made.

    Raises:
        UserError: it cannot be reached.
    """
    names = [name for name in output.names() if not name.startswith(f"{WORK}/claim-") and not name.endswith(".tmp")]
    if MANIFEST in names:
        return "whole"
    if PLAN in names:
        # A plan that nothing was computed by binds nobody: its run may have ended over the very option that is mended now.
        return "interrupted" if any(name.startswith(("part-", f"{DONE}/part-")) for name in names) else "new"
    return "foreign" if names else "new"


def check_output(place: files.Place) -> files.Place:
    """Take a place for an output: new, empty, or what encode has written there before.

    Raises:
        UserError: a file, a folder that holds something else, or one that cannot be written.
    """
    if place.info().type == files.fs.FileType.File:
        raise UserError(f"output {place} is a file; expected a folder that is new, empty or an output of encode.")
    output = Output(place, Path(tempfile.gettempdir()))
    if held(output) == "foreign":
        names = output.names()
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(
            f"output {place} already holds {shown}; expected a folder that is new, empty or an output of encode. Give another one, or move that away."
        )
    if place.local is not None:
        try:
            place.local.mkdir(parents=True, exist_ok=True)
            # Asking for permission says nothing of a filesystem that cannot be written.
            with tempfile.TemporaryFile(dir=place.local):
                pass
        except OSError as error:
            raise UserError(f"output {place} cannot be written: {error.strerror}. Give another folder.") from None
    return place


def check_files(output: Output, files_: Iterable[File]) -> list[str]:
    """Compare files with what they have to be; returns what is wrong, a line each."""
    findings = []
    for file in files_:
        found = output.facts(file.name)
        if found is None:
            findings.append(f"{file.name} is missing")
        elif found[0] != file.bytes:
            findings.append(f"{file.name} has {found[0]} bytes, expected {file.bytes}")
        elif found[1] != file.sha256:
            findings.append(f"{file.name} has SHA-256 {found[1][:12]}..., expected {file.sha256[:12]}...")
    return findings


def read_manifest(output: Output) -> dict:
    """The manifest of an output.

    Raises:
        UserError: there is none, or it is none of this project's.
    """
    state = held(output)
    if state == "interrupted":
        raise UserError(
            f"output {output} is not whole: encode was stopped before its end. Run the same encode again to go on."
        )
    if state != "whole":
        raise UserError(f"output {output} has no {MANIFEST}; expected a folder that encode has written.")
    manifest = output.read_json(MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("parts"), list):
        raise UserError(f"{MANIFEST} of output {output} cannot be read; the output cannot be trusted.")
    return manifest


def verify(output: Output) -> tuple[dict, list[str]]:
    """Check an output against its manifest: every file, every row, nothing more. Returns manifest and findings.

    Raises:
        UserError: there is no manifest.
    """
    manifest = read_manifest(output)
    try:
        parts = [part_from(facts) for facts in manifest["parts"]]
        rejects = [File(**manifest["rejects"])] if manifest.get("rejects") else []
    except (TypeError, KeyError) as error:
        raise UserError(f"{MANIFEST} of output {output} is of another version ({error}); encode again.") from None
    expected = [file for part in parts for file in part.files] + rejects
    findings = check_files(output, expected)
    sound = {file.name for file in expected} - {finding.partition(" ")[0] for finding in findings}
    findings += [line for part in parts if part.name in sound for line in _check_rows(output, part)]
    first = 0
    for part in parts:
        if part.first_row != first:
            findings.append(f"{part.name} begins at row {part.first_row} of the corpus, expected {first}")
        first = part.first_row + part.rows
    if first != manifest.get("rows"):
        findings.append(f"the parts hold {first} rows of the corpus, the manifest says {manifest.get('rows')}")
    known = {file.name for file in expected} | {MANIFEST}
    # A part too many would be read as one of the corpus; what else lies there is no business of ours.
    strays = [name for name in output.names() if name not in known and name.startswith("part-")]
    return manifest, findings + [f"{name} is not in the manifest" for name in strays]


def _check_rows(output: Output, part: Part) -> list[str]:
    with output.fetched(part.name) as path:
        try:
            if part.name.endswith(ENDINGS["npy"]):
                rows = len(np.load(path, mmap_mode="r"))
            else:
                rows = pq.read_metadata(path).num_rows
        except (ValueError, OSError, pa.ArrowException) as error:
            return [f"{part.name} cannot be read: {files.first_line(error)}"]
    return [] if rows == part.written_rows else [f"{part.name} has {rows} rows, expected {part.written_rows}"]
