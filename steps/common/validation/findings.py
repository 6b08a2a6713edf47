"""What is validated, and what was found of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from steps.common.model.find import FoundModel
from steps.common.model.load import Pyfunc
from steps.common.quality import scoring
from steps.common.quality.comparison import Comparison, Result
from steps.common.quality.scoring import Difference
from steps.common.quality.suite import Vectors
from steps.common.quality.trials import Trial
from steps.common.validation.checks import Check, failed
from steps.common.validation.compatibility import Compatibility
from steps.common.validation.identity import FactChange
from steps.common.validation.unseen import Moved


@dataclass(frozen=True)
class Subject:
    """The model that is validated, loaded both ways, in one folder."""

    found: FoundModel
    folder: Path
    native: SentenceTransformer
    pyfunc: Pyfunc

    @property
    def dim(self) -> int:
        """The dimension that the signature declares."""
        return self.pyfunc.metadata.signature.outputs.inputs[0].shape[-1]

    @property
    def params(self) -> dict:
        """Inference params that change the result."""
        return {"truncate_dim": max(1, self.dim // 2), "normalize_embeddings": True}


@dataclass
class Findings:
    """Findings of a validation; `checks` decide."""

    checks: list[Check] = field(default_factory=list)
    scores: list[scoring.Score] = field(default_factory=list)
    # The backend that made them, name/precision.
    scored_by: str = ""
    # Its vectors of their suites' texts.
    embedded: list[Vectors] = field(default_factory=list, repr=False)
    # By suite: the score required, and the published one.
    thresholds: dict[str, float] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)
    # By the part of the model compared with: champion, baseline.
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    fact_changes: list[FactChange] = field(default_factory=list)
    # This model's vectors beside the champion's; the map from those, float32 [champion's dim, dim], where it is asked for.
    compatibility: Compatibility | None = None
    bridge: np.ndarray | None = None
    # Texts that no suite holds, of which the champion has other vectors.
    moved: list[Moved] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    # Milliseconds of single calls; embeddings of the test sentences and of the sample corpus.
    latency: np.ndarray | None = None
    sentences: np.ndarray | None = None
    corpus: np.ndarray | None = None
    # Milliseconds of queries to an index, by the name of the metric.
    search: dict[str, float] = field(default_factory=dict)
    # Metrics of the server.
    deployment: dict[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> list[Check]:
        return failed(self.checks)

    @property
    def verdict(self) -> str:
        return "failed" if self.failures else "passed"

    @property
    def passed_backends(self) -> list[str]:
        """Backends that encode may use: none of a model that failed."""
        return [trial.backend for trial in self.trials if trial.passed and not self.failures]

    @property
    def differences(self) -> dict[str, Difference]:
        """By suite: the difference to the champion."""
        return self.comparisons["champion"].suites if "champion" in self.comparisons else {}

    @property
    def regressed(self) -> list[str]:
        """The suites on which the champion is better, and not by noise."""
        return [name for name, difference in self.differences.items() if difference.is_loss()]

    @property
    def may_replace(self) -> bool | None:
        """Whether the model may become champion; None where that is not decided."""
        results = {comparison.result for comparison in self.comparisons.values()}
        if self.failures or Result.WORSE in results:
            return False
        return None if Result.UNDECIDED in results or self.moved else True

    def metrics(self) -> dict[str, float]:
        """What is logged beside the scores, by name."""
        values = {check.name: check.value for check in self.checks}
        metrics: dict[str, Any] = {
            "parity/max_abs_diff": values.get("parity/max_abs_diff"),
            # A server that could not be asked at all is not ok; deployment says how the others are.
            "serving/ok": 0.0,
            **self.deployment,
            **self.search,
            "checks/total": len(self.checks),
            "checks/failed": len(self.failures),
        }
        if self.latency is not None:
            metrics |= {f"latency/p{share}_ms": float(np.percentile(self.latency, share)) for share in (50, 95)}
        for trial in self.trials:
            metrics |= trial.metrics()
        return {name: value for name, value in metrics.items() if value is not None}
