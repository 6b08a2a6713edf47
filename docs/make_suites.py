"""Make the suites `perturbed` and `long` of the sample corpus: python -m docs.make_suites

Each sentence of the corpus has a paraphrase, written for this project (suites/paraphrases.csv). The paraphrase is paired with
the sentence itself and with what was made of it, or with others. Grades are those of SemEval (Agirre et al. 2012): 5 means
the same, 3 lacks something important, 2 says something else of the same things, 1 has the topic in common, 0 nothing.
"""

import csv
import json
import random
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "steps" / "data"

SUITES = DATA / "suites"

# The corpus says these of each topic twice.
TWICE = {"05": "14", "14": "05"}

SEED = 3

AUXILIARY = re.compile(r"\b(is|are|was|were|can|will|must|should|may|could|would)\b(?! not)")


def pair_up(words: str) -> dict[str, str]:
    """`a/b c/d` as a mapping."""
    return dict(pair.split("/") for pair in words.split())


# What a word is replaced by. Only the first of a sentence is.
NUMBERS = pair_up("""
    two/nine three/eleven four/six five/two six/sixteen seven/three eight/five nine/four ten/two fifteen/ninety
    thirty/twelve forty/eight fifty/nine twenty-four/fifteen million/thousand half/double centuries/days minutes/weeks
    years/hours hours/weeks days/decades months/minutes decades/minutes seconds/decades June/November annual/daily
    Sunday/Tuesday
""")

NAMES = pair_up("""
    Jupiter's/Mercury's Jupiter/Mercury Andromeda/Whirlpool Mars/Neptune Saturn's/Mercury's Venus/Neptune
    Europa/Phobos North/South Vienna/Lisbon Venice/Oslo Edinburgh/Bristol Bach/Verdi Chopin's/Wagner's
    Mozart/Stravinsky Beethoven/Debussy Rust/Perl Python/Cobol Interrail/Airline European/African Baroque/Modern
""")

OPPOSITES = pair_up("""
    early/late earlier/later warm/cold warmer/colder hot/cold before/after high/low higher/lower more/less fall/rise
    rising/falling faster/slower fast/slow slowly/quickly quickly/slowly slow/fast last/first winning/losing
    winter/summer summer/winter autumn/spring spring/autumn dry/wet wet/dry heavy/light larger/smaller large/small
    tiny/huge long/short deeper/shallower lighter/heavier safer/riskier cheaper/dearer expensive/cheap best/worst
    better/worse well/badly clean/dirty open/closed above/below beneath/above outdoors/indoors overnight/daily
    morning/evening night/day home/away young/old old/new new/old refused/granted given/denied guilty/innocent
    fresh/stale stiff/soft sharp/blunt dulls/improves protects/harms prevents/causes improves/ruins restores/weakens
    relax/tighten lose/gain buy/sell Selling/Buying spending/saving earned/owed grow/shrink expanding/contracting
    near/beyond nearest/farthest distant/nearby often/never usually/never always/never generously/sparingly
    keeps/loses hold/release stays/moves strong/weak sudden/gradual deep/shallow dense/thin weakened/strengthened
    rarely/often calm/stormy release/conceal catches/overlooks find/miss detects/misses tightened/loosened ends/begins
    begin/finish replaced/kept shared/split equally/unequally overturned/confirmed praised/blamed lifted/dropped
    attacks/spares cure/worsen reduces/increases bright/dim faint/blinding hides/shows nothing/everything
    minimum/maximum sunny/rainy briefly/permanently narrow/wide
""")


def replace_word(text: str, others: dict[str, str]) -> str | None:
    """A text with the first word that has another replaced by it; None where no word has."""
    words = text.split(" ")
    for place, word in enumerate(words):
        bare = word.strip(".,;")
        if bare in others:
            words[place] = word.replace(bare, others[bare], 1)
            return " ".join(words)
    return None


def negate(text: str) -> str:
    """A sentence that says the opposite of another, by `not` behind its first auxiliary verb, or in front of all of it."""
    found = AUXILIARY.search(text)
    if found:
        return f"{text[: found.end()]} not{text[found.end() :]}"
    is_name = re.sub(r"\W.*", "", text) in {re.sub(r"\W.*", "", name) for name in NAMES}
    return "It is not true that " + (text if is_name else text[0].lower() + text[1:])


def change(text: str, number: int) -> tuple[str, str]:
    """What was done to a sentence so that it means something else, and what it says then.

    A name or a number is swapped where there is one; of the others every second is negated.
    """
    for category, others in (("name", NAMES), ("number", NUMBERS)):
        if changed := replace_word(text, others):
            return category, changed
    opposite = replace_word(text, OPPOSITES) if number % 2 else None
    return ("opposite", opposite) if opposite else ("negation", negate(text))


def halves(text: str) -> list[str]:
    words = text.split()
    middle = len(words) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])]


def split_id(key: str) -> tuple[str, str]:
    topic, _, number = key.partition("-")
    return topic, number


def others_of(key: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sentences of the same topic that say something else, and those of other topics."""
    topic, number = split_id(key)
    same = {key, f"{topic}-{TWICE.get(number, number)}"}
    return (
        [other for other in keys if split_id(other)[0] == topic and other not in same],
        [other for other in keys if split_id(other)[0] != topic],
    )


def make_perturbed(sentences: dict[str, str], paraphrases: dict[str, str]) -> Iterator[tuple[str, str, int, str]]:
    """Eight pairs of each sentence: two texts, their grade, and what was done."""
    draw, keys = random.Random(SEED), sorted(sentences)
    for number, key in enumerate(keys):
        text, paraphrase = sentences[key], paraphrases[key]
        category, changed = change(text, number)
        topic, elsewhere = others_of(key, keys)
        yield paraphrase, text, 5, "paraphrase"
        for half in halves(text):
            yield paraphrase, half, 3, "truncated"
        yield paraphrase, changed, 2, category
        for other in draw.sample(topic, 3):
            yield paraphrase, sentences[other], 1, "topic"
        yield paraphrase, sentences[draw.choice(elsewhere)], 0, "unrelated"


def make_long(sentences: dict[str, str], paraphrases: dict[str, str]) -> Iterator[tuple[str, str, int, str]]:
    """Five pairs of each text of three sentences, where the first sentence does not tell the grades 5, 3 and 2 apart: a model
    that reads only so far loses."""
    draw = random.Random(SEED)
    wholes: dict[str, list[tuple[str, str]]] = {}
    parts: list[tuple[str, str, str, str, str]] = []
    for topic, members in groupby(sorted(sentences), key=lambda key: split_id(key)[0]):
        # One of each two that say the same.
        keys = [key for key in members if split_id(key)[1] != "14"]
        for first in range(0, 18, 3):
            three = keys[first : first + 3]
            rest = draw.sample([key for key in keys if key not in three], 2)
            whole, one, two = (
                " ".join(sentences[key] for key in chosen)
                for chosen in (three, [*three[:2], rest[0]], [three[0], *rest])
            )
            said = " ".join(paraphrases[key] for key in three)
            wholes.setdefault(topic, []).append((said, whole))
            parts.append((topic, said, whole, one, two))
    for topic, said, whole, one, two in parts:
        yield said, whole, 5, "paraphrase"
        yield said, one, 3, "one replaced"
        yield said, two, 2, "two replaced"
        yield said, draw.choice([text for other, text in wholes[topic] if other != said]), 1, "topic"
        elsewhere = draw.choice([other for other in wholes if other != topic])
        yield said, draw.choice(wholes[elsewhere])[1], 0, "unrelated"


def read(path: Path) -> dict[str, str]:
    """The texts of a CSV by their ids."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["text"] for row in csv.DictReader(file)}


def make() -> dict[str, str]:
    """The content of each file, by its name."""
    sentences, paraphrases = read(DATA / "sample_corpus.csv"), read(SUITES / "paraphrases.csv")
    return {
        f"{name}.jsonl": "".join(
            json.dumps({"sentence1": a, "sentence2": b, "score": grade, "category": category}, ensure_ascii=False)
            + "\n"
            for a, b, grade, category in make_pairs(sentences, paraphrases)
        )
        for name, make_pairs in (("perturbed", make_perturbed), ("long", make_long))
    }


if __name__ == "__main__":
    for name, content in make().items():
        (SUITES / name).write_text(content, encoding="utf-8")
