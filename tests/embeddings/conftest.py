"""An output, still empty."""

import pytest

from steps.common.storage import place as files
from steps.common.storage.output import Output


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    output = Output(files.locate(folder), tmp_path)
    output.make()
    return output
