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

PAIRS, FILES = ("sts", "paraphrase"), ("sts", "paraphrase", "retrieval", "index")

# Keys of a suite that not every kind here reads, and which do.
READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("path", "hub_id", "revision", "split"), FILES),
    **dict.fromkeys(("sentence1", "sentence2", "score"), PAIRS),
    **dict.fromkeys(("query", "relevant"), ("retrieval", "index")),
    **dict.fromkeys(("documents", "document_id", "document"), ("retrieval",)),
    **dict.fromkeys(("corpus", "title", "rows", "seed"), ("known_item",)),
    "index": ("index",),
    "min_recall": ("retrieval", "known_item", "index"),
    "max_p95_ms": ("index",),
}

# Of these, those that demand something of a score, and with them all that are null where they are not given.
DEMANDS = ("min_recall", "max_p95_ms")
NULL = ("documents", "corpus", "title", "index", *DEMANDS)


def check_kind(spec: SuiteSpec) -> None:
    """Raises UserError for a value of suite.kind that is none, and for a key that it does not read."""
    if spec.kind not in KINDS:
        raise UserError(f"suite.kind takes one of {', '.join(KINDS)}, not {spec.kind}.")
    for key in NULL:
        if getattr(spec, key) is not None:
            check_key(spec.kind, key)


def check_key(kind: str, key: str, node: str = "suite") -> None:
    """Raises UserError for a key that suites of a kind do not read. A kind of the user's own may read any, but demands nothing."""
    readers, is_own = READ_BY.get(key, ()), not any(kind in kinds for kinds in READ_BY.values())
    if readers and kind not in readers and not (is_own and key not in DEMANDS):
        raise UserError(f"{node}.{key} is for a suite of kind {', '.join(readers)}, not {kind}.")


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
