"""What validate asks of one model: groups of checks, and what they find."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from steps.common import environment, identity, openai_api, quality, sanity, scoring, serving, summary, trials
from steps.common import model as models
from steps.common.backends.check import Refused
from steps.common.found import FoundModel, download
from steps.common.quality import Check
from steps.common.rules import ValidateConf
from steps.common.suite import Suite
from steps.common.trials import Trial

# Checks that say what is wrong inside a model.
NAMES_CAUSE = ("known/", "unchanged/", "weights/", "tokenizer/")


@dataclass(frozen=True)
class Subject:
    """The model that is validated, loaded both ways, in one folder."""

    found: FoundModel
    folder: Path
    native: object
    pyfunc: object

    @property
    def dim(self) -> int:
        """What the signature declares."""
        return self.pyfunc.metadata.signature.outputs.inputs[0].shape[-1]

    @property
    def params(self) -> dict:
        """Inference params that change the result."""
        return {"truncate_dim": max(1, self.dim // 2), "normalize_embeddings": True}


@dataclass
class Findings:
    """What there is to say of a model; `checks` decide."""

    checks: list[Check] = field(default_factory=list)
    scores: list[scoring.Score] = field(default_factory=list)
    # By suite: the score required, the published one, and the difference to the champion.
    thresholds: dict = field(default_factory=dict)
    references: dict = field(default_factory=dict)
    differences: dict = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    # Milliseconds of single calls; embeddings of the test sentences and of the sample corpus.
    latency: np.ndarray | None = None
    sentences: np.ndarray | None = None
    corpus: np.ndarray | None = None
    # What the server was measured at.
    deployment: dict[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> list[Check]:
        return quality.failed(self.checks)

    @property
    def verdict(self) -> str:
        return "failed" if self.failures else "passed"

    @property
    def passed_backends(self) -> list[str]:
        """What encode may use: none of a model that failed."""
        return [trial.backend for trial in self.trials if trial.passed and not self.failures]

    @property
    def regressed(self) -> list[str]:
        """The suites on which the champion is better, and not by noise."""
        return scoring.find_regressions(self.differences)

    def metrics(self) -> dict[str, float]:
        """What is logged beside the scores, by name."""
        values = {check.name: check.value for check in self.checks}
        metrics = {
            "parity/max_abs_diff": values.get("parity/max_abs_diff"),
            # A server that could not be asked at all has said nothing of itself.
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
    champion: FoundModel | None,
    server: serving.Server | None,
    rules: ValidateConf,
) -> Findings:
    """Load a model both ways and check all it claims. A check that cannot be made is a failed check.

    Raises:
        UserError: what the user can put right, such as a server's port that was taken meanwhile.
    """
    reference = models.reference(found)
    model = Subject(found, folder, models.load_native(folder), models.load_pyfunc(folder))
    findings = Findings()
    groups = {
        "identity": lambda: check_identity(found.tags, model.native),
        "parity": lambda: check_loading(model, reference, rules.tolerance.parity),
        # Before anything is timed: the server stops here.
        "serving": lambda: check_deployment(model, server, rules, findings),
        "embeddings_api": lambda: check_embeddings_api(model, rules.tolerance.parity),
        "predict": lambda: check_behaviour(model, rules, findings),
        "quality": lambda: check_quality(model, suites, champion, rules, findings),
    }
    for name, check in groups.items():
        findings.checks += quality.guarded(name, check)
    return findings


def check_identity(tags: dict[str, str], native) -> list[Check]:
    """The model is what was logged, and what a model with its weights is known to be; and it is not broken inside."""
    facts = models.facts(native)
    name, known = identity.find_known(tags, facts)
    return [
        *identity.check_unchanged(tags, facts),
        *identity.check_known(name, known, facts),
        *sanity.check_weights(native),
        *sanity.check_word_vectors(native),
    ]


def check_loading(model: Subject, reference: dict, tolerance: float) -> list[Check]:
    """The model loaded either way gives what the source model gave when it was logged."""
    pyfunc, native, sentences = model.pyfunc, model.native, reference["sentences"]
    source = np.array(reference["embeddings"], np.float32)
    predicted = pyfunc.predict(sentences)
    one = pyfunc.predict([sentences[0]])
    cut = pyfunc.predict(sentences, params=model.params | {"batch_size": 2})
    return [
        quality.same("parity/pyfunc_vs_native", predicted, native.encode(sentences), tolerance),
        quality.same("parity/native_vs_source", native.encode(sentences), source, tolerance),
        quality.same("parity/max_abs_diff", predicted, source, tolerance),
        quality.same("input/str_vs_list", pyfunc.predict(sentences[0]), one, tolerance),
        quality.same(
            "input/dataframe_vs_list", pyfunc.predict(pd.DataFrame({"text": sentences})), predicted, tolerance
        ),
        quality.equal("params/truncate_dim", cut.shape[-1], model.params["truncate_dim"]),
        quality.at_most("params/normalize_embeddings", float(np.abs(np.linalg.norm(cut, axis=1) - 1).max()), 1e-3),
    ]


def check_deployment(
    model: Subject, server: serving.Server | None, rules: ValidateConf, findings: Findings
) -> list[Check]:
    """A server of the model answers as it does, and it predicts in an environment of its own."""
    predict, examples = model.pyfunc.predict, models.input_example(model.folder)
    tolerance, asked = rules.tolerance.parity, rules.serving
    if server is None:
        client = serving.InProcess(models.scoring_app(model.pyfunc))
        checks, metrics = serving.check_protocol(client, predict, examples, model.params, tolerance), {}
    else:
        checks, metrics = serving.check_server(
            server,
            predict,
            examples,
            model.params,
            tolerance=tolerance,
            start_timeout=asked.start_timeout,
            clients=asked.clients,
            seconds=asked.load_seconds,
        )
    findings.deployment = metrics | {"serving/ok": float(not quality.failed(checks))}
    if rules.fresh_environment:
        requirements, expected = model.folder / "requirements.txt", predict(examples)
        checks += environment.check_fresh_environment(model.found.uri, requirements, examples, expected, tolerance)
    return checks


def check_embeddings_api(model: Subject, tolerance: float) -> list[Check]:
    """The model that answers OpenAI's call for this one gives its vectors; nothing where none was logged.

    Asked in this process, through the server's own code: what a server adds was tried with the model itself.
    """
    api = models.load_embeddings_api(model.found)
    if api is None:
        return []
    examples = models.input_example(model.folder)
    client = serving.InProcess(models.scoring_app(api))
    return openai_api.check_api(client, examples, model.pyfunc.predict(examples), tolerance)


def check_behaviour(model: Subject, rules: ValidateConf, findings: Findings) -> list[Check]:
    """Form, invariance and robustness of what the model answers."""
    sentences, predict, tolerance = rules.sentences, model.pyfunc.predict, rules.tolerance
    embeddings = findings.sentences = predict(sentences)
    print("first 10 entries of each test embedding")
    summary.show_embeddings(sentences, embeddings)

    def encode(texts, **params):
        return predict(list(texts), params=params or None)

    checks = quality.check_form(
        embeddings,
        sentences,
        model.dim,
        models.normalizes(model.native),
        unit_tolerance=tolerance.unit_length,
        max_cosine=tolerance.max_cosine,
    )
    checks += sanity.check_output(embeddings, tolerance.max_cosine)
    checks += quality.check_invariance(encode, sentences, tolerance.invariance)
    checks += sanity.check_white_space(encode, model.native, sentences, tolerance.invariance)
    checks += sanity.check_hostile(encode, sentences[0], tolerance.invariance)
    checks += quality.check_refusals(predict, models.bad_inputs(), models.Refusal)
    findings.latency = quality.latencies_ms(predict, sentences, rules.latency_calls)
    return checks


def check_quality(
    model: Subject, suites: Sequence[Suite], champion: FoundModel | None, rules: ValidateConf, findings: Findings
) -> list[Check]:
    """What the suites demand; and what became of each backend, which decides nothing."""
    with contextlib.ExitStack() as stack:
        own = models.load_by_role(stack, model.found, model.folder, model.native, rules.backend)
        findings.scores, embedded = score_all(suites, own, rules.bootstrap)
        if champion is not None:
            others = score_champion(champion, suites, rules)
            findings.differences = scoring.compare_all(findings.scores, others, rules.bootstrap)
        findings.trials = try_backends(model, suites, own, embedded, rules)
        findings.corpus = own(None)(models.sample_topics()[0])
    name, _ = identity.find_known(model.found.tags, models.facts(model.native))
    checks = []
    for spec, score in zip(rules.scored_suites, findings.scores):
        if spec.max_loss_to_champion is not None and champion is None:
            models.logger.warning(
                "suite %s: max_loss_to_champion=%g is ignored: no champion is given (champion=<run ID>)",
                score.suite.name,
                spec.max_loss_to_champion,
            )
        findings.thresholds[score.suite.name] = spec.threshold
        if name in spec.references:
            findings.references[score.suite.name] = spec.references[name]
        reference = findings.references.get(score.suite.name)
        checks += scoring.checks(score, spec, reference, findings.differences.get(score.suite.name))
    sample = suites[0].sample(rules.candidate_pairs)

    def score_of(other) -> float:
        return scoring.spearman(sample, lambda texts: other.encode(list(texts), show_progress_bar=False))

    # A tokenizer that does not belong to the weights makes them look untrained; known weights are trained.
    is_known = any(check.name == "known/parameters_sha256" and check.passed for check in findings.checks)
    if is_known or any(check.name.startswith(NAMES_CAUSE) for check in findings.failures):
        return checks
    return checks + sanity.check_trained(
        findings.scores[0].value, rules.scored_suites[0].threshold, score_of, model.native
    )


def score_all(suites: Sequence[Suite], encode_as, bootstrap) -> tuple[list[scoring.Score], list]:
    """A model's scores on all suites, by one backend, and the vectors they are made from."""
    scores, embedded = [], []
    for suite in suites:
        models.logger.info("scoring %d %s of %s", len(suite), suite.unit, suite.path)
        embedded.append(scoring.embed(suite, encode_as))
        scores.append(scoring.score(suite, embedded[-1], bootstrap))
    return scores, embedded


def score_champion(champion: FoundModel, suites: Sequence[Suite], rules: ValidateConf) -> list[scoring.Score]:
    """The champion's scores on the same suites, by torch in float32."""
    models.logger.info("scoring the champion %s on the same suites", champion.uri)
    folder = download(champion)
    native = models.load_native(folder)
    with contextlib.ExitStack() as stack:
        encode_as = models.load_by_role(stack, champion, folder, native, rules.backend.of("torch/f32"))
        return score_all(suites, encode_as, rules.bootstrap)[0]


def try_backends(
    model: Subject, suites: Sequence[Suite], own: trials.ByRole, embedded: list, rules: ValidateConf
) -> list[Trial]:
    """The backend of the config and every candidate beside torch in float32.

    Args:
        own: the backend of the config. embedded: what it made of the suites.
    """
    samples = [suite.sample(rules.candidate_pairs) for suite in suites]
    # The rate of whole sentences, the same ones whatever the suites are.
    pace = trials.Pace(models.sample_topics()[0], rules.sentences, rules.latency_calls)
    found = []

    def load(name: str, stack) -> trials.ByRole:
        return models.load_by_role(stack, model.found, model.folder, model.native, rules.backend.of(name))

    with contextlib.ExitStack() as stack:
        exact = own if own.key == "torch/f32" else load("torch/f32", stack)
        expected = embedded if exact is own else [scoring.embed(sample, exact) for sample in samples]
        for name in dict.fromkeys(["torch/f32", own.key, *rules.candidates]):
            try:
                with contextlib.ExitStack() as inner:
                    encode_as = {"torch/f32": exact, own.key: own}.get(name) or load(name, inner)
                    is_exact = encode_as is exact
                    found.append(
                        trials.judge(name, encode_as, samples, expected, rules.tolerance.score, pace, is_exact)
                    )
            except Refused as refused:
                found.append(Trial(name, False, refused.reason))
    return found
