"""How good a model is on a suite, how sure that is, and how it compares. Knows neither MLflow nor Hydra.

Scores are those of the library's evaluators where they fit, x 100. Their intervals are percentile bootstraps over the pairs or queries
(Efron and Tibshirani 1993, ch. 13); two models are compared on the same resamples, so what both find hard cancels out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy.stats import pearsonr, spearmanr

from steps.common.quality.bootstrap import AveragePrecision, Bootstrap, Mean, Spearman
from steps.common.quality.columns import Role
from steps.common.quality.pairs import Suite
from steps.common.quality.retrieval import RetrievalSuite, ndcg
from steps.common.quality.suites import AnySuite
from steps.common.vectors import pair_cosine, unit_length

Encode = Callable[[Sequence[str]], np.ndarray]

# What embeds texts in a role: with the prompt of the model for it, if it has one.
EncodeAs = Callable[[Role], Encode]

# Cosines that differ by less are rounding of equal ones.
SAME_COSINE = 1e-6


@dataclass(frozen=True)
class Vectors:
    """The embeddings of a suite's texts, each distinct text once in each of its roles."""

    rows: dict[Role, dict[str, int]]
    arrays: dict[Role, np.ndarray]

    def of(self, role: Role, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim]."""
        position = self.rows[role]
        return self.arrays[role][[position[text] for text in texts]]


@dataclass(frozen=True)
class Score:
    """A model's score on a suite."""

    suite: AnySuite
    # x 100; NaN where it is undefined, and then `undefined` says why.
    value: float
    low: float
    high: float
    undefined: str | None
    # Everything the evaluator reports, x 100, by name.
    metrics: dict[str, float]
    # What a resample picks from: cosine of each pair, or nDCG@10 of each query.
    units: np.ndarray

    @property
    def name(self) -> str:
        return f"quality/{self.suite.name}/{self.suite.metric}"

    def as_metrics(self) -> dict[str, float]:
        """Every number there is, by the name of its metric."""
        found = {f"quality/{self.suite.name}/{name}": value for name, value in self.metrics.items()}
        found |= {f"{self.name}_low": self.low, f"{self.name}_high": self.high}
        return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Difference:
    """A score minus another model's on the same suite, with the interval of that."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds no difference at all."""
        return not (self.low > 0 or self.high < 0)

    def is_loss(self, allowed: float = 0.0) -> bool:
        """Whether more than `allowed` points are lost, and not by noise. An undefined score is lost."""
        return not math.isfinite(self.value) or self.high < -allowed


def embed(suite: AnySuite, encode_as: EncodeAs) -> Vectors:
    """Embed what a suite holds."""
    texts = suite.texts
    return Vectors(
        {role: {text: row for row, text in enumerate(role_texts)} for role, role_texts in texts.items()},
        {role: np.asarray(encode_as(role)(role_texts)) for role, role_texts in texts.items()},
    )


def score(suite: AnySuite, vectors: Vectors, bootstrap: Bootstrap | None = None) -> Score:
    """Score embeddings on a suite; without `bootstrap` the interval is the score itself."""
    units, undefined = _units(suite, vectors)
    if undefined:
        return Score(suite, math.nan, math.nan, math.nan, undefined, {}, units)
    metrics = {name: float(value) * 100 for name, value in _evaluate(suite, vectors, units).items()}
    value = metrics[suite.metric]
    low, high = bootstrap.interval(_resample(suite, [units], bootstrap)[0]) if bootstrap else (value, value)
    return Score(suite, value, low, high, None, metrics, units)


def spearman(suite: Suite, encode: Encode) -> float:
    """Spearman's rank correlation x 100 of cosine with the grades, as MTEB's STS tasks report it; NaN if undefined."""
    return score(suite, embed(suite, lambda role: encode)).value


def compare(first: Score, second: Score, bootstrap: Bootstrap) -> Difference:
    """Score `first` minus score `second` of the same suite, on the same resamples. NaN where one is undefined."""
    if first.undefined or second.undefined:
        return Difference(math.nan, math.nan, math.nan)
    one, other = _resample(first.suite, [first.units, second.units], bootstrap)
    return Difference(first.value - second.value, *bootstrap.interval(one - other))


def compare_all(scores: Sequence[Score], others: Sequence[Score], bootstrap: Bootstrap) -> dict[str, Difference]:
    """Each score beside that of another model on the suite of the same name."""
    by_name = {other.suite.name: other for other in others}
    return {one.suite.name: compare(one, by_name[one.suite.name], bootstrap) for one in scores}


def regressions(differences: dict[str, Difference]) -> list[str]:
    """The suites on which a model is worse than the other, and not by noise."""
    return [name for name, difference in differences.items() if difference.is_loss()]


def _units(suite: AnySuite, vectors: Vectors) -> tuple[np.ndarray, str | None]:
    """What a resample picks from, and why a score of it would mean nothing."""
    if isinstance(suite, RetrievalSuite):
        queries = unit_length(vectors.of("query", suite.queries))
        order = sorted(suite.documents)
        cosines = queries @ unit_length(vectors.of("document", [suite.documents[key] for key in order])).T
    else:
        # Rounded, so that equal sentences are equally alike whatever the last digit of a float32 says.
        first, second = (vectors.of(None, texts).astype(np.float64) for texts in (suite.first, suite.second))
        cosines = np.round(pair_cosine(first, second), 6)
    if not np.isfinite(cosines).all():
        return cosines, "embeddings hold numbers that are not finite"
    if np.ptp(cosines) < SAME_COSINE:
        return cosines, f"every cosine is {float(cosines.flat[0]):.6g}"
    if not isinstance(suite, RetrievalSuite):
        return cosines, None
    # Equal scores by id, as the evaluator orders them.
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    return np.array([ndcg([order[i] for i in row], wanted) for row, wanted in zip(best, suite.relevant)]), None


def _evaluate(suite: AnySuite, vectors: Vectors, units: np.ndarray) -> dict[str, float]:
    """What the library's evaluator for this kind of suite reports.

    Graded pairs are ranked here: its evaluator ranks cosines of equal sentences by their rounding, so that two exact
    backends differ by points on a small suite. On STSBenchmark and SICK-R both give the same two decimals.
    """
    if suite.kind == "sts":
        return {
            "spearman": spearmanr(units, suite.scores).statistic,
            "pearson": pearsonr(units, suite.scores).statistic,
        }
    # Imported here: loading a suite needs no torch.
    from sentence_transformers.sentence_transformer import evaluation
    from sentence_transformers.util import cos_sim

    model = _AsModel(vectors)
    if isinstance(suite, RetrievalSuite):
        found = evaluation.InformationRetrievalEvaluator(
            {str(i): text for i, text in enumerate(suite.queries)},
            suite.documents,
            {str(i): set(ids) for i, ids in enumerate(suite.relevant)},
            ndcg_at_k=[10],
            mrr_at_k=[10],
            map_at_k=[10],
            accuracy_at_k=[1],
            precision_recall_at_k=[1, 10],
            score_functions={"cosine": cos_sim},
            write_csv=False,
        )(model)
        names = {
            "ndcg_at_10": "ndcg@10",
            "recall_at_10": "recall@10",
            "mrr_at_10": "mrr@10",
            "accuracy_at_1": "accuracy@1",
        }
        return {name: found[f"cosine_{theirs}"] for name, theirs in names.items()}
    if suite.kind == "paraphrase":
        found = evaluation.BinaryClassificationEvaluator(
            suite.first,
            suite.second,
            suite.scores.astype(int).tolist(),
            similarity_fn_names=["cosine"],
            write_csv=False,
        )(model)
        return {"average_precision": found["cosine_ap"], "f1": found["cosine_f1"], "accuracy": found["cosine_accuracy"]}


class _AsModel:
    """Embeddings that are there already, as the evaluators ask a model for them: each text was embedded once."""

    similarity_fn_name = "cosine"

    def __init__(self, vectors: Vectors):
        self._vectors = vectors
        self.model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *given: None)

    def encode(self, texts, **options):
        return self._vectors.of(None, texts)

    def encode_query(self, texts, **options):
        return self._tensor("query", texts)

    def encode_document(self, texts, **options):
        return self._tensor("document", texts)

    def _tensor(self, role, texts):
        import torch

        return torch.from_numpy(np.ascontiguousarray(self._vectors.of(role, texts)))


# Resampling


def _resample(suite: AnySuite, units: list[np.ndarray], bootstrap: Bootstrap) -> np.ndarray:
    """The score x 100 of every resample, the same resamples for each of `units`: float64 [len(units), resamples]."""
    if isinstance(suite, RetrievalSuite):
        measures = [Mean(values) for values in units]
    elif suite.kind == "paraphrase":
        measures = [AveragePrecision(values, suite.scores) for values in units]
    else:
        measures = [Spearman(values, suite.scores) for values in units]
    found = [[measure(counts) for measure in measures] for counts in bootstrap.counts(len(units[0]))]
    return np.concatenate(found, axis=1) * 100
