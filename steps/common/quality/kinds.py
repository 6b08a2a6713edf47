"""The kinds of suites."""

import pkgutil
from collections.abc import Sequence
from pathlib import Path

from steps.common.errors import UserError
from steps.common.quality.spec import SuiteSpec
from steps.common.quality.suite import Suite

# Where the class (a suite.Suite) of each value of suite.kind is. By name, so that a config can be checked in a moment:
# the classes import what they compute with.
KINDS = {
    "sts": f"{__package__}.pairs:GradedPairs",
    "paraphrase": f"{__package__}.pairs:Paraphrases",
    "retrieval": f"{__package__}.retrieval:Retrieval",
    "known_item": f"{__package__}.known_item:KnownItem",
    "index": f"{__package__}.indexed:Indexed",
}


# Those that find documents.
FINDING = ("retrieval", "known_item", "index")


def check_kind(spec: SuiteSpec) -> None:
    """Raises UserError for a value of suite.kind that is none, and for a key that means nothing for it."""
    if spec.kind not in KINDS:
        raise UserError(f"suite.kind takes one of {', '.join(KINDS)}, not {spec.kind}.")
    if spec.min_recall is not None and spec.kind not in FINDING:
        raise UserError(f"suite.min_recall is for a suite of kind {', '.join(FINDING)}, not {spec.kind}.")
    if spec.max_p95_ms is not None and spec.kind != "index":
        raise UserError(f"suite.max_p95_ms is for a suite of kind index, not {spec.kind}.")


def read_suites(specs: Sequence[SuiteSpec]) -> "list[Suite]":
    """The suites that specs describe, whose files are on this machine, read and checked.

    Raises:
        UserError: a file that cannot be used, or two suites of one name.
    """
    found: list[Suite] = []
    for spec in specs:
        check_kind(spec)
        suite = pkgutil.resolve_name(KINDS[spec.kind]).read(spec, Path(spec.path or ""))
        if suite.name in [other.name for other in found]:
            raise UserError(f"two suites are named {suite.name!r}; expected different names. Set suites.<suite>.name.")
        found.append(suite)
    return found
