"""Everything that validate checks of one model, and the findings."""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from steps.common.backends import Backend, Settings
from steps.common.backends.check import Refused
from steps.common.backends.timing import latencies_ms
from steps.common.backends.torch import find_tasks
from steps.common.corpus.sample import sample_topics
from steps.common.model import facts as factss
from steps.common.model import load as models
from steps.common.model.facts import facts, normalizes
from steps.common.model.find import FoundModel, download
from steps.common.model.load import (
    Pyfunc,
    RefusedInput,
    input_example,
    load_backend,
    load_embeddings_api,
    load_pyfunc,
    scoring_app,
)
from steps.common.quality import comparison, scoring, trials
from steps.common.quality.comparison import Comparison, Result
from steps.common.quality.roles import ByRole
from steps.common.quality.scoring import Difference, Score
from steps.common.quality.spec import Bootstrap, SuiteSpec
from steps.common.quality.suite import Suite, Vectors
from steps.common.quality.trials import Trial
from steps.common.tracking import verdict
from steps.common.validation import environment, identity, serving
from steps.common.validation.behaviour import (
    bad_inputs,
    check_form,
    check_hostile,
    check_invariance,
    check_mean_cosine,
    check_output,
    check_refusals,
    check_spread,
    check_white_space,
)
from steps.common.validation.checks import Check, at_least, at_most, check_close, equal, failed, guarded
from steps.common.validation.compatibility import Compatibility, compare_vectors, fit_bridge
from steps.common.validation.identity import MEAN_COSINE, FactChange
from steps.common.validation.openai import check_api
from steps.common.validation.rules import ValidateConf
from steps.common.validation.weights import check_trained, check_weights, check_word_vectors, is_untrained
from steps.common.vectors import finite

logger = logging.getLogger("steps")


# Beginnings of the names of checks that say what is wrong inside a model.
NAMES_CAUSE = ("known/", "unchanged/", "weights/", "tokenizer/")


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
    # By suite: the score required, and the published one.
    thresholds: dict[str, float] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)
    # By the part of the model compared with: champion, baseline.
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    fact_changes: list[FactChange] = field(default_factory=list)
    # This model's vectors beside the champion's; the map from those, float32 [champion's dim, dim], where it is asked for.
    compatibility: Compatibility | None = None
    bridge: np.ndarray | None = None
    trials: list[Trial] = field(default_factory=list)
    # Milliseconds of single calls; embeddings of the test sentences and of the sample corpus.
    latency: np.ndarray | None = None
    # What answered those calls.
    latency_of: str = "the loaded model (torch f32)"
    sentences: np.ndarray | None = None
    corpus: np.ndarray | None = None
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
        return scoring.find_regressions(self.differences)

    @property
    def may_replace(self) -> bool | None:
        """Whether the model may become champion; None where that is not decided."""
        results = {comparison.result for comparison in self.comparisons.values()}
        if self.failures or Result.WORSE in results:
            return False
        return None if Result.UNDECIDED in results else True

    def metrics(self) -> dict[str, float]:
        """What is logged beside the scores, by name."""
        values = {check.name: check.value for check in self.checks}
        metrics: dict[str, Any] = {
            "parity/max_abs_diff": values.get("parity/max_abs_diff"),
            # A server that could not be asked at all is not ok; deployment says how the others are.
            "serving/ok": 0.0,
            **self.deployment,
            "checks/total": len(self.checks),
            "checks/failed": len(self.failures),
        }
        if self.latency is not None:
            metrics |= {f"latency/p{share}_ms": float(np.percentile(self.latency, share)) for share in (50, 95)}
        for trial in self.trials:
            metrics |= trial.metrics()
        return {name: value for name, value in metrics.items() if value is not None}


def examine(
    found: FoundModel,
    folder: Path,
    suites: Sequence[Suite],
    rules: ValidateConf,
    *,
    rivals: Mapping[str, FoundModel] | None = None,
    server: serving.Server | None = None,
    texts: Sequence[str] | None = None,
) -> Findings:
    """Load a model both ways and check all it claims. A check that cannot be made is a failed check.

    Args:
        folder: where the model was downloaded to.
        suites: those of the rules, read.
        rivals: the models it is compared with: champion, the one it would replace, and baseline, the best there was.
        server: one of this model, started; without it the server's code is asked in this process.
        texts: distinct ones, on which the champion's vectors are compared with this model's; None takes the sample corpus.

    Raises:
        UserError: what the user can put right, such as a server's port that was taken meanwhile.
    """
    reference = verdict.reference(found)
    model = Subject(found, folder, models.load_native(folder), load_pyfunc(folder))
    findings = Findings()
    groups: dict[str, Callable[[], list[Check]]] = {
        "identity": lambda: check_identity(found.tags, model.native),
        "parity": lambda: check_loading(model, reference, rules.tolerance.parity),
        # First of all that takes time: the server stops here, and the timings have the machine to themselves.
        "serving": lambda: check_deployment(model, server, rules, findings),
        "embeddings_api": lambda: check_embeddings_api(model, rules.tolerance.parity),
        "predict": lambda: check_behaviour(model, rules, findings),
        "quality": lambda: check_quality(model, suites, rivals or {}, rules, findings),
        "cosines": lambda: check_cosines(model, (rivals or {}).get("champion"), rules, findings, texts),
    }
    for name, check in groups.items():
        findings.checks += guarded(name, check)
    return findings


def check_identity(tags: dict[str, str], native: SentenceTransformer) -> list[Check]:
    """The model is unchanged since it was logged, has the facts its weights are known for, and is not broken inside."""
    facts = factss.facts(native)
    name, known = identity.find_known(tags, facts)
    return [
        *identity.check_unchanged(tags, facts),
        *identity.check_known(name, known, facts),
        *check_weights(native),
        *check_word_vectors(native),
    ]


def check_loading(model: Subject, reference: dict, tolerance: float) -> list[Check]:
    """The model loaded either way gives the vectors of the source model when it was logged."""
    pyfunc, native, sentences = model.pyfunc, model.native, reference["sentences"]
    source = np.array(reference["embeddings"], np.float32)
    predicted = pyfunc.predict(sentences)
    one = pyfunc.predict([sentences[0]])
    cut = pyfunc.predict(sentences, params=model.params | {"batch_size": 2})
    return [
        check_close("parity/pyfunc_vs_native", predicted, native.encode(sentences), tolerance),
        check_close("parity/native_vs_source", native.encode(sentences), source, tolerance),
        check_close("parity/max_abs_diff", predicted, source, tolerance),
        check_close("input/str_vs_list", pyfunc.predict(sentences[0]), one, tolerance),
        check_close("input/dataframe_vs_list", pyfunc.predict(pd.DataFrame({"text": sentences})), predicted, tolerance),
        equal("params/truncate_dim", cut.shape[-1], model.params["truncate_dim"]),
        at_most("params/normalize_embeddings", float(np.abs(np.linalg.norm(cut, axis=1) - 1).max()), 1e-3),
    ]


def check_deployment(
    model: Subject, server: serving.Server | None, rules: ValidateConf, findings: Findings
) -> list[Check]:
    """A server of the model gives its vectors; if asked for, so does the model in a fresh environment."""
    predict, examples = model.pyfunc.predict, input_example(model.folder)
    tolerance = rules.tolerance.parity
    metrics: dict[str, float] = {}
    if server is None:
        client = serving.InProcess(scoring_app(model.pyfunc))
        checks = serving.check_protocol(client, predict, examples, model.params, tolerance)
    else:
        checks, metrics = serving.check_server(
            server, predict, examples, model.params, tolerance=tolerance, asked=rules.serving
        )
    findings.deployment = metrics | {"serving/ok": float(not failed(checks))}
    if rules.fresh_environment:
        requirements, expected = model.folder / "requirements.txt", predict(examples)
        checks += environment.check_fresh_environment(model.found.uri, requirements, examples, expected, tolerance)
    return checks


def check_embeddings_api(model: Subject, tolerance: float) -> list[Check]:
    """The embeddings API logged beside the model gives its vectors; no checks where none was logged.

    It is asked in this process, through the server's own code; a server was tried with the model itself.
    """
    api = load_embeddings_api(model.found)
    if api is None:
        return []
    examples = input_example(model.folder)
    client = serving.InProcess(scoring_app(api))
    return check_api(client, examples, model.pyfunc.predict(examples), tolerance)


def check_behaviour(model: Subject, rules: ValidateConf, findings: Findings) -> list[Check]:
    """Form, invariance and robustness of the model's vectors; and its latency."""
    sentences, predict, tolerance = rules.sentences, model.pyfunc.predict, rules.tolerance
    embeddings = findings.sentences = predict(sentences)

    def encode(texts: Sequence[str], **params: int) -> np.ndarray:
        return predict(list(texts), params=params or None)

    checks = check_form(
        embeddings,
        sentences,
        model.dim,
        normalizes(model.native),
        unit_tolerance=tolerance.unit_length,
        max_cosine=tolerance.max_cosine,
    )
    checks += check_output(embeddings, tolerance.max_cosine)
    checks += check_invariance(encode, sentences, tolerance.invariance)
    checks += check_white_space(encode, model.native, sentences, tolerance.invariance)
    checks += check_hostile(encode, sentences[0], tolerance.invariance)
    checks += check_refusals(predict, bad_inputs(), RefusedInput)
    findings.latency = latencies_ms(predict, sentences, rules.latency_calls)
    return checks


def check_quality(
    model: Subject, suites: Sequence[Suite], rivals: Mapping[str, FoundModel], rules: ValidateConf, findings: Findings
) -> list[Check]:
    """Scores beside what the suites demand. Every backend is scored too; that decides nothing here."""
    with contextlib.ExitStack() as stack:
        own = load_by_role(stack, model.found, model.folder, model.native, rules.backend)
        findings.scores, embedded = score_all(suites, own, rules.bootstrap)
        compare_rivals(model, rivals, suites, rules, findings=findings)
        findings.trials = try_backends(model, suites, own, embedded, rules)
        findings.corpus = own(None)(sample_topics()[0])
    checks = check_demands(model, rules.scored_suites, findings) + check_losses(rules, findings)
    # A tokenizer that does not belong to the weights makes them look untrained; known weights are trained.
    is_known = any(check.name == "known/parameters_sha256" and check.passed for check in findings.checks)
    if is_known or any(check.name.startswith(NAMES_CAUSE) for check in findings.failures):
        return checks
    sample, threshold = suites[0].sample(rules.candidate_pairs), rules.scored_suites[0].threshold

    def score_of(other: SentenceTransformer) -> float:
        return scoring.spearman(sample, lambda texts: other.encode(list(texts), show_progress_bar=False))

    return checks + check_trained(findings.scores[0].value, threshold, score_of, model.native)


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
        folder = download(champion)
        other = load_by_role(stack, champion, folder, models.load_native(folder), rules.backend.of("torch/f32"))(None)
        old = other(sample)
        checks += check_spread(corpus, old, rules.tolerance.spread)
        new = corpus
        if texts is not None:
            own = load_by_role(stack, model.found, model.folder, model.native, rules.backend)(None)
            old, new = other(list(texts)), own(list(texts))
    rates = [trial.rows_per_second for trial in findings.trials if trial.passed and trial.rows_per_second]
    findings.compatibility = compare_vectors(
        old, new, rules.compatibility, against="champion", rows_per_second=max(rates, default=None)
    )
    if rules.compatibility.bridge and findings.compatibility.bridge_recall is not None:
        findings.bridge = fit_bridge(old, new)
    elif rules.compatibility.bridge:
        logger.warning(
            "compatibility.bridge=true: %d texts are too few for a map of %d dimensions. Give twice as many as dimensions: corpus.path=<texts>",
            *new.shape,
        )
    return checks


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


def check_losses(rules: ValidateConf, findings: Findings) -> list[Check]:
    """The model loses no more than `comparison.max_loss` points to a rival beyond noise, over all suites or on one."""
    limit = rules.comparison.max_loss
    checks = []
    for against, found in findings.comparisons.items():
        for name, difference in {"": found.difference, **found.suites}.items():
            checks.append(check_loss(f"comparison/{against}" + (f"/{name}" if name else ""), difference, limit))
    return checks


def check_loss(name: str, difference: Difference, limit: float) -> Check:
    """No more than `limit` points are lost, or that is within noise."""
    return Check(
        name,
        finite(difference.value),
        f">= {-limit:g}, or within noise ({difference.low:.2f} to {difference.high:.2f})",
        not difference.is_loss(limit),
    )


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
            scored[model_id] = score_rival(rival, suites, rules)
        if not scored[model_id]:
            logger.warning(
                "the %s %s is deleted, and its last validation recorded none of these suites: it is not compared with. baseline=<run ID> names another.",
                against,
                rival.registered,
            )
            continue
        findings.comparisons[against] = comparison.compare(
            findings.scores, scored[model_id], rules.comparison.margin, rules.bootstrap
        )


def score_rival(rival: FoundModel, suites: Sequence[Suite], rules: ValidateConf) -> list[Score]:
    """Another model's scores on the same suites, by torch in float32; of one that is deleted, those on record."""
    if rival.is_gone:
        recorded = verdict.read_units(rival)
        return [scoring.restore(suite, recorded[suite.digest]) for suite in suites if suite.digest in recorded]
    folder = download(rival)
    native = models.load_native(folder)
    with contextlib.ExitStack() as stack:
        encode_as = load_by_role(stack, rival, folder, native, rules.backend.of("torch/f32"))
        return score_all(suites, encode_as, rules.bootstrap)[0]


def try_backends(
    model: Subject, suites: Sequence[Suite], own: ByRole, embedded: list[Vectors], rules: ValidateConf
) -> list[Trial]:
    """The backend of the config and every candidate beside torch in float32.

    Args:
        own: the backend of the config. embedded: its vectors of the suites.
    """
    samples = [suite.sample(rules.candidate_pairs) for suite in suites]
    # The rate of whole sentences, the same ones whatever the suites are.
    pace = trials.Pace(sample_topics()[0], rules.sentences, rules.latency_calls)
    found = []

    def load(name: str, stack: contextlib.ExitStack) -> ByRole:
        return load_by_role(stack, model.found, model.folder, model.native, rules.backend.of(name))

    with contextlib.ExitStack() as stack:
        exact = own if own.key == "torch/f32" else load("torch/f32", stack)
        expected = embedded if exact is own else [scoring.embed(sample, exact) for sample in samples]
        for name in dict.fromkeys(["torch/f32", own.key, *rules.candidates]):
            try:
                with contextlib.ExitStack() as inner:
                    encode_as = {"torch/f32": exact, own.key: own}.get(name) or load(name, inner)
                    trial = trials.judge(
                        name,
                        encode_as,
                        list(zip(samples, expected)),
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


def check_scores(score: Score, spec: SuiteSpec, published: float | None, difference: Difference | None) -> list[Check]:
    """What a suite demands of a score: a least value, nearness to the published one, no loss to the champion."""
    if score.undefined:
        found = [Check(score.name, f"undefined: {score.undefined}", f">= {spec.threshold:g}", False)]
    else:
        found = [at_least(score.name, score.value, spec.threshold)]
    group, allowed = f"quality/{score.suite.name}", spec.max_loss_to_published
    if published is not None and allowed is not None:
        found.append(at_least(f"{group}/beside_published", score.value - published, -allowed))
    if difference is not None and spec.max_loss_to_champion is not None:
        found.append(check_loss(f"{group}/beside_champion", difference, spec.max_loss_to_champion))
    return found
