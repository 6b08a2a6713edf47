"""Parts made without a step: a backend that shows what was computed together, a job, an output."""

import numpy as np
from helpers.counting import CountingBackend

from steps.common.embeddings.job import Job, Limits, Options
from steps.common.storage import place as files
from steps.common.storage.output import Output


class WindowBackend(CountingBackend):
    """Embeds a text as numbers that show what was computed beside it: another window gives another vector."""

    def embed(self, tokens, on_rows=None):
        super().embed(tokens, on_rows)
        seed = sum(len(text) * (i + 1) for i, text in enumerate(tokens.texts))
        return np.array([[len(text), i / 7, seed / 3] for i, text in enumerate(tokens.texts)], np.float32).reshape(
            -1, 3
        )


class Letters:
    """A chunker whose pieces are of three letters."""

    def split(self, texts):
        return [[text[i : i + 3] for i in range(0, max(1, len(text)), 3)] for text in texts]


def options(**given):
    return Options(
        **(
            {"dtype": "float32", "truncate_dim": None, "normalize": False, "rows_per_part": 5, "keep_text": True}
            | given
        )
    )


def output_of(folder):
    folder.mkdir(exist_ok=True)
    output = open_beside(folder)
    output.make()
    return output


def open_beside(folder):
    """An output that somebody has made, and may be writing to: `make` would remove what they have not finished."""
    return Output(files.locate(folder), folder)


def job_of(corpus, options, *, chunker=None, ranges=None, origin=None, **limits):
    return Job(corpus, options, CountingBackend.dim, chunker, ranges, origin=origin, limits=Limits(**limits))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def some_texts(rng, count):
    known = [None, "", "  ", *("x" * i for i in range(1, 13))]
    return [rng.choice(known) if rng.random() < 0.6 else f"text {i}" for i in range(count)]
