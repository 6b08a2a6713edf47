"""Memory that does not suffice, and several devices."""

import multiprocessing
import os
import signal

import pytest
import torch
from helpers.architectures import TEXTS, assert_same
from helpers.errors import refusal


class Cramped:
    """A model whose device holds so many tokens at a time."""

    def __init__(self, model, limit, error):
        self.model, self.limit, self.error, self.failures = model, limit, error, 0

    def __call__(self, features):
        if features["input_ids"].numel() > self.limit:
            self.failures += 1
            raise self.error
        return self.model(features)


OUT_OF_MEMORY = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")]


@pytest.fixture
def cramped(tiny):
    def load(limit, error=OUT_OF_MEMORY[0]):
        backend = tiny.load("mean", batch_tokens=512)
        backend._model = Cramped(backend._model, limit, error)
        return backend

    return load


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["CUDA", "MPS"])
def test_out_of_memory_makes_smaller_batches_and_keeps_them(tiny, cramped, said, error):
    """The first batch is 8 texts, the longest of 64 tokens: 512 tokens, then 256 and 128 do not fit."""
    backend = cramped(100, error)
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))
    assert backend._model.failures == 3
    assert [warning.split("; ")[1] for warning in said()] == [
        "continuing with at most 256",
        "continuing with at most 128",
        "continuing with at most 64",
    ]
    assert_same(backend.encode(TEXTS), tiny.expected("mean"))
    assert backend._model.failures == 3


def test_a_text_that_does_not_fit_alone_is_one_line(cramped):
    message = refusal(cramped(20).encode, ["the " * 10, "the " * 30])
    assert message.startswith("cpu is out of memory for a single text of 32 tokens. ")


def test_another_error_is_not_taken_for_want_of_memory(cramped):
    backend = cramped(100, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        backend.encode(TEXTS)
    assert backend._model.failures == 1


@pytest.fixture(scope="module")
def quick_workers():
    """Processes of several devices begin with torch imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sentence_transformers"])

    def get_context(method):
        # CUDA works in no process that is forked from one which has used it.
        assert method == "spawn"
        return context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.multiprocessing, "get_context", get_context)
        yield


@pytest.fixture
def two_devices(tiny, quick_workers):
    """Load a model on two devices: the backend, and its processes, which end with the test."""
    loaded = []

    def load(name):
        others = set(multiprocessing.active_children())
        loaded.append(tiny.load(name, device="cpu,cpu", threads=1))
        return loaded[-1], set(multiprocessing.active_children()) - others

    yield load
    for backend in loaded:
        backend.close()


@pytest.mark.slow
def test_two_devices_give_what_one_gives(tiny, two_devices):
    backend, workers = two_devices("truncate_dim")
    done = []
    assert (backend.name, backend.precision, backend.device) == ("torch", "f32", "cpu,cpu")
    assert_same(backend.embed(backend.tokenize(TEXTS), done.append), tiny.expected("truncate_dim"))
    assert sum(done) == len(TEXTS)
    assert backend.encode([]).shape == (0, 12)

    assert len(workers) == 2
    backend.close()
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.slow
def test_two_devices_share_the_texts_of_a_model_of_the_librarys_until_one_dies(tiny, two_devices):
    backend, workers = two_devices("StaticEmbedding")
    assert_same(backend.encode(TEXTS), tiny.expected("StaticEmbedding"))

    os.kill(workers.pop().pid, signal.SIGKILL)
    assert refusal(backend.encode, TEXTS).startswith("a worker process on cpu,cpu died")
