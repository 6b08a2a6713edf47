"""The texts of the sample corpus."""

from steps.common.corpus import corpus
from steps.common.project import SAMPLE_CORPUS
from steps.common.storage.place import locate


def sample_topics() -> tuple[list[str], list[str]]:
    """The texts of the sample corpus, and the topic of each."""
    texts, topics = [], []
    for columns in corpus.read_columns(locate(SAMPLE_CORPUS), "csv", ["text", "topic"], 1000):
        texts += columns[0].to_pylist()
        topics += columns[1].to_pylist()
    return texts, topics


def calibration_texts() -> list[str]:
    """The sample corpus, and its texts four by four: what int8 ranges are measured on. English; short and long."""
    texts, _ = sample_topics()
    return texts + [" ".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]
