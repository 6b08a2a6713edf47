"""How busy the machine is while a step computes, as metrics system/... of its run."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from steps.common.errors import first_line

logger = logging.getLogger("steps")

# Seconds between two samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise.
SAMPLED_SECONDS = 5.0

# Seconds that the end of a run waits for the monitor, which may be waiting for a server that is away.
LAST_SECONDS = 5.0


@contextlib.contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Log the use of CPU, memory, disk and network, and of a GPU where nvidia-ml-py is installed, until the block ends.

    mlflow's own monitor; MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false leaves it out.
    """
    if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() and not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    # It says when it begins and ends, and warns of a server that is away, as the step does itself.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    try:
        monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLED_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever a machine does not tell, the step computes without it
        logger.warning("no system metrics: %s", first_line(error))
        yield
        return
    monitor.start()
    try:
        yield
    finally:
        last = threading.Thread(target=monitor.finish, name="last system metrics", daemon=True)
        last.start()
        last.join(LAST_SECONDS)
