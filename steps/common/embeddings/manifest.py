"""What is noted of an output: a record of each part while it is made, the manifest when it is whole, and the check of both.

Knows neither MLflow nor Hydra.
"""

import base64
import contextlib
import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.common.embeddings.parts import ENDINGS, File, Part, file_facts, part_stem, rejects_schema
from steps.common.errors import UserError
from steps.common.storage import place as files
from steps.common.storage.output import DONE, PLAN, WORK, Output
from steps.common.storage.place import Place, first_line
from steps.common.vectors import STORED, stored_width

logger = logging.getLogger("steps")


MANIFEST = "manifest.json"

# The same text once more: what mends a manifest that was damaged or is gone.
COPY = ".manifest.json"

REJECTS = "rejects.parquet"

FORMAT_VERSION = 2

# Files that encode makes: nobody else names theirs so.
OURS = re.compile(r"part-\d{5,}\.(parquet|npy|ids\.parquet)")

# How a finding ends that encode does not mend.
MOVE = "; move it away"

# What a manifest says of its parts together, from what it says of each.
TOTALS = ("null_rows", "empty_rows", "long_rows", "truncated_rows", "tokens")

# What is known of an output while it is being made.


def write_record(output: Output, part: Part, rejects: pa.Table) -> None:
    """Note that a part is finished: written after its files, read by whoever goes on.

    Args:
        rejects: its rows without an embedding, by shards.rejects_schema.
    """
    stem = part.name.partition(".")[0]
    record = {"part": asdict(part), "rejects": _pack(rejects) if rejects.num_rows else None}
    output.write_text(f"{DONE}/{stem}.json", json.dumps(record | {"digest": _digest(record)}, allow_nan=False))


def _digest(content: dict) -> str:
    """SHA-256 of what some JSON says, however it is written; its own `digest` is left out."""
    # As it is read back: a key that is a number is a text then, and sorted as one.
    read = json.loads(json.dumps({name: value for name, value in content.items() if name != "digest"}))
    text = json.dumps(read, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _pack(table: pa.Table) -> str:
    """A table as text: an id may be of any type that Arrow has, and JSON has few of them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode("ascii")


def read_rejects(record: dict, id_type: pa.DataType) -> pa.Table:
    """The rows without an embedding that a record holds, by shards.rejects_schema."""
    schema, rejects = rejects_schema(id_type), record["rejects"]
    if rejects is None:
        return schema.empty_table()
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
    """What write_record has noted of a part; None where it is not finished, or what is there is not what was noted."""
    record = output.read_json(f"{DONE}/{stem}.json")
    if not isinstance(record, dict) or record.get("digest") != _digest(record):
        return None
    if not isinstance(record.get("rejects", 0), (str, type(None))):
        return None
    return record if _part_of(record.get("part")) is not None else None


def _part_of(facts) -> Part | None:
    """The part that some JSON tells of; None where it is no part."""
    try:
        part = part_from(facts)
    except (TypeError, KeyError, ValueError):
        return None
    numbers = (part.first_row, part.rows, part.written_rows, *(file.bytes for file in part.files))
    numbers += tuple(part.counts.values()) if isinstance(part.counts, dict) else (None,)
    names = [text for file in part.files for text in (file.name, file.sha256)]
    sound = all(type(number) is int and number >= 0 for number in numbers) and isinstance(part.source, dict)
    return part if sound and all(isinstance(name, str) for name in names) else None


def _is_file(facts) -> bool:
    """Whether some JSON is a file's name, size and digest, or null."""
    kinds = {"name": str, "bytes": int, "sha256": str}
    return facts is None or (isinstance(facts, dict) and {name: type(value) for name, value in facts.items()} == kinds)


def is_plan(noted) -> bool:
    """Whether some JSON is what encode notes of the plan of an output."""
    kinds = {"plan": dict, "runs": list, "ranges": (list, type(None))}
    return isinstance(noted, dict) and all(isinstance(noted.get(name, 0), kind) for name, kind in kinds.items())


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
    """Write `manifest.json`, last of all: it says that the output is whole, and carries its own digest. Returns its text."""
    content = {"format_version": FORMAT_VERSION, **facts, "parts": [asdict(part) for part in parts]}
    content["digest"] = _digest(content)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    output.write_text(COPY, text)
    output.write_text(MANIFEST, text)
    return text


def known_manifest(output: Output) -> dict | None:
    """The manifest of a whole output: manifest.json or its copy, which may have come from another output, whichever is
    sound and agrees with more of the files that are there; None where neither does.

    Raises:
        UserError: a manifest of another version.
    """
    manifest, copy = output.read_json(MANIFEST), _copied(output)
    known = [one for one in (manifest, copy) if _is_sound(one)]
    # What carries no digest, as older code wrote it, says less than a copy that does.
    known.sort(key=lambda one: one is manifest and "digest" not in one)
    if len(known) == 2 and known[0] != known[1]:
        known.sort(key=lambda one: -_fitting(output, one))
    for one in known:
        if one is manifest or _fitting(output, one) or not _has_parts(output):
            return one
    if isinstance(manifest, dict) and manifest.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise UserError(
            f"output {output} is of another version of this project (format {manifest['format_version']}, here {FORMAT_VERSION}). Give another output."
        )
    return None


def _copied(output: Output) -> dict | None:
    """What the copy of a manifest says; None where it is not there, or is not what encode has written."""
    copy = output.read_json(COPY)
    return copy if _is_sound(copy) and "digest" in copy else None


def _is_sound(manifest) -> bool:
    """Whether some JSON is a manifest of this version, and nobody has changed it."""
    if not is_plan(manifest) or manifest.get("format_version") != FORMAT_VERSION or not _keeps_digest(manifest):
        return False
    parts = manifest.get("parts")
    sound = isinstance(parts, list) and all(_part_of(facts) is not None for facts in parts)
    return sound and _is_file(manifest.get("rejects", 0))


def _keeps_digest(manifest: dict) -> bool:
    """Whether a manifest says what its digest says; true of one without, as older code wrote it."""
    return "digest" not in manifest or manifest["digest"] == _digest(manifest)


def _fitting(output: Output, manifest: dict) -> int:
    """How many of the files of a manifest are there, byte for byte."""
    listed = [file for facts in manifest["parts"] for file in part_from(facts).files]
    listed += [File(**manifest["rejects"])] if manifest["rejects"] else []
    return len(listed) - len(check_files(output, listed))


def _has_parts(output: Output) -> bool:
    return any(OURS.fullmatch(name) for name in output.names())


def remove_strays(output: Output, expected: Iterable[File]) -> None:
    """Remove files that look like parts of this output, and are none. Others' files stay."""
    for name in _strays(output, {file.name for file in expected}):
        if OURS.fullmatch(name) or name == REJECTS:
            logger.warning("%s is none of the files of this output, so it is removed", name)
            output.delete(name)
        else:
            logger.warning("%s lies among the parts and is not encode's; move it away, part-* finds it", name)


def _strays(output: Output, known: set[str]) -> list[str]:
    """Files that a reader would take for parts or rejects of the output; what else lies there is no business of ours."""
    return [name for name in output.names() if name not in known and (name.startswith("part-") or name == REJECTS)]


def restore(output: Output) -> dict | None:
    """Write the records of a whole output again, so that what was damaged in it can be mended.

    Where the rejects are damaged or gone, the parts that may have some get no record, and are made again.

    Returns:
        Its plan, its runs and its ranges, as PLAN holds them of an output that is not whole; None where neither the
        manifest nor its copy can be read.

    Raises:
        UserError: a manifest of another version.
    """
    manifest = known_manifest(output)
    if manifest is None:
        return None
    rows = _read_rejects(output, manifest["rejects"])
    for facts in manifest["parts"]:
        part = part_from(facts)
        rejects = _between(rows, part.first_row, part.first_row + part.rows)
        # A row that was rejected is null.
        if rejects.num_rows == part.counts.get("null_rows", 0):
            write_record(output, part, rejects)
    return {name: manifest[name] for name in ("plan", "runs", "ranges")}


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
    with contextlib.suppress(pa.ArrowException):
        return pq.read_table(pa.BufferReader(content))
    return None


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
    if MANIFEST in names or (COPY in names and PLAN not in names):
        return "whole"
    if PLAN in names:
        # A plan that nothing was computed by binds nobody: its run may have ended over the very option that is mended now.
        return "interrupted" if any(name.startswith(("part-", f"{DONE}/part-")) for name in names) else "new"
    return "foreign" if names else "new"


def check_kinds(output: Output) -> None:
    """Raises UserError where a folder has the name of a file that encode writes, or a file that of a folder."""
    for name in output.folders():
        if OURS.fullmatch(name) or name in (MANIFEST, COPY, REJECTS) or name.startswith(f"{DONE}/"):
            raise UserError(f"{output.place.joined(name)} is a folder, expected a file. Move it away.")
    for name in output.names():
        if name in (WORK, DONE):
            raise UserError(f"{output.place.joined(name)} is a file, expected a folder. Move it away.")


def check_output(place: Place) -> Place:
    """Take a place for an output: new, empty, or what encode has written there before.

    Raises:
        UserError: a file, a folder that holds something else, or one that cannot be written or has a folder where a file goes.
    """
    if place.info().type == files.fs.FileType.File:
        raise UserError(f"output {place} is a file; expected a folder that is new, empty or an output of encode.")
    output = Output(place, Path(tempfile.gettempdir()))
    check_kinds(output)
    state, names = held(output), output.names()
    if state == "foreign" or (state == "whole" and not _is_ours(output, names)):
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


def _is_ours(output: Output, names: list[str]) -> bool:
    """Whether a folder with a manifest.json is an output of encode: many tools call a file so."""
    manifest = output.read_json(MANIFEST)
    if (isinstance(manifest, dict) and isinstance(manifest.get("parts"), list)) or _copied(output) is not None:
        return True
    rest = [name for name in names if name not in (MANIFEST, COPY, REJECTS) and not name.startswith(f"{WORK}/")]
    return bool(rest) and all(OURS.fullmatch(name) for name in rest)


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
    if output.size(MANIFEST) is None:
        raise UserError(f"output {output} has lost its {MANIFEST}. Run the same encode again to write it again.")
    manifest = output.read_json(MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("parts"), list):
        raise UserError(f"{MANIFEST} of output {output} cannot be read. Run the same encode again to write it again.")
    return manifest


def verify(output: Output) -> tuple[dict, list[str]]:
    """Check an output against its manifest: every file, every row, nothing more. Returns manifest and findings.

    Raises:
        UserError: there is no manifest, or none that can be read, or a folder has the name of a file.
    """
    check_kinds(output)
    manifest = read_manifest(output)
    parts = [_part_of(facts) for facts in manifest["parts"]]
    sound = is_plan(manifest) and None not in parts and _is_file(manifest.get("rejects", 0))
    if not sound or manifest.get("format_version") != FORMAT_VERSION:
        # Says so where no encode of this version mends it.
        known_manifest(output)
        raise UserError(
            f"{MANIFEST} of output {output} is damaged or of another version. Run the same encode again to write it again."
        )
    rejects = [File(**manifest["rejects"])] if manifest["rejects"] else []
    findings = []
    if not _keeps_digest(manifest) or ("digest" not in manifest and known_manifest(output) != manifest):
        findings.append(f"{MANIFEST} was changed since encode wrote it")
    expected = [file for part in parts for file in part.files] + rejects
    damaged = check_files(output, expected)
    sound = {file.name for file in expected} - {finding.partition(" ")[0] for finding in damaged}
    findings += damaged
    for part in parts:
        if part.name in sound:
            findings += check_rows(output, part) or _check_columns(output, part, manifest)
    findings += _check_content(manifest, parts)
    nulls = sum(part.counts.get("null_rows", 0) for part in parts)
    if not rejects and nulls:
        findings.append(f"the parts have null_rows {nulls}, the manifest names no {REJECTS}")
    elif rejects and REJECTS in sound:
        rows = _read_rejects(output, manifest["rejects"])
        found = None if rows is None else rows.num_rows
        findings += [] if found == nulls else [f"{REJECTS} has {found} rows, expected {nulls}"]
    strays = _strays(output, {file.name for file in expected})
    return manifest, findings + [
        f"{name} is not in the manifest" + ("" if OURS.fullmatch(name) or name == REJECTS else MOVE) for name in strays
    ]


def remedy(findings: list[str]) -> str:
    """What to do about what verify has found."""
    foreign = sum(finding.endswith(MOVE) for finding in findings)
    if not foreign:
        return "The same encode on this output mends it."
    rest = "; the same encode on this output mends the rest" if foreign < len(findings) else ""
    return f"Move away what is not encode's{rest}."


def _check_content(manifest: dict, parts: list[Part]) -> list[str]:
    """What a manifest says of its parts and of the whole, compared with each other."""
    findings = []
    first = 0
    for index, part in enumerate(parts):
        stem = part_stem(index, len(parts))
        if part.name.partition(".")[0] != stem:
            findings.append(f"{part.name} is part {index} in the manifest, expected {stem}")
        if part.first_row != first:
            findings.append(f"{part.name} begins at row {part.first_row} of the corpus, expected {first}")
        first = part.first_row + part.rows
    if first != manifest.get("rows"):
        findings.append(f"the parts hold {first} rows of the corpus, the manifest says {manifest.get('rows')}")
    sums = {"written_rows": sum(part.written_rows for part in parts)}
    sums |= {name: sum(part.counts.get(name, 0) for part in parts) for name in TOTALS}
    findings += [
        f"the parts have {name} {total}, the manifest says {manifest.get(name)}"
        for name, total in sums.items()
        if manifest.get(name) != total
    ]
    wanted = manifest["plan"].get("embedding")
    if isinstance(wanted, dict):
        for name, asked in (("dtype", wanted.get("dtype")), ("dim", wanted.get("truncate_dim"))):
            if asked is not None and manifest.get(name) != asked:
                findings.append(f"the manifest says {name} {manifest.get(name)}, its plan {asked}")
    return findings


def _check_columns(output: Output, part: Part, manifest: dict) -> list[str]:
    """Compare the columns of a part with what the manifest says of all of them."""
    try:
        dtype = manifest["dtype"]
        expected = (stored_width(manifest["dim"], dtype), np.dtype(STORED[dtype]))
    except (KeyError, TypeError):
        return [f"the manifest says dim {manifest.get('dim')} and dtype {manifest.get('dtype')}, which are none"]
    _, width, kind, names = _shape(output, part)
    findings = []
    if kind != expected[1] or width not in (None, expected[0]):
        findings.append(f"{part.name} holds vectors of {width or 'some'} {kind}, expected {expected[0]} {expected[1]}")
    plan = manifest["plan"]
    kept = plan.get("corpus", {}).get("keep_columns") if isinstance(plan.get("corpus"), dict) else None
    if names is not None and isinstance(plan.get("keep_text"), bool) and isinstance(kept, list):
        columns = ["id", *(["text"] if plan["keep_text"] else []), *kept, "embedding"]
        columns[1:1] = ["chunk"] if "chunk" in names else []
        if names != columns:
            findings.append(f"{part.name} has the columns {', '.join(names)}; expected {', '.join(columns)}")
    return findings


def _shape(output: Output, part: Part) -> tuple[int, int | None, np.dtype, list[str] | None]:
    """Rows, width (None where every row is null), type of the numbers and columns (None of a matrix) of a part."""
    place = output.place.joined(part.name)
    with place.filesystem.open_input_file(place.path) as stream:
        if part.name.endswith(ENDINGS["npy"]):
            (rows, width), _, kind = np.lib.format.read_array_header_1_0(_after_magic(stream))
            return rows, width, kind, None
        file = pq.ParquetFile(stream)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        held = schema.field("embedding").type
        width = held.list_size if pa.types.is_fixed_size_list(held) else _first_width(file)
    return rows, width, np.dtype(held.value_type.to_pandas_dtype()), schema.names


def _first_width(file: pq.ParquetFile) -> int | None:
    """Numbers of the first vector of a part whose rows may be null."""
    for batch in file.iter_batches(batch_size=64, columns=["embedding"]):
        vectors = batch.column("embedding").drop_null()
        if len(vectors):
            return len(vectors[0])
    return None


def _after_magic(stream):
    np.lib.format.read_magic(stream)
    return stream


def check_rows(output: Output, part: Part) -> list[str]:
    """Compare the rows of a part that is there with what is noted of it."""
    try:
        rows = _shape(output, part)[0]
    except (ValueError, KeyError, AttributeError, OSError, pa.ArrowException) as error:
        return [f"{part.name} cannot be read: {first_line(error)}"]
    return [] if rows == part.written_rows else [f"{part.name} has {rows} rows, expected {part.written_rows}"]
