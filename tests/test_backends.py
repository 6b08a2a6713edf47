"""Backends against SentenceTransformer.encode: a tiny model for every feature that changes a vector."""

import copy
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import PROJECT, TINY_WORDS, FolderStore, backend_settings, needs_precision, spec
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from steps.common.backends import Passed, load
from steps.common.backends.check import PROBES, TOLERANCE, Unsuitable, check_against_torch, relative_errors
from steps.common.backends.convert import converted, products_of_activations, traceable
from steps.common.backends.kinds import check_candidates
from steps.common.backends.load import Candidate, candidates, load_backend
from steps.common.backends.openvino import OpenVinoBackend, core
from steps.common.backends.tokens import Tokens, make_tokenizer
from steps.common.backends.torch import LibraryBackend, TorchBackend, find_tasks
from steps.common.errors import UserError
from steps.common.quality import scoring
from steps.common.quality.kinds import read_suites
from steps.common.quality.roles import ByRole

LETTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
MAX_TOKENS = 64
NO_LIMIT = int(1e30)

PROMPTS = {"query": "the cat: ", "document": "a big tree "}


def word_pieces(special, template, pad_token, **options) -> PreTrainedTokenizerFast:
    """A lower-case word piece tokenizer, as BERT has one; `special` come first in its vocabulary."""
    pieces = dict.fromkeys([*special, *TINY_WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    named = [(piece, vocabulary[piece]) for piece in template.split() if piece != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad_token, unk_token="[UNK]", model_max_length=MAX_TOKENS, **options
    )


def bert_pieces() -> PreTrainedTokenizerFast:
    return word_pieces(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]", "[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def unigram(template, **options) -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece makes them."""
    scores = {"<s>": 0, "<pad>": 0, "</s>": 0, "<unk>": 0, "▁": -3}
    scores |= {f"▁{word}": -5 for word in TINY_WORDS} | {letter: -7 for letter in LETTERS}
    tokenizer = Tokenizer(models.Unigram([(piece, float(score)) for piece, score in scores.items()], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **({"model_max_length": MAX_TOKENS} | options)
    )


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.5,
    "max_position_embeddings": MAX_TOKENS,
}
# Positions start behind that of the padding.
BEHIND_PADDING = SIZES | {"max_position_embeddings": MAX_TOKENS + 2, "pad_token_id": 1}
DISTILBERT_SIZES = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
T5_SIZES = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 2}


def architecture(name):
    """A tokenizer, a model's class, and its configuration."""
    match name:
        case "BERT":
            return bert_pieces(), transformers.BertModel, transformers.BertConfig(**SIZES)
        case "DistilBERT":
            config = transformers.DistilBertConfig(**SIZES | DISTILBERT_SIZES)
            return bert_pieces(), transformers.DistilBertModel, config
        case "ModernBERT":
            config = transformers.ModernBertConfig(
                **SIZES, pad_token_id=0, local_attention=8, global_attn_every_n_layers=2
            )
            return bert_pieces(), transformers.ModernBertModel, config
        case "MPNet":
            pieces = word_pieces(["<s>", "<pad>", "</s>", "[UNK]"], "<s> $A </s>", "<pad>")
            return pieces, transformers.MPNetModel, transformers.MPNetConfig(**BEHIND_PADDING)
        case "XLM-RoBERTa":
            config = transformers.XLMRobertaConfig(**BEHIND_PADDING)
            return unigram("<s> $A </s>"), transformers.XLMRobertaModel, config
        case "Qwen3":
            pieces = word_pieces(["<s>", "<pad>", "</s>", "[UNK]"], "$A </s>", "<pad>", padding_side="left")
            config = transformers.Qwen3Config(**SIZES, **ENDS, pad_token_id=1, num_key_value_heads=1, head_dim=16)
            return pieces, transformers.Qwen3Model, config
        case "Llama" | "Mistral":
            side = "left" if name == "Mistral" else "right"
            pieces = word_pieces(["<s>", "<pad>", "</s>", "[UNK]"], "$A </s>", "<pad>", padding_side=side)
            sizes = SIZES | ENDS | {"pad_token_id": 1, "num_key_value_heads": 1}
            if name == "Llama":
                return pieces, transformers.LlamaModel, transformers.LlamaConfig(**sizes)
            return pieces, transformers.MistralModel, transformers.MistralConfig(**sizes, sliding_window=8)
        case "Gemma3":
            pieces = word_pieces(["<s>", "<pad>", "</s>", "[UNK]"], "$A </s>", "<pad>")
            sizes = SIZES | ENDS | {"pad_token_id": 1, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}
            return (
                pieces,
                transformers.Gemma3TextModel,
                transformers.Gemma3TextConfig(**sizes, use_bidirectional_attention=True),
            )
        case "T5":
            config = transformers.T5Config(**T5_SIZES, pad_token_id=1, decoder_start_token_id=1)
            return unigram("$A </s>", model_max_length=NO_LIMIT), transformers.T5EncoderModel, config
        case "ByT5":
            bytes_ = transformers.ByT5Tokenizer(model_max_length=MAX_TOKENS)
            return bytes_, transformers.T5EncoderModel, transformers.T5Config(**T5_SIZES)


def assemble(*modules, **options) -> SentenceTransformer:
    return SentenceTransformer(modules=list(modules), device="cpu", **options)


def words_only() -> WhitespaceTokenizer:
    return WhitespaceTokenizer(["[PAD]", *TINY_WORDS], stop_words=[])


def shortened(model: SentenceTransformer, limit: int) -> SentenceTransformer:
    model.max_seq_length = limit
    return model


def padded_left(model: SentenceTransformer) -> SentenceTransformer:
    model.tokenizer.padding_side = "left"
    return model


# By feature; `read` is the transformer of an architecture.
MODELS = {
    **{mode: lambda read, mode=mode: assemble(read("BERT"), Pooling(32, mode)) for mode in Pooling.POOLING_MODES},
    "cls+max": lambda read: assemble(read("BERT"), Pooling(32, ("cls", "max"))),
    "Dense": lambda read: assemble(read("BERT"), Pooling(32), Dense(32, 16, activation_function=torch.nn.Tanh())),
    "LayerNorm": lambda read: assemble(read("BERT"), Pooling(32), LayerNorm(32)),
    "Normalize": lambda read: assemble(read("BERT"), Pooling(32), Normalize()),
    "Dense+Normalize": lambda read: assemble(
        read("BERT"), Pooling(32), Dense(32, 48, activation_function=torch.nn.GELU()), Normalize()
    ),
    "WeightedLayerPooling": lambda read: assemble(
        read("BERT", config_kwargs={"output_hidden_states": True}),
        WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1),
        Pooling(32),
    ),
    "default prompt": lambda read: assemble(read("BERT"), Pooling(32), prompts=PROMPTS, default_prompt_name="document"),
    "prompt by name": lambda read: assemble(read("BERT"), Pooling(32), prompts=PROMPTS),
    "prompt left out of the pooling": lambda read: assemble(
        read("BERT"), Pooling(32, include_prompt=False), prompts=PROMPTS, default_prompt_name="query"
    ),
    "BERT padded left": lambda read: padded_left(assemble(read("BERT"), Pooling(32))),
    "prompt left out, padded left": lambda read: padded_left(
        assemble(read("XLM-RoBERTa"), Pooling(32, include_prompt=False), prompts=PROMPTS, default_prompt_name="query")
    ),
    "truncate_dim": lambda read: assemble(read("BERT"), Pooling(32), truncate_dim=12),
    "8 tokens": lambda read: shortened(assemble(read("BERT"), Pooling(32)), 8),
    "lasttoken, padded left": lambda read: padded_left(assemble(read("XLM-RoBERTa"), Pooling(32, "lasttoken"))),
    "DistilBERT": lambda read: assemble(read("DistilBERT"), Pooling(32)),
    "MPNet": lambda read: assemble(read("MPNet"), Pooling(32)),
    "XLM-RoBERTa": lambda read: assemble(read("XLM-RoBERTa"), Pooling(32, "cls"), Normalize()),
    "T5 without a limit": lambda read: assemble(read("T5"), Pooling(32)),
    "ModernBERT": lambda read: assemble(read("ModernBERT"), Pooling(32)),
    "Qwen3": lambda read: assemble(read("Qwen3"), Pooling(32, "lasttoken"), Normalize()),
    "Llama": lambda read: assemble(read("Llama"), Pooling(32)),
    "Mistral": lambda read: assemble(read("Mistral"), Pooling(32, "lasttoken")),
    "Gemma3, both ways": lambda read: assemble(read("Gemma3"), Pooling(32)),
    "ByT5": lambda read: assemble(read("ByT5"), Pooling(32)),
    "StaticEmbedding": lambda read: assemble(
        StaticEmbedding(bert_pieces(), embedding_dim=32), prompts=PROMPTS, default_prompt_name="query"
    ),
    "BoW": lambda read: assemble(BoW(TINY_WORDS), Dense(len(TINY_WORDS), 16)),
    "WordEmbeddings": lambda read: assemble(
        WordEmbeddings(words_only(), torch.randn(1 + len(TINY_WORDS), 32)), Pooling(32)
    ),
    "Router": lambda read: assemble(
        Router.for_query_document([read("BERT"), Pooling(32)], [read("MPNet"), Pooling(32)], default_route="document")
    ),
}

PROMPT_NAMES = {"prompt by name": "query"}

# Why OpenVINO cannot have a model.
NEEDS_LIBRARY = (
    "the model needs the library's own batches: it reads more than token ids of a fast tokenizer, or its vectors"
)
REFUSED = {
    "Gemma3, both ways": "it cannot be converted",
    "BERT padded left": NEEDS_LIBRARY,
    "ByT5": NEEDS_LIBRARY,
    "StaticEmbedding": NEEDS_LIBRARY,
    "BoW": NEEDS_LIBRARY,
    "WordEmbeddings": NEEDS_LIBRARY,
    "Router": NEEDS_LIBRARY,
}
TAKEN = [name for name in MODELS if name not in REFUSED]

# Models that SentenceTransformer.encode itself computes.
BY_THE_LIBRARY = [name for name, reason in REFUSED.items() if reason == NEEDS_LIBRARY]


def some_texts() -> list[str]:
    """Texts of 0 to 40 words, each number of words twice, and what a tokenizer may trip over; in no order."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(TINY_WORDS, k=words)) for words in [*range(41), *range(1, 41)]]
    texts += ["", " \t\n ", "Ünïcode: 東京タワー, Привет \U0001f680!", "The CAT, the Dog.", "zzz", "stone " * 200]
    texts += texts[7:20]
    rng.shuffle(texts)
    return texts


TEXTS = some_texts()


class Tiny:
    """The models of MODELS, each built once, with what the library gives for TEXTS and a store of its own."""

    def __init__(self, folder):
        self._folder, self._made = folder, {}

    def _once(self, make, *of):
        if (make, of) not in self._made:
            self._made[make, of] = make(*of)
        return self._made[make, of]

    def model(self, name, seed=0) -> SentenceTransformer:
        return self._once(self._build, name, seed)

    def expected(self, name) -> np.ndarray:
        return self._once(self._encode, name)

    def store(self, name) -> FolderStore:
        return self._once(self._new_store, name)

    def _build(self, name, seed):
        def read(architecture, **options):
            transformer = Transformer(str(self._once(self._save, architecture, seed)), **options)
            torch.manual_seed(seed)
            return transformer

        torch.manual_seed(seed)
        return MODELS[name](read)

    def _save(self, name, seed):
        folder = self._folder / f"{name}-{seed}"
        torch.manual_seed(seed)
        tokenizer, kind, config = architecture(name)
        config.vocab_size = len(tokenizer)
        kind(config).eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def _encode(self, name):
        return self.model(name).encode(TEXTS, prompt_name=PROMPT_NAMES.get(name), show_progress_bar=False)

    def _new_store(self, name):
        folder = self._folder / "stores" / name.replace(" ", "-")
        folder.mkdir(parents=True)
        return FolderStore(folder)

    def load(self, name, backend="torch", precision="auto", *, store=None, calibration=list, passed=None, **settings):
        return load_backend(
            backend_settings(backend, precision, **({"device": "cpu"} | settings)),
            self.model(name),
            store=store or self.store(name),
            calibration=calibration,
            prompt_name=PROMPT_NAMES.get(name),
            passed=passed,
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    # Models this small are slower on two cores than on one, by far where the other is busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Tiny(tmp_path_factory.mktemp("tiny"))
    torch.set_num_threads(threads)


@pytest.fixture
def said(caplog, monkeypatch):
    """What the project has logged at a level or above it."""
    monkeypatch.setattr(logging.getLogger("steps"), "propagate", True)
    caplog.set_level(logging.INFO, logger="steps")

    def messages(level=logging.WARNING):
        return [r.getMessage() for r in caplog.records if r.name == "steps" and r.levelno >= level]

    return messages


def assert_same(found, expected):
    """Equal but for rounding."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def refusal(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What the library gives


@pytest.mark.parametrize("name", MODELS)
def test_torch_gives_what_the_library_gives(tiny, said, name):
    backend = tiny.load(name, "torch")
    assert isinstance(backend, LibraryBackend if name in BY_THE_LIBRARY else TorchBackend)
    assert (backend.name, backend.precision, backend.device, backend.digest) == ("torch", "f32", "cpu", None)
    assert backend.dim == tiny.expected(name).shape[1]
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert said() == []


@pytest.mark.parametrize("name", TAKEN)
def test_openvino_gives_what_the_library_gives(tiny, said, name):
    backend = tiny.load(name, "openvino")
    assert (backend.name, backend.precision, backend.device) == ("openvino", "f32", "cpu")
    assert backend.dim == tiny.expected(name).shape[1]
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert said() == []


@pytest.mark.parametrize("name", TAKEN)
def test_auto_takes_openvino_where_it_can(tiny, said, name):
    backend = tiny.load(name, "auto")
    assert (backend.name, backend.precision) == ("openvino", "f32")
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    assert said() == []


@pytest.mark.parametrize("name", REFUSED)
def test_openvino_says_why_it_cannot_have_a_model(tiny, name):
    message = refusal(tiny.load, name, "openvino")
    assert re.match(f"backend=openvino backend.precision=f32 cannot be used: {REFUSED[name]}", message)


@pytest.mark.parametrize("name", REFUSED)
def test_auto_goes_on_with_torch_and_says_once_why(tiny, said, name):
    backend = tiny.load(name, "auto")
    assert (backend.name, backend.precision) == ("torch", "f32")
    assert_same(backend.encode(TEXTS), tiny.expected(name))
    (warning,) = said()
    assert re.match(f"backend=auto leaves out openvino/f32: {REFUSED[name]}", warning)


@pytest.mark.parametrize("backend, name", [("torch", "mean"), ("openvino", "mean"), ("torch", "StaticEmbedding")])
def test_few_texts_are_taken(tiny, backend, name):
    loaded = tiny.load(name, backend)
    assert loaded.encode([]).shape == (0, 32)
    assert loaded.encode([]).dtype == np.float32
    assert_same(loaded.encode(TEXTS[:1]), tiny.expected(name)[:1])


def test_nothing_has_the_dimension_of_a_shortened_model(tiny):
    assert tiny.load("truncate_dim", "openvino").encode([]).shape == (0, 12)


@pytest.mark.parametrize("backend, name", [("torch", "mean"), ("openvino", "mean"), ("torch", "StaticEmbedding")])
def test_the_rows_that_are_done_add_up_to_the_texts(tiny, backend, name):
    loaded, done = tiny.load(name, backend), []
    loaded.embed(loaded.tokenize(TEXTS), done.append)
    assert sum(done) == len(TEXTS)


def test_the_library_gives_a_sign_of_life_every_512_texts(tiny):
    backend, done = tiny.load("WordEmbeddings"), []
    texts = (TEXTS * 7)[:600]
    found = backend.embed(backend.tokenize(texts), done.append)
    assert done == [512, 88]
    assert_same(found, np.tile(tiny.expected("WordEmbeddings"), (7, 1))[:600])


def test_loading_leaves_the_model_as_it_is(tiny):
    tiny.load("mean", "torch", "bf16")
    tiny.load("mean", "openvino")
    model = tiny.model("mean")
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    np.testing.assert_array_equal(model.encode(TEXTS, show_progress_bar=False), tiny.expected("mean"))


@pytest.mark.parametrize("name", ["Qwen3", "ModernBERT"])
def test_converting_leaves_the_model_to_compute_as_before(tiny, tmp_path, name):
    model = copy.deepcopy(tiny.model(name))
    before = model[0].auto_model.config.to_dict() | {"attention": model[0].auto_model.config._attn_implementation}
    load_backend(
        backend_settings("openvino", "f32", 32, device="cpu"), model, store=FolderStore(tmp_path), calibration=list
    )
    config = model[0].auto_model.config
    assert config.to_dict() | {"attention": config._attn_implementation} == before
    np.testing.assert_array_equal(model.encode(TEXTS, show_progress_bar=False), tiny.expected(name))


def test_a_configuration_within_another_gets_its_own_attention_back(tiny):
    """As in models that join two others."""
    outer = transformers.BertModel(transformers.BertConfig(**SIZES))
    outer.inner = transformers.DistilBertModel(transformers.DistilBertConfig(**SIZES | DISTILBERT_SIZES))
    outer.inner.set_attn_implementation("eager")
    before = outer.config._attn_implementation
    with pytest.raises(ValueError, match="cannot be traced"), traceable(outer):
        assert outer.config._attn_implementation == "eager"
        raise ValueError("cannot be traced")
    assert (outer.config._attn_implementation, outer.inner.config._attn_implementation) == (before, "eager")
    assert before != "eager"


def test_the_padding_share_is_that_of_the_batches(tiny):
    """Texts of 5, 3 and 3 tokens: one batch of 3 x 5 for torch; OpenVINO shares 11 tokens out, as 2 x 5 and 1 x 3."""
    texts, model, settings = (
        ["the", "the cat the", "a"],
        tiny.model("mean"),
        backend_settings("torch", "f32", 32, threads=1),
    )
    tokenizer = make_tokenizer(model, None)
    ours = TorchBackend(model, tokenizer, settings, "cpu", None)
    assert ours.padding_share == 0
    ours.encode(texts)
    assert ours.padding_share == pytest.approx(4 / 15)
    ours.encode(["a"])
    assert ours.padding_share == pytest.approx(4 / 18)

    path, digest = converted(model, tokenizer, None, int8=False, calibration=list, store=tiny.store("mean"))
    whole = OpenVinoBackend(path, digest, model, tokenizer, settings)
    whole.encode(texts)
    assert whole.padding_share == pytest.approx(2 / 13)

    assert tiny.load("WordEmbeddings").padding_share is None


def test_a_prompt_the_model_does_not_have_is_one_line(tiny):
    asked = {"store": tiny.store("mean"), "calibration": list, "prompt_name": "passage"}
    message = refusal(
        load_backend, backend_settings("torch", "f32", 32, device="cpu"), tiny.model("prompt by name"), **asked
    )
    assert message == "the model has no prompt 'passage'; embedding.prompt_name is one of query, document."


# Routes


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


# Tokens


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


# The check


EXPECTED = np.tile(np.array([3, 4], np.float32), (len(PROBES), 1))


def answering(answers: np.ndarray, alone: np.ndarray | None = None):
    """An encode that gives these vectors for PROBES, and others for a text that comes alone."""
    by_text = dict(zip(PROBES, answers if alone is None else alone, strict=True))
    return lambda texts: answers if len(texts) > 1 else np.stack([by_text[text] for text in texts])


def test_how_far_a_vector_is_off_is_a_share_of_its_length():
    found = np.array([[3, 4], [3, 4.5], [0, 0], [3, np.nan], [np.inf, 4]], np.float32)
    errors = relative_errors(found, EXPECTED[:5])
    np.testing.assert_allclose(errors, [0, 0.1, 1, np.inf, np.inf])


def test_a_vector_of_zeros_is_met_by_zeros_only():
    errors = relative_errors(np.array([[0, 0], [0, 1e-3]], np.float32), np.zeros((2, 2), np.float32))
    assert errors[0] == 0
    assert errors[1] > 1


@pytest.mark.parametrize("precision, tolerance", TOLERANCE.items())
def test_a_backend_is_let_through_within_its_precision(precision, tolerance):
    off = EXPECTED.copy()
    off[4, 0] += 5 * 0.9 * tolerance
    assert check_against_torch(answering(off), EXPECTED, precision) == pytest.approx(0.9 * tolerance, rel=1e-3)
    off[4, 0] = 3 + 5 * 1.1 * tolerance
    with pytest.raises(Unsuitable, match="its embeddings are off from torch's by"):
        check_against_torch(answering(off), EXPECTED, precision)


def test_a_text_that_is_off_when_it_comes_alone_is_found():
    alone = EXPECTED.copy()
    alone[1] = [3, 5]
    with pytest.raises(Unsuitable, match="by 0.2 of their length, more than 0.001"):
        check_against_torch(answering(EXPECTED, alone), EXPECTED, "f32")


def test_embeddings_that_are_not_numbers_are_found():
    broken = EXPECTED.copy()
    broken[6, 1] = np.nan
    with pytest.raises(Unsuitable, match="by inf of their length"):
        check_against_torch(answering(broken), EXPECTED, "int8")


def test_a_text_that_torch_has_no_numbers_for_is_not_compared():
    empty = EXPECTED.copy()
    empty[2] = np.nan
    assert check_against_torch(answering(EXPECTED), empty, "f32") == 0


def test_embeddings_of_another_shape_are_found():
    with pytest.raises(Unsuitable, match=r"have shape \(7, 1\), those of torch \(7, 2\)"):
        check_against_torch(answering(EXPECTED[:, :1]), EXPECTED, "f32")


@pytest.fixture
def store_of_another(tiny, tmp_path):
    """A store that holds the conversion of another model with the same shapes."""
    store = FolderStore(tmp_path)
    another, settings = tiny.model("mean", seed=1), backend_settings("openvino", "f32", 32, device="cpu")
    load_backend(settings, another, store=store, calibration=list)
    return store


def test_a_conversion_of_another_model_is_refused(tiny, store_of_another):
    message = refusal(tiny.load, "mean", "openvino", store=store_of_another)
    assert message.startswith("backend=openvino backend.precision=f32 cannot be used: its embeddings are off")


def test_auto_leaves_out_a_conversion_of_another_model(tiny, store_of_another, said):
    backend = tiny.load("mean", "auto", store=store_of_another)
    assert backend.name == "torch"
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))
    (warning,) = said()
    assert warning.startswith("backend=auto leaves out openvino/f32: its embeddings are off")


# The store

CALIBRATION = TEXTS[:16]


def contents(folder) -> dict:
    """Every file below a folder: when it was written, and what is in it."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def conversions(messages) -> int:
    return sum(message.startswith("converting the model") for message in messages(logging.INFO))


@pytest.fixture(scope="module")
def int8(tiny):
    """Load an int8 backend of one model; without a store, from the one it was calibrated for first."""

    def load(store=None, calibration=CALIBRATION, **options):
        return tiny.load("Dense", "openvino", "int8", store=store, calibration=lambda: calibration, **options)

    load().close()
    return load


def test_int8_is_calibrated_once(tiny, int8, said):
    before = contents(tiny.store("Dense").folder)
    first, second = int8(), int8()
    assert (first.precision, first.digest) == (second.precision, second.digest)
    assert first.precision == "int8"
    assert contents(tiny.store("Dense").folder) == before
    assert conversions(said) == 0


def test_int8_is_near_the_model_and_not_the_model(tiny, int8):
    errors = relative_errors(int8().encode(TEXTS), tiny.expected("Dense"))
    assert 1e-3 < errors.max() < TOLERANCE["int8"]


def test_int8_gives_the_same_bytes_every_time(int8):
    first = int8().encode(TEXTS)
    assert first.tobytes() == int8().encode(TEXTS).tobytes()


def test_the_products_within_the_attention_are_not_quantised(tiny, int8):
    """OpenVINO makes one operation of a layer's attention; six products of each layer have weights, and Dense."""
    int8()
    tiny.load("Dense", "openvino")
    for name, quantised in (("openvino-f32", 0), ("openvino-int8", 6 * SIZES["num_hidden_layers"] + 1)):
        graph = core().read_model(tiny.store("Dense").folder / name / "model.xml")
        inner = products_of_activations(graph)
        assert len(inner) == SIZES["num_hidden_layers"]
        fed = [
            operation.get_friendly_name()
            for operation in graph.get_ordered_ops()
            if operation.get_type_name() in ("MatMul", "ScaledDotProductAttention")
            and "FakeQuantize" in (port.get_node().get_type_name() for port in operation.input_values())
        ]
        assert len(fed) == quantised
        assert not set(inner) & set(fed)


def test_openvino_computes_attention_without_its_compiler_of_fused_operations(tiny):
    kinds = {
        operation.get_rt_info()["layerType"].astype(str)
        for operation in tiny.load("mean", "openvino")._compiled.get_runtime_model().get_ordered_ops()
    }
    assert "Softmax" in kinds
    assert "Subgraph" not in kinds


def test_calibrating_anew_gives_the_same_model(tiny, int8, tmp_path, said):
    again = int8(FolderStore(tmp_path))
    assert conversions(said) == 1
    assert again.digest == int8().digest
    for name in ("model.xml", "model.bin"):
        kept = tiny.store("Dense").folder / "openvino-int8" / name
        assert (tmp_path / "openvino-int8" / name).read_bytes() == kept.read_bytes()


def test_other_texts_calibrate_int8_again(tiny, int8, tmp_path, said):
    shutil.copytree(tiny.store("Dense").folder, tmp_path, dirs_exist_ok=True)
    again = int8(FolderStore(tmp_path), TEXTS[16:24])
    assert conversions(said) == 1
    assert again.digest != int8().digest


def edit_facts(folder, edit):
    facts = json.loads((folder / "facts.json").read_text())
    edit(facts)
    (folder / "facts.json").write_text(json.dumps(facts))


DAMAGES = {
    "a byte of the weights": lambda folder: flip_last_byte(folder / "model.bin"),
    "half of the weights": lambda folder: os.truncate(folder / "model.bin", (folder / "model.bin").stat().st_size // 2),
    "no graph": lambda folder: (folder / "model.xml").unlink(),
    "no facts": lambda folder: (folder / "facts.json").unlink(),
    "half of the facts": lambda folder: os.truncate(folder / "facts.json", 40),
    "empty facts": lambda folder: (folder / "facts.json").write_text("{}"),
    "an older OpenVINO": lambda folder: edit_facts(folder, lambda f: f["recipe"]["versions"].update(openvino="2020.1")),
}


def flip_last_byte(path) -> None:
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_kept_model_that_is_damaged_is_made_again(tiny, tmp_path, said, damage):
    digest = tiny.load("mean", "openvino").digest
    shutil.copytree(tiny.store("mean").folder, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "openvino-f32")
    backend = tiny.load("mean", "openvino", store=FolderStore(tmp_path))
    (warning,) = said()
    assert "openvino-f32" in warning
    assert conversions(said) == 1
    assert backend.digest == digest
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))

    tiny.load("mean", "openvino", store=FolderStore(tmp_path))
    assert conversions(said) == 1


# The choice

PASSED = {"torch/bf16": Passed(50.0), "openvino/int8": Passed(300.0, "digest"), "openvino/f32": Passed(100.0)}
ON_A_GPU = ["torch/fp16", "torch/bf16", "torch/f32"]


@pytest.mark.parametrize(
    "name, precision, on_gpu, passed, expected",
    [
        ("torch", "auto", False, {}, ["torch/f32"]),
        ("torch", "auto", False, PASSED, ["torch/f32"]),
        ("torch", "auto", True, {}, ON_A_GPU),
        ("torch", "bf16", False, {}, ["torch/bf16"]),
        ("torch", "fp16", True, {}, ["torch/fp16"]),
        ("openvino", "auto", False, PASSED, ["openvino/f32"]),
        ("openvino", "int8", False, {}, ["openvino/int8"]),
        ("auto", "auto", False, {}, ["openvino/f32", "torch/f32"]),
        ("auto", "auto", False, PASSED, ["openvino/int8", "openvino/f32", "torch/bf16", "torch/f32"]),
        ("auto", "auto", True, PASSED, ON_A_GPU),
        ("auto", "bf16", True, PASSED, ["torch/bf16"]),
        ("auto", "bf16", False, PASSED, ["openvino/bf16", "torch/bf16"]),
        ("auto", "int8", False, {}, ["openvino/int8"]),
    ],
)
def test_backends_are_tried_in_this_order(name, precision, on_gpu, passed, expected):
    found = candidates(backend_settings(name, precision, 32), on_gpu=on_gpu, passed=passed)
    assert [candidate.key for candidate in found] == expected


def test_a_candidate_has_to_be_what_was_validated():
    found = candidates(backend_settings("auto", "auto", 32), on_gpu=False, passed=PASSED)
    assert [candidate.digest for candidate in found] == ["digest", None, None, None]
    assert found[0] == Candidate(
        "openvino", "int8", "the fastest that validate has passed for this model", digest="digest"
    )


@pytest.mark.parametrize(
    "name, precision, on_gpu, message",
    [
        ("onnx", "f32", False, "there is no backend 'onnx'; expected one of auto, torch, openvino."),
        ("torch", "int8", False, "backend=torch computes in f32, bf16, fp16, not in int8"),
        ("torch", "int8", True, "backend=torch computes in f32, bf16, fp16, not in int8"),
        ("auto", "int8", True, "a GPU computes in f32, bf16, fp16, not in int8"),
    ],
)
def test_a_backend_there_is_not_is_one_line(name, precision, on_gpu, message):
    found = refusal(candidates, backend_settings(name, precision, 32), on_gpu=on_gpu, passed={})
    assert found.startswith(message)


def test_a_list_of_backends_is_checked():
    check_candidates(["torch/f32", "openvino/int8"])
    assert refusal(check_candidates, ["torch/f32", "auto/f32"]).startswith(
        "candidates: there is no backend 'auto/f32'; expected some of torch/f32, "
    )


def test_settings_for_openvino_are_those_for_the_cpu():
    settings = backend_settings("auto", "auto", 32, batch_tokens=100, device="cuda", threads=2)
    ours = dataclasses.replace(settings, name="torch", precision="fp16")
    assert settings.of("torch/fp16") == ours
    assert settings.of("openvino/int8") == dataclasses.replace(ours, name="openvino", precision="int8", device="cpu")


@pytest.fixture
def emulated(monkeypatch):
    """Say why the CPU emulates bfloat16; None: it does not."""
    return lambda why: monkeypatch.setattr(
        load, "why_emulated", lambda precision, device: why if precision == "bf16" else None
    )


def test_auto_leaves_out_what_this_machine_emulates_unless_it_was_asked_for(tiny, emulated, said):
    emulated("it has none")
    backend = tiny.load("Dense", "auto", passed={"torch/bf16": Passed(200.0)})
    assert (backend.name, backend.precision) == ("openvino", "f32")
    assert said() == ["backend=auto leaves out torch/bf16: it has none"]
    assert tiny.load("Dense", "torch", "bf16").precision == "bf16"


def test_auto_takes_the_fastest_that_has_passed(tiny, int8, emulated, said):
    emulated(None)
    slower = {"openvino/f32": Passed(100.0), "torch/f32": Passed(50.0)}
    backend = tiny.load("Dense", "auto", passed={**slower, "torch/bf16": Passed(200.0)})
    assert (backend.name, backend.precision) == ("torch", "bf16")

    passed = {**slower, "openvino/int8": Passed(200.0, int8().digest)}
    backend = tiny.load("Dense", "auto", calibration=lambda: CALIBRATION, passed=passed)
    assert (backend.name, backend.precision) == ("openvino", "int8")
    assert said() == []


def test_auto_leaves_out_a_model_that_is_not_the_validated_one(tiny, int8, said):
    passed = {"openvino/int8": Passed(200.0, "0" * 64)}
    backend = tiny.load("Dense", "auto", calibration=lambda: CALIBRATION, passed=passed)
    assert (backend.name, backend.precision) == ("openvino", "f32")
    (warning,) = said()
    assert warning == (
        "backend=auto leaves out openvino/int8: its converted model is not the one that was validated; run validate again"
    )


def test_auto_takes_an_exact_backend_that_was_converted_anew_since(tiny, said):
    """Its digest is another than the validated one, but it equals torch, and is checked to."""
    backend = tiny.load("mean", "auto", passed={"openvino/f32": Passed(200.0, "0" * 64)})
    assert (backend.name, backend.precision) == ("openvino", "f32")
    (warning,) = said()
    assert "leaves out openvino/f32: its converted model is not the one that was validated" in warning


# Precisions and devices


@pytest.fixture
def no_bfloat16(monkeypatch):
    """A CPU without bfloat16."""
    import openvino

    from steps.common.backends import openvino as module

    class Core(openvino.Core):
        def get_property(self, device, name):
            found = super().get_property(device, name)
            return [kind for kind in found if kind != "BF16"] if name == "OPTIMIZATION_CAPABILITIES" else found

    monkeypatch.setattr(module, "core", functools.cache(Core))


MODEL_FREED_BY_ANOTHER_THREAD = """
import os, signal, threading
import openvino as ov
from openvino import opset13 as ops
from steps.common.backends.openvino import core

given = ops.parameter([2, 2], float)
compiled = [core().compile_model(ov.Model([ops.add(given, given)], [given]), "CPU")]
thread = threading.Thread(target=compiled.clear)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(10)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_a_model_was_freed_by_another_thread_is_no_crash():
    command = [sys.executable, "-c", MODEL_FREED_BY_ANOTHER_THREAD]
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit it.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, preexec_fn=default)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_bfloat16_is_refused_where_the_cpu_has_none(tiny, no_bfloat16):
    message = refusal(tiny.load, "mean", "openvino", "bf16")
    assert "cannot be used: this CPU has no bfloat16 instructions (OpenVINO finds " in message


def test_auto_goes_on_where_the_cpu_lacks_what_was_validated(tiny, no_bfloat16, said):
    backend = tiny.load("mean", "auto", passed={"openvino/bf16": Passed(200.0)})
    assert (backend.name, backend.precision) == ("openvino", "f32")
    (warning,) = said()
    assert warning.startswith("backend=auto leaves out openvino/bf16: this CPU has no bfloat16 instructions")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_is_near_the_model_and_not_the_model(tiny, backend):
    if backend == "openvino":
        needs_precision("bf16")
    loaded = tiny.load("mean", backend, "bf16")
    assert loaded.precision == "bf16"
    found = loaded.encode(TEXTS)
    assert found.dtype == np.float32
    assert 1e-3 < relative_errors(found, tiny.expected("mean")).max() < TOLERANCE["bf16"]


@pytest.mark.parametrize(
    "backend, precision, reason",
    [
        ("torch", "int8", "backend=torch computes in f32, bf16, fp16, not in int8"),
        ("torch", "fp16", "fp16 is for a GPU; a CPU computes it more slowly than f32"),
        ("openvino", "fp16", "backend=openvino computes in f32, bf16, int8, not in fp16; backend=torch does"),
    ],
)
def test_a_precision_a_backend_does_not_have_is_refused(tiny, backend, precision, reason):
    assert reason in refusal(tiny.load, "mean", backend, precision, device="cpu")


def test_a_device_that_is_not_there_is_one_line(tiny):
    message = refusal(tiny.load, "mean", "torch", device="tpu")
    assert message.startswith("backend.device=tpu is not on this machine; expected one of auto, cpu")


def test_openvino_has_one_cpu(tiny):
    assert "OpenVINO computes on the CPU, not on cpu,cpu" in refusal(tiny.load, "mean", "openvino", device="cpu,cpu")


# Out of memory


class Cramped:
    """A model whose device holds so many tokens at a time."""

    def __init__(self, model, limit, error):
        self.model, self.limit, self.error, self.failures = model, limit, error, 0

    def __call__(self, features):
        if features["input_ids"].numel() > self.limit:
            self.failures += 1
            raise self.error
        return self.model(features)


OUT_OF_MEMORY = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")]


@pytest.fixture
def cramped(tiny):
    def load(limit, error=OUT_OF_MEMORY[0]):
        backend = tiny.load("mean", batch_tokens=512)
        backend._model = Cramped(backend._model, limit, error)
        return backend

    return load


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["CUDA", "MPS"])
def test_out_of_memory_makes_smaller_batches_and_keeps_them(tiny, cramped, said, error):
    """The first batch is 8 texts, the longest of 64 tokens: 512 tokens, then 256 and 128 do not fit."""
    backend = cramped(100, error)
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))
    assert backend._model.failures == 3
    assert [warning.split("; ")[1] for warning in said()] == [
        "going on with at most 256",
        "going on with at most 128",
        "going on with at most 64",
    ]
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))
    assert backend._model.failures == 3


def test_a_text_that_does_not_fit_alone_is_one_line(cramped):
    message = refusal(cramped(20).encode, ["the " * 10, "the " * 30])
    assert message.startswith("cpu is out of memory for a single text of 32 tokens. ")


def test_another_error_is_not_taken_for_want_of_memory(cramped):
    backend = cramped(100, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        backend.encode(TEXTS)
    assert backend._model.failures == 1


# Several devices


@pytest.fixture
def two_devices(tiny):
    """Load a model on two devices: the backend, and its processes, which end with the test."""
    loaded = []

    def load(name):
        others = set(multiprocessing.active_children())
        loaded.append(tiny.load(name, device="cpu,cpu", threads=1))
        return loaded[-1], set(multiprocessing.active_children()) - others

    yield load
    for backend in loaded:
        backend.close()


@pytest.mark.slow
def test_two_devices_give_what_one_gives(tiny, two_devices):
    backend, workers = two_devices("truncate_dim")
    done = []
    assert (backend.name, backend.precision, backend.device) == ("torch", "f32", "cpu,cpu")
    assert_same(backend.embed(backend.tokenize(TEXTS), done.append), tiny.expected("truncate_dim"))
    assert sum(done) == len(TEXTS)
    assert backend.encode([]).shape == (0, 12)

    assert len(workers) == 2
    backend.close()
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.slow
def test_two_devices_share_the_texts_of_a_model_of_the_librarys_until_one_dies(tiny, two_devices):
    backend, workers = two_devices("StaticEmbedding")
    assert_same(backend.encode(TEXTS), tiny.expected("StaticEmbedding"))

    os.kill(workers.pop().pid, signal.SIGKILL)
    assert refusal(backend.encode, TEXTS).startswith("a worker process on cpu,cpu died")
