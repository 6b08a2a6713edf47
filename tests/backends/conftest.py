"""Tiny models of every architecture, and what was said of them."""

import logging

import pytest
import torch
from helpers.architectures import CALIBRATION, Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread():
    # Models this small are slower on two cores than on one, by far where the other is busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def said(caplog, monkeypatch):
    """What the project has logged at a level or above it."""
    monkeypatch.setattr(logging.getLogger("steps"), "propagate", True)
    caplog.set_level(logging.INFO, logger="steps")

    def messages(level=logging.WARNING):
        return [r.getMessage() for r in caplog.records if r.name == "steps" and r.levelno >= level]

    return messages


@pytest.fixture(scope="session")
def int8(tiny):
    """Load an int8 backend of one model; without a store, from the one it was calibrated for first."""

    def load(store=None, calibration=CALIBRATION, **options):
        return tiny.load("Dense", "openvino", "int8", store=store, calibration=lambda: calibration, **options)

    load().close()
    return load
