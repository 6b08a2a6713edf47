"""Tiny models of every architecture that a backend may meet."""

import random

import numpy as np
import torch
import transformers
from helpers.models import TINY_WORDS, FolderStore, backend_settings
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
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

from steps.common.backends.load import load_backend

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


def assert_same(found, expected):
    """Equal but for rounding."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


CALIBRATION = TEXTS[:16]
