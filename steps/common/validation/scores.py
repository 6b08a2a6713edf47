"""Scores of a model on suites, what suites demand of them, and the backends that keep them."""

import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from steps.common.backends import Backend, Settings
from steps.common.backends.check import Refused
from steps.common.backends.timing import latencies_ms
from steps.common.backends.torch import find_tasks
from steps.common.corpus.sample import sample_topics
from steps.common.model.facts import facts
from steps.common.model.find import FoundModel
from steps.common.model.load import load_backend
from steps.common.quality import scoring, trials
from steps.common.quality.indexed import Indexed
from steps.common.quality.roles import ByRole
from steps.common.quality.scoring import Difference, Score
from steps.common.quality.spec import Bootstrap, SuiteSpec
from steps.common.quality.suite import Suite, Vectors
from steps.common.quality.trials import Trial
from steps.common.validation import identity
from steps.common.validation.checks import Check, at_least, at_most
from steps.common.validation.findings import Findings, Subject
from steps.common.validation.rules import ValidateConf
from steps.common.vectors import finite

logger = logging.getLogger("steps")


def score_all(
    suites: Sequence[Suite], encode_as: scoring.EncodeAs, bootstrap: Bootstrap
) -> tuple[list[scoring.Score], list[Vectors]]:
    """A model's scores on all suites, by one backend, and the vectors they are made from."""
    scores, embedded = [], []
    for suite in suites:
        logger.info("scoring %d %s of %s", len(suite), suite.unit, suite.path)
        embedded.append(scoring.embed(suite, encode_as))
        scores.append(scoring.score(suite, embedded[-1], bootstrap))
    return scores, embedded


def try_backends(model: Subject, own: ByRole, findings: Findings, rules: ValidateConf) -> list[Trial]:
    """The backend of the config and every candidate beside torch in float32.

    Args:
        own: the backend of the config, which has made the scores and the vectors among the findings.
    """
    samples = [score.suite.sample(rules.candidate_pairs) for score in findings.scores]
    # The rate of whole sentences, the same ones whatever the suites are.
    pace = trials.Pace(sample_topics()[0][::2], rules.sentences, rules.latency_calls)
    found = []

    def load(name: str, stack: contextlib.ExitStack) -> ByRole:
        return load_by_role(stack, model.found, model.folder, model.native, rules.backend.of(name))

    with contextlib.ExitStack() as stack:
        exact = own if own.key == "torch/f32" else load("torch/f32", stack)
        vectors = findings.embedded if exact is own else [scoring.embed(sample, exact) for sample in samples]
        expected = [
            (score if exact is own and sample is score.suite else scoring.score(sample, made), made)
            for sample, score, made in zip(samples, findings.scores, vectors)
        ]
        for name in dict.fromkeys(["torch/f32", own.key, *rules.candidates]):
            try:
                with contextlib.ExitStack() as inner:
                    encode_as = {"torch/f32": exact, own.key: own}.get(name) or load(name, inner)
                    trial = trials.judge(
                        name,
                        encode_as,
                        expected,
                        margin=rules.tolerance.score,
                        bootstrap=rules.bootstrap,
                        pace=pace,
                        is_exact=encode_as is exact,
                    )
            except Refused as refused:
                trial = Trial(name, False, refused.reason)
            found.append(trial)
    return found


def load_by_role(
    stack: contextlib.ExitStack, found: FoundModel, folder: Path, model: SentenceTransformer, settings: Settings
) -> ByRole:
    """A backend for texts in any role (as load_backend); the stack closes what is loaded."""

    def load(prompt_name: str | None, task: str | None) -> Backend:
        backend = load_backend(found, folder, model, settings, prompt_name=prompt_name, task=task)
        return stack.enter_context(contextlib.closing(backend))

    return ByRole(load, model.prompts, model.default_prompt_name, find_tasks(model))


def check_demands(model: Subject, specs: Sequence[SuiteSpec], findings: Findings) -> list[Check]:
    """Each score beside what its suite demands of it, which is noted in the findings."""
    published_as, _ = identity.find_known(model.found.tags, facts(model.native))
    checks = []
    for spec, score in zip(specs, findings.scores):
        name = score.suite.name
        difference = findings.differences.get(name)
        if spec.max_loss_to_champion is not None and difference is None:
            logger.warning("suite %s: max_loss_to_champion is ignored: no champion is given (champion=<run ID>)", name)
        findings.thresholds[name] = spec.threshold
        if published_as in spec.references:
            findings.references[name] = spec.references[published_as]
        checks += check_scores(score, spec, findings.references.get(name), difference)
    return checks


def check_search(suites: Sequence[Suite], own: ByRole, rules: ValidateConf, findings: Findings) -> list[Check]:
    """How long a query of each suite over an index takes, from text to hits; which is noted in the findings."""
    checks = []
    for suite, spec in zip(suites, rules.scored_suites):
        if isinstance(suite, Indexed):
            found = latencies_ms(partial(suite.ask, own("query")), suite.queries, rules.latency_calls)
            shown = {f"quality/{suite.name}/p{share}_ms": float(np.percentile(found, share)) for share in (50, 95)}
            findings.search |= shown
            if spec.max_p95_ms is not None:
                name = f"quality/{suite.name}/p95_ms"
                checks.append(at_most(name, shown[name], spec.max_p95_ms))
    return checks


def check_scores(score: Score, spec: SuiteSpec, published: float | None, difference: Difference | None) -> list[Check]:
    """What a suite demands of a score: a least value, nearness to the published one, no loss to the champion."""
    if score.undefined:
        found = [Check(score.name, f"undefined: {score.undefined}", f">= {spec.threshold:g}", False)]
    else:
        found = [at_least(score.name, score.value, spec.threshold)]
    group, allowed = f"quality/{score.suite.name}", spec.max_loss_to_published
    if spec.min_recall is not None and not score.undefined:
        found.append(at_least(f"{group}/recall_at_10", score.metrics["recall_at_10"], spec.min_recall))
    if published is not None and allowed is not None:
        found.append(at_least(f"{group}/beside_published", score.value - published, -allowed))
    if difference is not None and spec.max_loss_to_champion is not None:
        found.append(check_loss(f"{group}/beside_champion", difference, spec.max_loss_to_champion))
    return found


def check_loss(name: str, difference: Difference, limit: float) -> Check:
    """No more than `limit` points are lost, or that is within noise."""
    return Check(
        name,
        finite(difference.value),
        f">= {-limit:g}, or within noise ({difference.low:z.2f} to {difference.high:z.2f})",
        not difference.is_loss(limit),
    )
