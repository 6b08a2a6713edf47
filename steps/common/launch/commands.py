"""Commands to type next."""

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator

from steps.common.errors import Stopped
from steps.common.launch.overrides import ALIASES, parse, quote
from steps.common.launch.paths import is_temporary_clone, typed_in
from steps.common.launch.process import NOT_RESUMABLE, active_run, launched
from steps.common.project import PROJECT
from steps.common.tracking.server import without_password


def next_command(step: str, **parameters: str) -> str:
    """The line that goes on from here, typed the way this step was: same project, version, environment, experiment."""
    active = active_run()
    tags = active.data.tags if active else {}
    if "mlflow.project.entryPoint" not in tags:
        rest = shlex.split(parameters.pop("overrides", ""))
        keys = ALIASES.get(step, {})
        words = [f"{keys.get(name, name)}={_as_typed(value)}" for name, value in parameters.items()]
        return shlex.join(["python", "-m", f"steps.{step}", *words, *rest])
    words = ["mlflow", "run", _project_uri(tags), "-e", step]
    if is_temporary_clone():
        words += ["-v", tags["mlflow.source.git.commit"]]
    for key, value in parameters.items():
        words += ["-P", f"{key}={value}"]
    manager = tags.get("mlflow.project.env", "local")
    if manager != "conda":
        words += ["--env-manager", manager]
    import mlflow

    experiment = mlflow.get_experiment(active.info.experiment_id)
    if experiment.experiment_id != "0":
        words += ["--experiment-name", experiment.name]
    return shlex.join(words)


@contextlib.contextmanager
def resumable(run_id: str, output: str | None) -> Iterator[None]:
    """When the step is stopped in here, say how it goes on; where one of these is in another, the inner one does."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if not hasattr(stop, "go_on"):
            stop.go_on = resume_command("encode", run_id=run_id, output=output) if output else None
            shown = f"to go on: {stop.go_on}" if output else NOT_RESUMABLE
            print(shown, file=sys.stderr, flush=True)
        raise


def resume_command(step: str, **fixed: str) -> str:
    """The line that runs this step again, as it was typed but for `fixed`; a sweep as a whole."""
    if launched.by_mlflow and (launched.sweep or active_run() is None):
        # What it takes to write the line is in a run that is over, or not taken over yet.
        return "type the same mlflow run command again."
    if launched.sweep:
        return shlex.join(["python", "-m", f"steps.{step}", "--multirun", *launched.typed])
    kept, declared = [], dict(fixed)
    for text, override in zip(launched.typed, parse(launched.typed)):
        name = override.key_or_group
        if name == "corpus.path" and isinstance(override.value(), str):
            declared["corpus"] = override.value()
        elif name not in fixed:
            kept.append(text)
    return next_command(step, **declared, **({"overrides": shlex.join(kept)} if kept else {}))


def _as_typed(value: str) -> str:
    """A string as an override; one that looks like a number is read as the string it is (arguments.translate)."""
    return value if re.fullmatch(r"[\w./:-]+", value) else quote(value)


def ui_command() -> str:
    """The line that shows the runs in a browser."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        return f"open {without_password(uri)} in a browser"
    return f"mlflow ui --backend-store-uri {uri}"


def _project_uri(tags: dict[str, str]) -> str:
    """`.` from the project's own folder, the git URL where mlflow made a temporary clone of it, else the folder."""
    if typed_in() == PROJECT:
        return "."
    return tags.get("mlflow.source.git.repoURL", str(PROJECT)) if is_temporary_clone() else str(PROJECT)
