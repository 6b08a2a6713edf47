"""The texts of the sample corpus."""

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
    """The sample corpus, and its texts four by four: what int8 ranges are measured on. English; short and long."""
    texts, _ = sample_topics()
    return texts + [" ".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]
