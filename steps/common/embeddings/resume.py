"""The plan that an output was started with: noted in it, compared with the plan of an encode that resumes it."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steps.common.embeddings.manifest import (
    COPY,
    FORMAT_VERSION,
    MANIFEST,
    PlanRecord,
    find_manifest,
    read_plan,
    write_plan,
)
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.plan import find_differences, shown
from steps.common.embeddings.records import restore
from steps.common.embeddings.verify import state_of
from steps.common.errors import UserError
from steps.common.storage.claim import Claim, check_claim
from steps.common.storage.output import Output
from steps.common.storage.place import Place

logger = logging.getLogger("steps")

# What of a plan may differ, where accept_changes names it.
ACCEPTABLE = ("code", "versions")


def check_accepted(names: Collection[str]) -> None:
    """Raises UserError for a name that accept_changes does not know."""
    for name in names:
        if name not in ACCEPTABLE:
            raise UserError(f"accept_changes: there is no {name!r}; expected some of {', '.join(ACCEPTABLE)}.")


def check_plan(place: Place | None, known: dict[str, Any], accepted: Collection[str]) -> None:
    """Raises UserError where what is known of a plan differs from that of an output, or its version is unknown.

    `begin` compares the whole, and holds the claim.
    """
    if place is None:
        return
    output = Output(place)
    record = read_begun(output)
    if record is None:
        return
    shared = {key: record.current_plan.get(key) for key in known}
    # Of these a plan holds more than is known.
    for key in {"model", "backend"} & known.keys():
        node = shared[key]
        if not isinstance(node, dict):
            return
        shared[key] = {name: value for name, value in node.items() if name in known[key]}
    _refuse_differences(output, record, (shared, known), accepted)


def read_begun(output: Output) -> PlanRecord | None:
    """What is noted of the plan of an output, whole or not; None where there is nothing that can be read."""
    state = state_of(output)
    if state == "whole":
        manifest = find_manifest(output)
        return None if manifest is None else manifest.plan_record
    return read_plan(output) if state == "interrupted" else None


def _refuse_differences(
    output: Output, record: PlanRecord, plans: tuple[dict[str, Any], dict[str, Any]], accepted: Collection[str]
) -> None:
    """Raises UserError where two plans differ: that of the output, or what is known of it, and that of now."""
    lines = find_differences(*plans, accepted)
    if not lines:
        return
    nodes = {key.partition(".")[0] for key in lines}
    remedy = f", or accept that with -P accept_changes=[{','.join(sorted(nodes))}]" if nodes <= set(ACCEPTABLE) else ""
    is_old = record.format_version != FORMAT_VERSION
    version = f" by an older version of this project (format {record.format_version})" if is_old else ""
    mixed = " Vectors of two models do not mix." if "model.files" in lines else ""
    again = "that version" if is_old else "the settings it was started with"
    if all(key.startswith(("corpus.sources.", "corpus.partitions.")) for key in lines) and state_of(output) == "whole":
        raise UserError(
            f"output {output} holds the embeddings of another corpus: {shown(list(lines.values()))}. To embed only what is new or changed, give a new output: -P reuse={output} -P output=<another folder>."
        )
    chosen = record.plan.get("backend", {}) if {"backend.name", "backend.precision"} & set(lines) else {}
    if "name" in chosen and "precision" in chosen:
        again += f" (-P backend={chosen['name']} -P backend.precision={chosen['precision']})"
    raise UserError(
        f"output {output} was started{version} with other settings: {shown(list(lines.values()))}.{mixed} Run encode with {again}, or give another output{remedy}."
    )


@contextlib.contextmanager
def claim_output(place: Place, scratch: Path, run_id: str) -> Iterator[tuple[Output, Callable[[], None]]]:
    """The output at a place, and what is to be called before each of its parts; no other process writes to it meanwhile.

    Raises UserError where another process writes to it, or it cannot be written.
    """
    output = Output(place, scratch)
    with Claim(output, run_id) as claim:
        output.make()
        try:
            yield output, partial(check_claim, output, claim.name)
        except BaseException:
            with contextlib.suppress(UserError):
                claim.check()
                _forget_restored(output)
            raise


def _forget_restored(output: Output) -> None:
    """Remove the restored records of a complete output: its manifest says the same, and more."""
    if state_of(output) == "whole" and find_manifest(output) is not None:
        output.clear_work()


def begin(
    output: Output, now: PlanRecord, accepted: Collection[str], make_ranges: Callable[[], np.ndarray | None]
) -> PlanRecord:
    """Note the plan in an output, or go on with one that has the same.

    Args:
        now: the plan of this run, its ID and its origin, without ranges.
        accepted: what of the plan may differ, of ACCEPTABLE.
        make_ranges: called where the output has no ranges of int8 yet; [2, dim], or None.

    Returns:
        What is noted: the ranges, the run IDs that have worked on the output, this one last, and the origin that its
        parts carry, that of its first run.

    Raises:
        UserError: the output was started with another plan, or is of an unknown version.
    """
    state = state_of(output)
    before = restore(output) if state == "whole" else read_plan(output)
    is_lost = state != "new" and before is None
    if is_lost:
        logger.warning("the plan of output %s cannot be read, so all of its parts are made again", output)
        output.clear_work()
    if state == "new" or before is None:
        before = replace(now, runs=before.runs if before else [], format_version=FORMAT_VERSION)
    _refuse_differences(output, before, (before.current_plan, now.plan), accepted)
    ranges = before.ranges
    if not ranges and (made := make_ranges()) is not None:
        ranges = made.tolist()
    noted = replace(
        now, runs=[*before.runs, *now.runs], ranges=ranges, origin=_continue(before, now), format_version=FORMAT_VERSION
    )
    write_plan(output, noted)
    if is_lost:
        # From here on it is an output that was stopped.
        for name in (MANIFEST, COPY):
            if output.size(name) is not None:
                output.delete(name)
    return noted


def _continue(before: PlanRecord, now: PlanRecord) -> Origin | None:
    """The origin of the parts that are still to be made: that of the others, but for code that is accepted as another."""
    if before.origin is None or now.origin is None:
        return now.origin
    if before.plan.get("code") == now.plan.get("code"):
        return before.origin
    return replace(before.origin, git_commit=now.origin.git_commit)
