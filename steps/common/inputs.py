"""What the user names on this machine: paths, and the corpus, suite and output folder behind them.

Nothing heavy is imported and no run is started for a path that is not there.
"""

import contextlib
import glob
import re
import shlex
import tempfile
from pathlib import Path

from steps.common.arguments import ALIASES, PROJECT
from steps.common.errors import UserError

SAMPLE_CORPUS = PROJECT / "data" / "sample_corpus.csv"


def open_corpus(path: str, format: str, text_column: str, id_column: str | None):
    """The corpus.Corpus a user named, found readable; `sample` is the one that ships with the project."""
    from steps.common import corpus

    where = SAMPLE_CORPUS if path == "sample" else local_path(path, "corpus.path")
    return corpus.open_corpus(where, format, text_column, id_column)


def open_suite(path: str, name: str | None, sentence1: str, sentence2: str, score: str):
    """The quality.Suite a user named."""
    from steps.common import quality

    return quality.read_suite(local_path(path, "suite.path"), name, sentence1, sentence2, score)


def open_output(given: str | None) -> Path | None:
    """The output folder a user named, created or found empty; None where none was named."""
    from steps.common import shards

    if given is None:
        return None
    folder = output_path(given)
    shards.prepare_output(folder)
    return folder


def check_deployment(serving, fresh_environment: bool, register: str | None) -> None:
    """Find in seconds what validate would otherwise find after its work: no port, no uv, no model registry.

    Args:
        serving: the node of that name of validate's config.

    Raises:
        UserError: one of them is missing.
    """
    if serving.enabled:
        from steps.common.serving import check_port

        check_port(serving.port)
    if fresh_environment:
        from steps.common.environment import check_uv

        check_uv()
    if register is not None:
        from steps.common.registry import check_available

        check_available(register)


def local_path(given: str, key: str) -> Path:
    """An existing file, folder or glob the user named: absolute, or relative to the project's folder.

    A path that is not there is looked for in the folder `mlflow run` was typed in; first of all there, where the
    project's folder is mlflow's temporary clone of a git URL.

    Raises:
        UserError: it is in neither.
    """
    given = given.removeprefix("file://")
    if not given:
        raise UserError(f"{key} is empty; expected a path.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", given):
        raise UserError(f"{key}: {given!r} is a URI; expected a path on this machine. Download it, then give its path.")
    path = Path(given).expanduser()
    bases = list(dict.fromkeys([*_caller_folder(), PROJECT] if is_temporary_clone() else [PROJECT, *_caller_folder()]))
    for base in bases:
        if (base / path).exists() or any(glob.iglob(str(base / path), recursive=True)):
            return base / path
    if path.is_absolute():
        raise UserError(f"{key}: there is no {str(path)!r}. The path is absolute already, so check its spelling.")
    looked = " nor in ".join(map(str, bases))
    typed_as = {key: name for names in ALIASES.values() for name, key in names.items()}
    raise UserError(
        f"{key}: there is no {given!r} in {looked}. Type the absolute path: -P {typed_as.get(key, key)}={shlex.quote(str(typed_in() / path))} (or where it really is)."
    )


def output_path(given: str) -> Path:
    """Where to write: absolute, or relative to the folder the command was typed in.

    Raises:
        UserError: a relative path that would end up in mlflow's temporary clone.
    """
    base = typed_in()
    if base == PROJECT and is_temporary_clone() and not Path(given).expanduser().is_absolute():
        raise UserError(f"output={given} would land in a temporary clone of the project. Give an absolute path.")
    return (base / Path(given).expanduser()).resolve()


def is_temporary_clone() -> bool:
    """Whether mlflow has fetched this project from a git URL into a folder of its own."""
    return PROJECT.is_relative_to(Path(tempfile.gettempdir()).resolve()) and PROJECT.name.startswith(
        tempfile.gettempprefix()
    )


def typed_in() -> Path:
    """The folder the command was typed in."""
    return next(iter(_caller_folder()), PROJECT)


def _caller_folder() -> list[Path]:
    """The folder in which the `mlflow run` that started this process was typed; empty where there is none."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            words = process.cmdline()
            program = [Path(word).name for word in words[:3]]
            if "mlflow" in program and "run" in words:
                return [Path(process.cwd())]
    return []
