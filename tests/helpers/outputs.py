"""Manifests for tests that have no model."""

from steps.common.embeddings.manifest import Manifest, PlanRecord
from steps.common.embeddings.origin import Origin
from steps.common.embeddings.verify import TOTALS

ORIGIN = Origin(
    model_id="m-1",
    hub_id="org/model",
    revision=None,
    registered_version="name/3",
    model_digest="ab" * 32,
    backend="torch/f32",
    prompt="query: ",
    options={"dtype": "float32", "truncate_dim": None, "normalize": False},
    git_commit="c0ffee",
)


def record_of(plan, run_id, origin=ORIGIN) -> PlanRecord:
    """What a run notes of its plan."""
    return PlanRecord(plan, [run_id], None, origin=origin)


def make_manifest(parts, **facts) -> Manifest:
    """The manifest of some parts, with vectors of two float32; `facts` say otherwise."""
    given = {
        **{"run_id": "r", "upstream_run_id": "u", "validation": None, "model": {}, "corpus": {}, "backend": {}},
        **{"options": {}, "versions": {}, "code_commit": None, "normalized": False, "plan": {"a": 1}, "runs": ["r"]},
        **{"rows": sum(part.rows for part in parts), "written_rows": sum(part.written_rows for part in parts)},
        **dict.fromkeys(TOTALS, 0),
        **{"dim": 2, "dtype": "float32", "ranges": None, "rejects": None},
    }
    return Manifest(parts=list(parts), **given | facts)
