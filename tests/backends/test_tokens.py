"""Routes and tokens."""

import copy

import numpy as np
import pytest
from helpers.architectures import (
    MODELS,
    NO_LIMIT,
    PROMPT_NAMES,
    TEXTS,
    assemble,
    assert_same,
)
from helpers.errors import refusal
from helpers.models import backend_settings
from helpers.project import PROJECT
from helpers.suites import spec
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
)

from steps.common.backends.load import load_backend
from steps.common.backends.tokens import Tokens, make_tokenizer
from steps.common.backends.torch import find_tasks
from steps.common.quality import scoring
from steps.common.quality.kinds import read_suites
from steps.common.quality.roles import ByRole


def routed(tiny, task, backend="torch"):
    asked = {"store": tiny.store("Router"), "calibration": list, "task": task}
    return load_backend(backend_settings(backend, "f32", 32, device="cpu"), tiny.model("Router"), **asked)


def test_a_task_takes_its_route(tiny):
    model = tiny.model("Router")
    for task, encode in (("query", model.encode_query), ("document", model.encode_document)):
        assert_same(routed(tiny, task).encode(TEXTS), encode(TEXTS, show_progress_bar=False))
    query, document = (routed(tiny, task).encode(TEXTS) for task in ("query", "document"))
    assert np.abs(query - document).max() > 0.1


def test_a_task_without_a_route_is_one_line(tiny):
    message = refusal(routed, tiny, "image")
    assert message == "the model has no route 'image'; embedding.task is one of query, document."
    asked = {"store": tiny.store("mean"), "calibration": list, "task": "query"}
    message = refusal(load_backend, backend_settings("torch", "f32", 32, device="cpu"), tiny.model("mean"), **asked)
    assert message == "the model has no route 'query'; embedding.task is null."


def test_tokens_are_counted_and_cut_by_the_route(tiny):
    model = copy.deepcopy(tiny.model("Router"))
    short, long = (model[0].sub_modules[task][0] for task in ("query", "document"))
    short.max_seq_length, long.max_seq_length = 8, 32
    asked = {"store": tiny.store("Router"), "calibration": list}
    for task, limit in (("query", 8), ("document", 32), (None, 32)):
        backend = load_backend(backend_settings("torch", "f32", 32, device="cpu"), model, task=task, **asked)
        assert backend.max_tokens == limit
        assert backend.tokenize(["the cat is red"]).lengths.tolist() == [6]


def test_retrieval_takes_the_routes_that_the_library_takes(tiny):
    model = tiny.model("Router")
    encode_as = ByRole(
        lambda prompt, task: routed(tiny, task), model.prompts, model.default_prompt_name, find_tasks(model)
    )
    assert_same(encode_as("query")(TEXTS), model.encode_query(TEXTS, show_progress_bar=False))
    assert_same(encode_as("document")(TEXTS), model.encode_document(TEXTS, show_progress_bar=False))
    assert_same(encode_as(None)(TEXTS), model.encode(TEXTS, show_progress_bar=False))
    assert encode_as.key == "torch/f32"

    documents = PROJECT / "steps/data/sample_corpus.csv"
    (suite,) = read_suites(
        [spec(kind="retrieval", path=PROJECT / "steps/data/suites/retrieval.jsonl", documents=documents)]
    )
    evaluator = InformationRetrievalEvaluator(
        {str(i): query for i, query in enumerate(suite.queries)},
        suite.documents,
        {str(i): set(relevant) for i, relevant in enumerate(suite.relevant)},
        main_score_function="cosine",
    )
    found = scoring.score(suite, scoring.embed(suite, encode_as)).value
    assert found == pytest.approx(100 * evaluator(model)["cosine_ndcg@10"], abs=1e-6)


def library_count(model, text, prompt) -> int:
    """Tokens of a text in a batch of its own; a bag of words of weight 1 adds up to them."""
    features = model.preprocess([text], prompt=prompt)
    return features["input_ids"].numel() if "input_ids" in features else int(features["sentence_embedding"].sum())


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_counted_before_a_text_is_cut(tiny, name):
    lengths = tiny.load(name).tokenize(TEXTS).lengths
    model = copy.deepcopy(tiny.model(name))
    if name not in ("StaticEmbedding", "BoW"):
        model.max_seq_length = NO_LIMIT
    prompt = model.prompts.get(PROMPT_NAMES.get(name, model.default_prompt_name))
    assert lengths.dtype == np.int64
    assert lengths.max() >= 200
    assert lengths.tolist() == [library_count(model, text, prompt) for text in TEXTS]


def test_no_texts_have_no_tokens(tiny):
    for name in ("mean", "StaticEmbedding", "ByT5", "BoW"):
        assert tiny.load(name).tokenize([]).lengths.shape == (0,)


def test_taking_some_texts_takes_their_tokens():
    tokens = Tokens(np.array([3, 1, 9]), np.array([1, 2, 3, 4, 5, 6]), np.array([0, 3, 4, 6]))
    taken = tokens.take(np.array([2, 0]))
    assert [taken.lengths.tolist(), taken.ids.tolist(), taken.offsets.tolist()] == [[9, 3], [5, 6, 1, 2, 3], [0, 2, 5]]
    assert taken.widths.tolist() == [2, 3]


def test_taking_no_texts_takes_no_tokens():
    taken = Tokens(np.array([3]), np.array([1, 2, 3]), np.array([0, 3])).take(np.array([], np.int64))
    assert len(taken) == len(taken.ids) == 0
    assert taken.offsets.tolist() == [0]


class Backwards(Transformer):
    """Reads every text from its end."""

    def preprocess(self, inputs, prompt=None, **options):
        return super().preprocess([text[::-1] for text in inputs], prompt=prompt, **options)


def test_a_tokenizer_that_does_not_give_what_the_model_reads_is_not_used(tiny):
    folder = tiny.model("mean")[0].model.config.name_or_path
    for first in (Backwards(folder), Transformer(folder, processing_kwargs={"text": {"max_length": 6}})):
        model = assemble(first, Pooling(32))
        assert make_tokenizer(model, None) is None
        backend = load_backend(
            backend_settings("torch", "f32", 32, device="cpu"), model, store=tiny.store("mean"), calibration=list
        )
        assert_same(backend.encode(TEXTS), model.encode(TEXTS, show_progress_bar=False))
