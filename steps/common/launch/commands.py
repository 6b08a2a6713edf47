"""Commands to type next."""

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from steps.common.engines.tables import table_name
from steps.common.errors import Stopped
from steps.common.launch.call import Call
from steps.common.launch.overrides import ALIASES, parse, quote
from steps.common.launch.paths import is_temporary_clone, typed_in, typed_words
from steps.common.project import PROJECT

if TYPE_CHECKING:
    from steps.common.tracking.run import StepRun

# Options of `mlflow run` that belong to one command.
OF_ONE_STEP = ("-e", "--entry-point", "-P", "--param-list", "--run-name", "--run-id")

NOT_RESUMABLE = "Nothing to resume: with output=<folder> an encode can be resumed."


def next_command(step: str, run: "StepRun | None", **parameters: str) -> str:
    """The command for the next step, in the form this one was typed in: same project, version, environment, experiment.

    `run` is of this step; None where it has none yet. A step of main prints the form in which main was typed.
    """
    tags = run.typed_tags if run else {}
    if run is None or "mlflow.project.entryPoint" not in tags:
        rest = shlex.split(parameters.pop("overrides", ""))
        keys = ALIASES.get(step, {})
        words = [f"{keys.get(name, name)}={_as_typed(value)}" for name, value in parameters.items()]
        return shlex.join(["python", "-m", f"steps.{step}", *words, *rest])
    words = ["mlflow", "run", _project_uri(tags), "-e", step]
    if is_temporary_clone():
        words += ["-v", tags["mlflow.source.git.commit"]]
    words += [word for key, value in parameters.items() for word in ("-P", f"{key}={value}")]
    manager = tags.get("mlflow.project.env", "local")
    if manager != "conda":
        words += ["--env-manager", manager]
    if run.info.experiment_id != "0":
        words += ["--experiment-name", run.experiment]
    return shlex.join(words)


@contextlib.contextmanager
def resumable(call: Call, run: "StepRun | None", run_id: str) -> Iterator[None]:
    """When an encode is stopped in here, print the command that resumes it; of nested ones, the innermost prints.

    `run` is of this step; None where it has none yet. `run_id` is the parameter of that name, for the command.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        if "resumable" not in getattr(stop, "__notes__", ()):
            stop.add_note("resumable")
            output = call.conf.output
            # Of a table nothing is kept.
            what = "to start again" if table_name(output) else "to resume (finished parts are kept)"
            shown = f"{what}: {resume_command(call, run, run_id, output)}" if output else NOT_RESUMABLE
            print(shown, file=sys.stderr, flush=True)
        raise


def resume_command(call: Call, run: "StepRun | None", run_id: str, output: str) -> str:
    """The command that runs a step again: the same words, with this run_id and output; a sweep as a whole."""
    if call.by_mlflow and (call.sweep or run is None):
        # The run that holds what the command needs is over, or not taken over yet.
        return "type the same mlflow run command again."
    if call.sweep:
        return shlex.join(["python", "-m", f"steps.{call.step}", "--multirun", *call.typed])
    kept, declared = [], {"run_id": run_id, "output": output}
    for text, override in zip(call.typed, parse(call.typed)):
        name, value = override.key_or_group, override.value()
        if name == "corpus.path" and isinstance(value, str):
            declared["corpus"] = value
        elif name not in declared:
            kept.append(text)
    return next_command(call.step, run, **declared, **({"overrides": shlex.join(kept)} if kept else {}))


def as_typed(message: str, by_mlflow: bool) -> str:
    """A message with its hints in the form this step was typed in; where they are raised, they are for `mlflow run .`.

    `by_mlflow`: whether `mlflow run` started this process.
    """
    if not by_mlflow:
        message = re.sub(r"mlflow run \. -e (\w+)", r"python -m steps.\1", message)
        return re.sub(r"(?<![\w-])-P (?=\S)", "", message)
    kept = _kept_words(typed_words())
    if not kept:
        return message
    project, *rest = kept
    return re.sub(
        r"mlflow run \. -e (\w+)", lambda found: shlex.join(["mlflow", "run", project, "-e", found[1], *rest]), message
    )


def _kept_words(words: list[str]) -> list[str]:
    """Of what was typed behind `mlflow run`, what holds for every step: the project first, then version, environment, …"""
    project, kept, rest = "", [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            project = word
            continue
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        value = [rest.pop(0)] if word == option and option != "--build-image" and rest else []
        if option not in OF_ONE_STEP:
            kept += [word, *value]
    return [project, *kept] if project else []


def _as_typed(value: str) -> str:
    """A string as an override; one that looks like a number is read as the string it is (arguments.translate)."""
    return value if re.fullmatch(r"[\w./:@-]+", value) else quote(value)


def ui_command(run: "StepRun") -> str:
    """The command that shows the runs in a browser."""
    if run.server.startswith(("http://", "https://")):
        return f"open {run.server} in a browser"
    return f"mlflow ui --backend-store-uri {run.server}"


def _project_uri(tags: dict[str, str]) -> str:
    """`.` from the project's own folder, the git URL where mlflow made a temporary clone of it, else the folder."""
    if typed_in() == PROJECT:
        return "."
    return tags.get("mlflow.source.git.repoURL", str(PROJECT)) if is_temporary_clone() else str(PROJECT)
