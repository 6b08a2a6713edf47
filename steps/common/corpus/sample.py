"""The texts of the sample corpus, and some of any other."""

from itertools import chain

from steps.common.corpus.corpus import Corpus
from steps.common.corpus.readers import find_format, read_columns
from steps.common.project import SAMPLE_CORPUS
from steps.common.storage.place import locate


def sample_topics() -> tuple[list[str], list[str]]:
    """The texts of the sample corpus, and the topic of each."""
    texts: list[str] = []
    topics: list[str] = []
    for columns in read_columns(locate(SAMPLE_CORPUS), find_format("csv"), ["text", "topic"], 1000):
        texts += columns[0].to_pylist()
        topics += columns[1].to_pylist()
    return texts, topics


def calibration_texts() -> list[str]:
    """Every other text of the sample corpus, and those four by four: what int8 ranges are measured on. English; short and long.

    All of the corpus takes half as long again, and all-MiniLM-L6-v2 scores the same: STSBenchmark 81.99 for 81.89, SICK-R 77.32
    for 77.44.
    """
    texts = sample_topics()[0][::2]
    return texts + [" ".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]


def pick_texts(corpus: Corpus, rows: int) -> list[str]:
    """Texts from evenly over a corpus, those that are null left out; all of them where there are fewer."""
    present = corpus.rows - corpus.null_rows
    count = min(rows, present)
    picked = {number * present // count for number in range(count)}
    batches = (batch.column("text").drop_null().to_pylist() for batch in corpus.batches(8192))
    return [text for number, text in enumerate(chain.from_iterable(batches)) if number in picked]
