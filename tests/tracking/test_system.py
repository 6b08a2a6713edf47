"""How busy the machine is: measured unless it is switched off, and left out where it cannot be."""

import pytest

from steps.common.tracking import system


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The runs for which a monitor was asked for, on a machine that has none."""
    runs: list[str] = []

    def monitor(run_id: str, **named):
        runs.append(run_id)
        raise OSError("no /proc")

    monkeypatch.setattr(system, "SystemMetricsMonitor", monitor)
    return runs


def test_what_a_machine_does_not_tell_is_a_line_in_the_log(asked, log_messages):
    with system.system_metrics("some-run"):
        assert asked == ["some-run"]
    assert log_messages == ["no system metrics: no /proc"]


def test_system_metrics_can_be_switched_off(asked, log_messages, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with system.system_metrics("some-run"):
        pass
    assert asked == log_messages == []
