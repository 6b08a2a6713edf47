"""A model beside those it is compared with: the champion, and the best there was."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from steps.common.corpus.sample import sample_topics
from steps.common.errors import UserError
from steps.common.model import load as models
from steps.common.model.facts import facts
from steps.common.model.find import FoundModel, download
from steps.common.quality import comparison, scoring
from steps.common.quality.scoring import Score
from steps.common.quality.suite import Suite
from steps.common.tracking import verdict
from steps.common.validation import identity
from steps.common.validation.behaviour import check_mean_cosine, check_spread
from steps.common.validation.checks import Check
from steps.common.validation.compatibility import Verdict, compare_vectors, fit_bridge
from steps.common.validation.findings import Findings, Subject
from steps.common.validation.identity import MEAN_COSINE
from steps.common.validation.rules import CompatibilityConf, ValidateConf
from steps.common.validation.scores import check_loss, load_by_role, score_all
from steps.common.validation.unseen import find_moved
from steps.common.validation.weights import is_untrained

logger = logging.getLogger("steps")

# The backend that rivals are scored by.
EXACT = "torch/f32"


def compare_rivals(
    model: Subject,
    rivals: Mapping[str, FoundModel],
    suites: Sequence[Suite],
    rules: ValidateConf,
    *,
    findings: Findings,
) -> None:
    """Compare with each rival, which is noted in the findings; one model in two parts is scored once."""
    scored: dict[str, list[Score]] = {}
    known = facts(model.native)
    for against, rival in rivals.items():
        findings.fact_changes += identity.compare_facts(known, rival.tags, against)
        model_id = rival.logged.model_id
        if model_id not in scored:
            logger.info("scoring the %s %s on the same suites", against, rival.uri)
            scored[model_id] = score_rival(rival, against, suites, rules)
        unscored = {suite.name for suite in suites} - {score.suite.name for score in scored[model_id]}
        if unscored:
            warn_of_unscored(rival, against, sorted(unscored), any_scored=bool(scored[model_id]))
        if not scored[model_id]:
            continue
        findings.comparisons[against] = comparison.compare(
            findings.scores, scored[model_id], rules.comparison.margin, rules.bootstrap
        )


def warn_of_unscored(rival: FoundModel, against: str, suites: list[str], *, any_scored: bool) -> None:
    """Say that a rival has no score on some suites, and what to type to get one."""
    gone = "is deleted and " if rival.is_gone else ""
    then = "it is compared on the other suites only" if any_scored else "it is not compared"
    remedy = "To compare with another model: baseline=<run ID>"
    if not rival.is_gone:
        remedy = "Validate it on the same questions first, with an index of its own vectors."
    name = f"The {against} {rival.registered or rival.uri} {gone}has no recorded score"
    logger.warning("%s on %s, so %s. %s", name, ", ".join(suites), then, remedy)


def score_rival(rival: FoundModel, against: str, suites: Sequence[Suite], rules: ValidateConf) -> list[Score]:
    """Another model's scores on the same suites, by torch in float32; those on record are not computed again.

    Of a model that is deleted there are only those on record, whatever made them; and so it is with a suite of one model.
    """
    recorded = verdict.read_units(rival, None if rival.is_gone else EXACT)
    keys = [suite.fingerprint for suite in suites]
    known = [scoring.restore(suite, recorded[key]) for key, suite in zip(keys, suites) if key in recorded]
    left = [suite for key, suite in zip(keys, suites) if key not in recorded and not suite.of_one_model]
    if rival.is_gone or not left:
        return known
    folder = _download(rival, against)
    native = models.load_native(folder)
    with contextlib.ExitStack() as stack:
        encode_as = load_by_role(stack, rival, folder, native, rules.backend.of(EXACT))
        return known + score_all(left, encode_as, rules.bootstrap)[0]


def _download(rival: FoundModel, against: str) -> Path:
    """The folder of another model.

    Raises:
        UserError: its files are gone or out of reach; it says which model that is, since it is not the one validated.
    """
    try:
        return download(rival)
    except UserError as error:
        other = "promote another version" if rival.registered else f"give another {against}=<run ID>"
        raise UserError(
            f"the {against} {rival.registered or rival.uri} cannot be compared: its files cannot be read from {rival.logged.artifact_location}. Restore the files, or {other}."
        ) from error


def check_losses(rules: ValidateConf, findings: Findings) -> list[Check]:
    """The model loses no more than `comparison.max_loss` points to a rival beyond noise, over all suites or on one."""
    limit = rules.comparison.max_loss
    checks = []
    for against, found in findings.comparisons.items():
        if not found.suites:
            # The other has no score that this one could lose to.
            continue
        for name, difference in {"": found.difference, **found.suites}.items():
            checks.append(check_loss(f"comparison/{against}" + (f"/{name}" if name else ""), difference, limit))
    return checks


def check_cosines(
    model: Subject, champion: FoundModel | None, rules: ValidateConf, findings: Findings, texts: Sequence[str] | None
) -> list[Check]:
    """Cosines are not compressed, by themselves and beside the champion's; whether the champion's vectors can stay is noted.

    There is no check of the mean cosine of random weights, whose vectors are all alike.
    """
    corpus = findings.corpus
    if corpus is None or not np.isfinite(corpus).all():
        return []
    checks: list[Check] = []
    if not is_untrained(model.native):
        _, known = identity.find_known(model.found.tags, facts(model.native))
        limit = float(known.get(MEAN_COSINE, rules.tolerance.mean_cosine))
        checks += check_mean_cosine(corpus, limit, declared=MEAN_COSINE in known)
    if champion is None:
        return checks
    sample = sample_topics()[0]
    with contextlib.ExitStack() as stack:
        folder = _download(champion, "champion")
        other = load_by_role(stack, champion, folder, models.load_native(folder), rules.backend.of("torch/f32"))(None)
        old = other(sample)
        if not np.isfinite(old).all():
            logger.warning("The champion's vectors contain NaN or infinity, so they are not compared.")
            return checks
        checks += check_spread(corpus, old, rules.tolerance.spread)
        own = load_by_role(stack, model.found, model.folder, model.native, rules.backend)(None)
        findings.moved = find_moved(model.native, other, own, (old, corpus))
        old, new = (old, corpus) if texts is None else (other(list(texts)), own(list(texts)))
    note_compatibility(old, new, rules.compatibility, findings)
    return checks


def note_compatibility(old: np.ndarray, new: np.ndarray, conf: CompatibilityConf, findings: Findings) -> None:
    """Compare the champion's vectors of some texts with this model's of the same, both float32 [n, dim]; the findings get the result."""
    rates = [trial.rows_per_second for trial in findings.trials if trial.passed and trial.rows_per_second]
    findings.compatibility = compare_vectors(
        old, new, conf, against="champion", rows_per_second=max(rates, default=None)
    )
    if findings.moved:
        # Old and new vectors of a corpus with such texts do not fit.
        findings.compatibility = replace(findings.compatibility, verdict=Verdict.REINDEX_REQUIRED)
    if conf.bridge and findings.compatibility.bridge_recall is not None:
        findings.bridge = fit_bridge(old, new)
    elif conf.bridge:
        logger.warning(
            "compatibility.bridge=true: %d texts are too few for a map of %d dimensions. Give twice as many as dimensions: corpus.path=<texts>",
            *new.shape,
        )
