"""Everything that validate checks of one model, and the findings."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from steps.common.backends.timing import latencies_ms
from steps.common.corpus.sample import sample_topics
from steps.common.model import load as models
from steps.common.model.facts import facts, normalizes
from steps.common.model.find import FoundModel
from steps.common.model.load import RefusedInput, input_example, load_embeddings_api, load_pyfunc, scoring_app
from steps.common.quality import scoring
from steps.common.quality.roles import ByRole
from steps.common.quality.suite import Suite
from steps.common.tracking import verdict
from steps.common.validation import environment, identity, serving
from steps.common.validation.behaviour import (
    bad_inputs,
    check_form,
    check_hostile,
    check_invariance,
    check_output,
    check_refusals,
    check_white_space,
)
from steps.common.validation.checks import Check, at_most, check_close, equal, failed, guarded
from steps.common.validation.findings import Findings, Subject
from steps.common.validation.openai import check_api
from steps.common.validation.rivals import check_cosines, check_losses, compare_rivals
from steps.common.validation.rules import ValidateConf
from steps.common.validation.scores import check_demands, check_search, load_by_role, score_all, try_backends
from steps.common.validation.server import Server
from steps.common.validation.weights import check_trained, check_weights, check_word_vectors

# Beginnings of the names of checks that say what is wrong inside a model.
NAMES_CAUSE = ("known/", "unchanged/", "weights/", "tokenizer/")


def examine(
    found: FoundModel,
    folder: Path,
    suites: Sequence[Suite],
    rules: ValidateConf,
    *,
    rivals: Mapping[str, FoundModel] | None = None,
    server: Server | None = None,
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
    with contextlib.ExitStack() as stack:
        own = functools.cache(lambda: load_by_role(stack, found, folder, model.native, rules.backend))
        groups: list[tuple[str, Callable[[], list[Check]]]] = [
            ("identity", lambda: check_identity(found.tags, model.native)),
            ("parity", lambda: check_loading(model, reference, rules.tolerance.parity)),
            # The server starts meanwhile.
            ("quality", lambda: score_suites(own(), suites, rules, findings)),
            # The server stops here, and the timings have the machine to themselves.
            ("serving", lambda: check_serving(model, server, rules, findings)),
            ("embeddings_api", lambda: check_embeddings_api(model, rules.tolerance.parity)),
            ("predict", lambda: check_behaviour(model, rules, findings)),
            ("quality", lambda: check_quality(model, own(), rivals or {}, rules, findings) if findings.scores else []),
            ("cosines", lambda: check_cosines(model, (rivals or {}).get("champion"), rules, findings, texts)),
        ]
        for name, check in groups:
            findings.checks += guarded(name, check)
    return findings


def check_identity(tags: dict[str, str], native: SentenceTransformer) -> list[Check]:
    """The model is unchanged since it was logged, has the facts its weights are known for, and is not broken inside."""
    own = facts(native)
    name, known = identity.find_known(tags, own)
    return [
        *identity.check_unchanged(tags, own),
        *identity.check_known(name, known, own),
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


def check_serving(model: Subject, server: Server | None, rules: ValidateConf, findings: Findings) -> list[Check]:
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


def score_suites(own: ByRole, suites: Sequence[Suite], rules: ValidateConf, findings: Findings) -> list[Check]:
    """The model's scores, by the backend of the config; no check yet."""
    findings.scores, findings.embedded = score_all(suites, own, rules.bootstrap)
    findings.scored_by = own.key
    return []


def check_quality(
    model: Subject, own: ByRole, rivals: Mapping[str, FoundModel], rules: ValidateConf, findings: Findings
) -> list[Check]:
    """Scores beside what the suites demand. Every backend is scored too; that decides nothing here."""
    suites = [score.suite for score in findings.scores]
    checks = check_search(suites, own, rules, findings)
    compare_rivals(model, rivals, suites, rules, findings=findings)
    findings.trials = try_backends(model, own, findings, rules)
    findings.corpus = own(None)(sample_topics()[0])
    checks += check_demands(model, rules.scored_suites, findings) + check_losses(rules, findings)
    # A tokenizer that does not belong to the weights makes them look untrained; known weights are trained.
    is_known = any(check.name == "known/parameters_sha256" and check.passed for check in findings.checks)
    if is_known or any(check.name.startswith(NAMES_CAUSE) for check in findings.failures):
        return checks
    sample, threshold = suites[0].sample(rules.candidate_pairs), rules.scored_suites[0].threshold

    def score_of(other: SentenceTransformer) -> float:
        return scoring.compute_score(sample, lambda texts: other.encode(list(texts), show_progress_bar=False))

    return checks + check_trained(findings.scores[0].value, threshold, score_of, model.native)
