"""How small a loss each suite sees: all-MiniLM-L6-v2 beside damaged copies of it, on the suites that ship and on all at once.

    PYTHONPATH=.:tests python -m helpers.power [--suites perturbed long] [--damages "4 bits"] [--seeds 3]

A minute for each copy on two cores. Seeds are drawn for damages that have chance in them.
"""

import argparse
import inspect
import sys
from collections.abc import Callable

from helpers.damages import DAMAGES
from helpers.models import find_minilm, load_model
from omegaconf import OmegaConf
from sentence_transformers import SentenceTransformer

from steps.common.launch.arguments import register_schemas
from steps.common.launch.check import check
from steps.common.launch.paths import find_suites
from steps.common.quality import kinds, scoring
from steps.common.quality.comparison import compare
from steps.common.quality.suite import Suite


def score(model: SentenceTransformer, suites: list[Suite], bootstrap) -> list[scoring.Score]:
    def encode(texts):
        return model.encode(texts, batch_size=16, show_progress_bar=False)

    return [scoring.score(suite, scoring.embed(suite, lambda role: encode), bootstrap) for suite in suites]


def copies(seeds: int) -> dict[str, Callable[[SentenceTransformer], SentenceTransformer]]:
    """Each damage, once for each seed where it takes one."""
    found: dict[str, Callable[[SentenceTransformer], SentenceTransformer]] = {}
    for name, damage in DAMAGES.items():
        if "seed" in inspect.signature(inspect.unwrap(damage)).parameters:
            found |= {f"{name}, seed {seed}": lambda model, d=damage, s=seed: d(model, seed=s) for seed in range(seeds)}
        else:
            found[name] = damage
    return found


def main(names: list[str] | None, damages: list[str] | None, seeds: int) -> None:
    register_schemas()
    conf = OmegaConf.to_object(check("validate", [])[0])
    suites = [one for one in kinds.read_suites(find_suites(conf.scored_suites)) if names is None or one.name in names]
    model = load_model(find_minilm())
    intact = score(model, suites, conf.bootstrap)
    for found in intact:
        print(
            f"{found.suite.name}: {len(found.suite):,} {found.suite.unit}, {found.value:.2f} ({found.low:.1f} to {found.high:.1f})"
        )
    for name, damage in copies(seeds).items():
        if damages and not name.startswith(tuple(damages)):
            continue
        found = compare(score(damage(model), suites, conf.bootstrap), intact, conf.comparison.margin, conf.bootstrap)
        by_suite = [
            f"{suite} {one.value:+.2f} ({one.low:+.2f} to {one.high:+.2f})" for suite, one in found.suites.items()
        ]
        print(f"{name}: {found.describe('the intact model')}; {', '.join(by_suite)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="*")
    parser.add_argument("--damages", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args(sys.argv[1:])
    main(given.suites, given.damages, given.seeds)
