"""An output, still empty, and the lines that say how far an encode has come."""

import io
import logging
import re
import sys

import pytest

from steps.common.embeddings import progress
from steps.common.storage import place as files
from steps.common.storage.output import Output


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    output = Output(files.locate(folder), tmp_path)
    output.make()
    return output


@pytest.fixture
def shown(monkeypatch, caplog):
    """The rows of the progress lines so far, [(done, of all), ...]; every call shows one."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(progress.logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="steps")
    return lambda: [(int(done), int(total)) for done, total in re.findall(r"(\d+) of (\d+) rows", caplog.text)]
