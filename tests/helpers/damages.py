"""Ways to make a model worse, or only different, without breaking it: each takes all-MiniLM-L6-v2 and gives a copy."""

import copy
import functools
from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer

# BERT's weights along the hidden dimension: which axis of each it is.
READS = (
    "attention.self.query.weight",
    "attention.self.key.weight",
    "attention.self.value.weight",
    "intermediate.dense.weight",
)
WRITES = ("attention.output.dense", "output.dense")


def copied(change: Callable[..., None]) -> Callable[..., SentenceTransformer]:
    @functools.wraps(change)
    def make(model: SentenceTransformer, *values, **named) -> SentenceTransformer:
        made = copy.deepcopy(model)
        with torch.no_grad():
            change(made, *values, **named)
        return made

    return make


def layers(model: SentenceTransformer):
    return model[0].auto_model.encoder.layer


@copied
def cut_to(model, tokens=16):
    model.max_seq_length = tokens


@copied
def add_prompt(model, prompt="query: "):
    model.prompts = {**model.prompts, "default": prompt}
    model.default_prompt_name = "default"


@copied
def zero_attention(model, layer=2):
    """One layer's attention adds nothing."""
    dense = layers(model)[layer].attention.output.dense
    dense.weight.zero_()
    dense.bias.zero_()


@copied
def drop_layers(model, count=1):
    network = model[0].auto_model
    network.encoder.layer = network.encoder.layer[: len(network.encoder.layer) - count]
    network.config.num_hidden_layers = len(network.encoder.layer)


@copied
def round_weights(model, bits=4, group=32):
    """Linear weights to so many bits, in groups of a row, symmetric."""
    most = 2 ** (bits - 1) - 1
    for module in layers(model).modules():
        if isinstance(module, torch.nn.Linear):
            grouped = module.weight.reshape(-1, group)
            scale = grouped.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
            module.weight.copy_(((grouped / scale).round() * scale).reshape(module.weight.shape))


@copied
def add_noise(model, share=0.01, seed=0):
    """Noise on every weight, as a share of the weight."""
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.mul_(1 + share * torch.randn(weight.shape, generator=draw))


@copied
def add_constant(model, scale=2.0, seed=0):
    """A vector `scale` times as long as an embedding is added to every embedding before it is normalised."""
    draw = torch.Generator().manual_seed(seed)
    norm = layers(model)[-1].output.LayerNorm
    direction = torch.randn(norm.bias.shape, generator=draw)
    pooled = model.encode(["The cat sat on the warm windowsill."], output_value="token_embeddings")[0].mean(dim=0)
    norm.bias.add_(direction / direction.norm() * pooled.norm() * scale)


@copied
def permute(model, seed=0):
    """The same model in another order of the hidden dimension: its vectors are permuted, and their cosines are the same."""
    network = model[0].auto_model
    order = torch.randperm(network.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    for name, weight in network.named_parameters():
        if (
            name.startswith("embeddings.")
            and "LayerNorm" not in name
            or name.endswith(READS)
            or "pooler.dense.weight" in name
        ):
            weight.copy_(weight[:, order])
        elif "LayerNorm" in name or any(f"{write}.{part}" in name for write in WRITES for part in ("weight", "bias")):
            weight.copy_(weight[order])


# The rows of the table that a gate is judged by: what it has to say beside the intact model as champion.
DAMAGES: dict[str, Callable[..., SentenceTransformer]] = {
    "cut to 16 tokens": cut_to,
    "a prompt added": add_prompt,
    "permuted": permute,
    "attention zeroed": zero_attention,
    "constant added": add_constant,
    "4 bits": round_weights,
    "last layer dropped": drop_layers,
    "half the layers": lambda model: drop_layers(model, 3),
    "1 % noise": add_noise,
}


@copied
def exchange_words(model, kept: set[int], seed=0):
    """The vectors of all tokens but these change places, at random."""
    vectors = model[0].auto_model.embeddings.word_embeddings.weight
    ids = torch.tensor([token for token in range(len(vectors)) if token not in kept])
    vectors[ids] = vectors[ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))]]


@copied
def spoil_positions(model, first=96, seed=0):
    """Positions from one on are noise."""
    vectors = model[0].auto_model.embeddings.position_embeddings.weight
    noise = torch.randn(vectors[first:].shape, generator=torch.Generator().manual_seed(seed))
    vectors[first:] = noise * vectors.std()
