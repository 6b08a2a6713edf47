"""Where the project and its data are, and what a step must not inherit."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(os.environ.get("SHARED_DATA", PROJECT.parent / "shared" / "data"))

# Set by `mlflow run -e test`, so that a test that kept them would write into the run of the tests; the last by a step that
# was stopped in this process, and a step after it would not wait for its server.
LEAKED = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_RUN_NAME",
    "HYDRA_FULL_ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
)
