"""How a step that is started wrongly ends: one line, and exit code 1."""

import pytest
from helpers.steps import error_of


@pytest.mark.parametrize(
    "words, expected",
    [
        (["hydra.run.dir=/proc/x"], "Hydra cannot do this: [Errno 2] No such file or directory: '/proc/x'."),
        (["-m", "hydra.sweep.dir=/proc/x"], "Hydra cannot do this: [Errno 2] No such file or directory: '/proc/x'."),
        (["--resolve"], "Hydra cannot do this: The --resolve flag can only be used in conjunction with --cfg or"),
        (["-sc"], "Hydra cannot do this: Expecting one subcommand from"),
        (["--config-name=x"], "--config-name is not used here"),
        (["--info=x"], "--info takes one of all, config, "),
    ],
)
def test_what_hydra_cannot_do_is_one_line(step, words, expected, monkeypatch):
    assert error_of(step("verify", "output=x", *words)).startswith(expected)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception):  # noqa: B017, PT011
        step("verify", "output=x", *words)
