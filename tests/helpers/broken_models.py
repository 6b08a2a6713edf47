"""Ways to break a model, each on a copy: what the gate of validate has to find, and the check that names it."""

import copy
import json
import random
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling


def with_random_weights(model: SentenceTransformer, seed: int = 1) -> SentenceTransformer:
    torch.manual_seed(seed)
    network = model[0].auto_model
    network.load_state_dict(type(network)(network.config).state_dict())
    return model


def with_nan_in_a_layer(model: SentenceTransformer) -> SentenceTransformer:
    with torch.no_grad():
        model[0].auto_model.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    return model


def with_one_output(model: SentenceTransformer) -> SentenceTransformer:
    """Its last layer forgets what it has read."""
    last = model[0].auto_model.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.linspace(-1, 1, len(last.bias)))
    return model


def with_swapped_pooling(model: SentenceTransformer) -> SentenceTransformer:
    modules = [
        Pooling(model.get_embedding_dimension(), "cls") if isinstance(module, Pooling) else module for module in model
    ]
    return SentenceTransformer(modules=modules, device="cpu")


def without_normalize(model: SentenceTransformer) -> SentenceTransformer:
    return SentenceTransformer(modules=[module for module in model if not isinstance(module, Normalize)], device="cpu")


def with_common_vector(model: SentenceTransformer, length: float, seed: int = 0) -> SentenceTransformer:
    """One vector is added to the vector of every token, and so to every embedding before it is normalised."""
    last = model[0].auto_model.encoder.layer[-1].output.LayerNorm
    common = torch.randn(len(last.bias), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        last.bias.add_(length * common / common.norm())
    return model


def with_permuted_dimensions(model: SentenceTransformer, seed: int = 0) -> SentenceTransformer:
    """The same function of a text, but for the order of the dimensions, throughout a BERT."""
    network = model[0].auto_model
    embeddings, layers = network.embeddings, network.encoder.layer
    order = torch.randperm(len(embeddings.LayerNorm.bias), generator=torch.Generator().manual_seed(seed))
    words = (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings)
    readers = [part for one in layers for part in (*_attention(one), one.intermediate.dense)]
    with torch.no_grad():
        for part in (*words, *readers):
            part.weight.copy_(part.weight[:, order])
        for part in [embeddings.LayerNorm, *(part for one in layers for part in _writers(one))]:
            part.weight.copy_(part.weight[order])
            part.bias.copy_(part.bias[order])
    return model


def _attention(layer) -> tuple:
    attention = layer.attention.self
    return attention.query, attention.key, attention.value


def _writers(layer) -> tuple:
    output = layer.attention.output
    return output.dense, output.LayerNorm, layer.output.dense, layer.output.LayerNorm


def give_wrong_tokenizer(folder: Path, seed: int = 0) -> None:
    """Put another tokenizer of the same size into the folder of a model: the same tokens under other ids."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    words = [token for token in vocabulary if not token.startswith("[")]
    ids = [vocabulary[token] for token in words]
    random.Random(seed).shuffle(ids)
    vocabulary.update(zip(words, ids))
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "vocab.txt").unlink(missing_ok=True)


# The check that has to name the cause, where the model was broken before it was logged, and its weights are known,
# or changed beyond recognition; and where it was broken after it was logged.
BROKEN = {
    "random weights": (with_random_weights, "weights/trained", "unchanged/parameters_sha256"),
    "NaN in a layer": (with_nan_in_a_layer, "weights/not_finite", "weights/not_finite"),
    "one output": (with_one_output, "embeddings/constant", "embeddings/constant"),
    "wrong tokenizer": (None, "known/tokenizer_sha256", "unchanged/tokenizer_sha256"),
    "swapped pooling": (with_swapped_pooling, "known/pooling", "unchanged/pooling"),
    "no Normalize": (without_normalize, "known/normalizes", "unchanged/normalizes"),
}


def save_broken(name: str, model: SentenceTransformer, folder: Path) -> Path:
    """A broken copy of a model in a new folder."""
    change = BROKEN[name][0]
    whole = copy.deepcopy(model)
    (change(whole) if change else whole).save(str(folder), create_model_card=False)
    if change is None:
        give_wrong_tokenizer(folder)
    return folder
