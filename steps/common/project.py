"""Where the project lies, and what ships with it."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

CONF = PROJECT / "conf"

SAMPLE_CORPUS = PROJECT / "steps" / "data" / "sample_corpus.csv"
