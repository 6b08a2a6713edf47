"""The MLflow run of a step: begin it, log its config, end it."""

import contextlib
import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from steps.common.embeddings.plan import flatten
from steps.common.errors import Stopped, UserError, one_line
from steps.common.tracking.server import reach_tracking_server, without_password

logger = logging.getLogger("steps")


EXPERIMENT = "Introduction to Sentence Transformers"

# mlflow cuts longer values without a word, and takes 100 params in a batch.
MAX_PARAM_LENGTH = 6000

MAX_PARAM_BATCH = 100


def set_experiment() -> None:
    """Choose the experiment of a run that we create; one that `mlflow run` created has its own already."""
    import mlflow

    chosen = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    if not any(os.environ.get(name) for name in chosen):
        mlflow.set_experiment(EXPERIMENT)


@contextlib.contextmanager
def run(step: str, cfg: DictConfig) -> Iterator:
    """Start or resume the step's MLflow run; log its resolved config, and its log when it ends.

    The run ends FINISHED, or with the reason in the tag `error` FAILED or KILLED. (After Ctrl-C the launcher of
    mlflow 3.17.2 writes FAILED over KILLED; the tag stays.)
    """
    import mlflow

    reach_tracking_server(mlflow.get_tracking_uri())
    set_experiment()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = logging.FileHandler(folder / f"{step}.log", encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(log)
        # The name holds for a run we create; one that `mlflow run` created has its name already.
        active = mlflow.start_run(run_name=step, nested=mlflow.active_run() is not None)
        status = "FINISHED"
        try:
            mlflow.set_tag("step", step)
            log_config(cfg, active.info.run_id)
            logger.info(
                "%s: run %s of experiment %s on %s",
                step,
                active.info.run_id,
                active.info.experiment_id,
                without_password(mlflow.get_tracking_uri()),
            )
            yield active
        except (KeyboardInterrupt, Stopped) as stop:
            # After Ctrl-C `mlflow run` sends SIGTERM as well; what follows is to be finished.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            status = "KILLED"
            # Nobody who has stopped a step waits ten minutes for a server that is away.
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.set_tag("error", "stopped (SIGTERM)" if isinstance(stop, Stopped) else "interrupted (Ctrl-C)")
            raise
        except BaseException as error:
            status = "FAILED"
            if not isinstance(error, UserError):
                _write_line(log, traceback.format_exc())
            _write_line(log, f"error: {one_line(error)}")
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.set_tag("error", one_line(error)[:MAX_PARAM_LENGTH])
            raise
        finally:
            logger.removeHandler(log)
            log.close()
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.log_artifact(str(folder / f"{step}.log"))
            _end_run(status)


def _end_run(status: str) -> None:
    """End the run; where it has failed already and cannot be ended, its own reason is what the user has to hear of."""
    import mlflow

    try:
        mlflow.end_run(status)
    except mlflow.MlflowException:
        if status == "FINISHED":
            raise
        logger.warning("the tracking server does not answer, so the run is not marked %s", status)


def _write_line(handler: logging.Handler, text: str) -> None:
    """Write to the run's log only; stderr gets the line once, when the step exits."""
    handler.emit(logging.LogRecord("steps", logging.ERROR, __file__, 0, text, None, None))


def log_config(cfg: DictConfig, run_id: str) -> None:
    """Log the resolved config as `config.yaml`, the truth, and flattened as params, for comparing runs.

    `mlflow run` has logged the parameters it was given, in the shell's quotes; a param cannot be changed,
    so a key the run holds already is left alone.
    """
    import mlflow
    from mlflow.entities import Param

    mlflow.log_text(OmegaConf.to_yaml(cfg, resolve=True), "config.yaml")
    client = mlflow.MlflowClient()
    held = client.get_run(run_id).data.params
    flat = flatten(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    params = [Param(key, shorten(str(value))) for key, value in flat.items() if key not in held]
    for start in range(0, len(params), MAX_PARAM_BATCH):
        client.log_batch(run_id, params=params[start : start + MAX_PARAM_BATCH])


def shorten(text: str, limit: int = MAX_PARAM_LENGTH) -> str:
    """Cut a param that mlflow would cut without a word, and say so in it."""
    mark = "... (cut, see config.yaml)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def tag_upstream(upstream_run_id: str, model_id: str) -> None:
    """Tag the active run with what it builds on, and link the model to it as an input."""
    import mlflow
    from mlflow.entities import LoggedModelInput

    mlflow.set_tags({"upstream_run_id": upstream_run_id, "model_id": model_id})
    run_id = mlflow.active_run().info.run_id
    mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(model_id)])
