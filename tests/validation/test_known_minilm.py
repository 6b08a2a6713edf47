"""The real weights, changed so that scores hardly show it: stopped by a fact, by compressed cosines, or not compatible."""

import numpy as np
import pytest
import yaml
from helpers.damages import (
    add_constant,
    add_noise,
    add_prompt,
    cut_to,
    exchange_words,
    permute,
    round_weights,
    spoil_positions,
    zero_attention,
)
from helpers.project import PROJECT
from sentence_transformers import SentenceTransformer

from steps.common.corpus.sample import sample_topics
from steps.common.validation.behaviour import check_mean_cosine, check_spread
from steps.common.validation.checks import failed
from steps.common.validation.compatibility import Compatibility, compare_vectors
from steps.common.validation.gate import check_identity
from steps.common.validation.rules import CompatibilityConf
from steps.common.validation.unseen import find_moved

pytestmark = pytest.mark.slow

CONF = yaml.safe_load((PROJECT / "conf" / "validate.yaml").read_text())
TOLERANCE, COMPATIBILITY = CONF["tolerance"], CompatibilityConf(**CONF["compatibility"])


@pytest.fixture(scope="module")
def intact(minilm) -> np.ndarray:
    """Its vectors of the sample corpus."""
    return embed(minilm)


def embed(model: SentenceTransformer) -> np.ndarray:
    return model.encode(sample_topics()[0], show_progress_bar=False)


def stopped(model: SentenceTransformer) -> set[str]:
    """The facts that fail, where the model was logged under a name of one's own."""
    return {check.name for check in failed(check_identity({"hub_id": "local"}, model))}


def compressed(here: np.ndarray, champion: np.ndarray) -> set[str]:
    checks = check_mean_cosine(here, TOLERANCE["mean_cosine"], declared=False)
    return {check.name for check in failed([*checks, *check_spread(here, champion, TOLERANCE["spread"])])}


def compared(old: np.ndarray, new: np.ndarray) -> Compatibility:
    return compare_vectors(old, new, COMPATIBILITY, against="champion", rows_per_second=None)


def test_a_shorter_input_or_a_prompt_of_known_weights_is_a_fact_that_differs(minilm, intact):
    assert stopped(minilm) == set()
    assert stopped(cut_to(minilm)) == {"known/max_seq_length"}
    prompted = add_prompt(minilm)
    assert stopped(prompted) == {"known/prompts", "known/default_prompt"}
    assert compared(intact, embed(prompted)).verdict == "reindex_required"


def test_a_vector_added_to_every_embedding_is_compressed_cosines(minilm, intact):
    model = add_constant(minilm)
    assert stopped(model) == set()
    assert compressed(embed(model), intact) == {"embeddings/mean_cosine", "embeddings/spread"}
    assert compressed(intact, intact) == set()


def test_permuted_dimensions_pass_and_need_every_text_embedded_again(minilm, intact):
    model = permute(minilm)
    assert stopped(model) == set()
    vectors = embed(model)
    assert compressed(vectors, intact) == set()
    found = compared(intact, vectors)
    assert found.verdict == "reindex_required"
    assert abs(found.cosine_median) < 0.05
    assert found.overlap_within > 0.99
    assert found.overlap_across < 0.1


def test_a_little_noise_is_compatible_and_a_layer_without_attention_is_not(minilm, intact):
    noisy = embed(add_noise(minilm))
    found = compared(intact, noisy)
    assert found.verdict == "compatible"
    assert found.cosine_p5 > 0.999
    assert compressed(noisy, intact) == set()
    assert compared(intact, embed(zero_attention(minilm))).verdict == "reindex_required"


def moved(minilm, intact, model) -> list[str]:
    """The kinds of texts that no suite holds of which a changed model has other vectors."""
    embed_old, embed_new = (
        lambda texts, one=one: one.encode(texts, show_progress_bar=False) for one in (minilm, model)
    )
    return [one.texts for one in find_moved(model, embed_old, embed_new, (intact, embed(model)))]


def test_words_and_places_that_no_suite_holds_are_looked_at_beside_the_champion(minilm, intact):
    used = {token for text in sample_topics()[0] for token in minilm.tokenizer(text)["input_ids"]}
    exchanged, spoiled = exchange_words(minilm, kept=used | set(range(1000))), spoil_positions(minilm)
    for model in (exchanged, spoiled):
        # Nothing else sees them.
        assert compared(intact, embed(model)).verdict == "compatible"
        assert compressed(embed(model), intact) == set()
    assert moved(minilm, intact, exchanged) == ["rare words", "long texts"]
    assert moved(minilm, intact, spoiled) == ["long texts"]


def test_a_little_noise_moves_texts_that_no_suite_holds_no_further_than_others(minilm, intact):
    assert moved(minilm, intact, minilm) == []
    assert moved(minilm, intact, add_noise(minilm)) == []
    assert moved(minilm, intact, round_weights(minilm)) == []
    # A model of its own is compared by the suites.
    assert moved(minilm, intact, permute(minilm)) == []
