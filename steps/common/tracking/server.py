"""A tracking server that does not answer.

mlflow's client retries a failed call as often as RETRIES says at that moment. A step asks its server once before it
starts (check_reachable) and retries calls for about ten minutes while it runs (patience), but not once that has failed or
the user has stopped the step (give_up).
"""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator

import mlflow
from mlflow.exceptions import MlflowException, RestException

from steps.common.errors import UserError, clip
from steps.common.model.find import no_registry

logger = logging.getLogger("steps")

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"

# Waits of 0, 4, 8, ... 120 seconds, ten minutes in all: the most that mlflow allows.
PATIENT = {RETRIES: "10"}
# Once more, for a connection that was only stale.
IMPATIENT = {RETRIES: "1", TIMEOUT: "10"}

# Seconds to wait for the first answer.
SERVER_TIMEOUT = 10.0


def check_reachable() -> None:
    """Raises UserError where the tracking server does not answer."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return
    error = _ask(lambda: mlflow.MlflowClient().search_experiments(max_results=1))
    # A server that refuses the call is there.
    if error is not None and not isinstance(error, RestException):
        raise UserError(
            f"the tracking server at {without_password(uri)} cannot be reached ({reason(error)}). Start it, or set MLFLOW_TRACKING_URI to one that runs."
        )


def check_registry() -> None:
    """Raises UserError where there is no model registry, or it does not answer."""
    error = _ask(lambda: mlflow.MlflowClient().search_registered_models(max_results=1))
    if error is not None:
        raise no_registry(error)


def _ask(question: Callable[[], object]) -> Exception | None:
    """What went wrong with a question that is asked once; a daemon thread, since some stores wait without a limit."""
    failed: list[Exception] = []

    def ask() -> None:
        try:
            question()
        except MlflowException as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    with _environment({RETRIES: "0"}):
        thread.start()
        thread.join(SERVER_TIMEOUT)
    if thread.is_alive():
        return TimeoutError(f"no answer in {SERVER_TIMEOUT:g} s")
    return failed[0] if failed else None


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables; restores RETRIES and TIMEOUT at the end."""
    before = {name: os.environ.get(name) for name in (RETRIES, TIMEOUT)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def patience() -> contextlib.AbstractContextManager[None]:
    """Wait for a server that goes away meanwhile, as long as the user's environment says, else as PATIENT."""
    return _environment({name: os.environ.get(name, value) for name, value in PATIENT.items()})


def give_up() -> None:
    """Wait no longer, until the `patience` around this ends."""
    os.environ.update(IMPATIENT)


@contextlib.contextmanager
def needed(what_is_lost: str, remedy: str) -> Iterator[None]:
    """Make calls that the step needs; raises UserError where the server stays away, and then waits for it no more."""
    try:
        yield
    except (MlflowException, OSError) as error:
        give_up()
        raise UserError(f"{what_is_lost}: {reason(error)}. {remedy}") from error


@contextlib.contextmanager
def optional(what_is_lost: str) -> Iterator[None]:
    """Make calls that the step can do without: a failure is a line in the log."""
    try:
        yield
    except MlflowException as error:
        logger.warning("%s: %s", what_is_lost, reason(error))


def is_away(error: BaseException) -> bool:
    """Whether an error says that the server did not answer; a call that it refused is an answer."""
    return isinstance(error, MlflowException) and not isinstance(error, RestException)


def reason(error: BaseException) -> str:
    """The first cause of an error, such as `[Errno 111] Connection refused`, on one line."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return clip(error) or type(error).__name__


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", uri)
