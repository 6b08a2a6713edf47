"""What the user names: paths and URIs, and the corpus, suites and output behind them."""

import contextlib
import glob
import logging
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from steps.common.embeddings import resume
from steps.common.embeddings.reuse import Asked, open_reuse
from steps.common.embeddings.verify import check_output
from steps.common.errors import UserError
from steps.common.launch.overrides import ALIASES
from steps.common.project import PROJECT, SAMPLE_CORPUS
from steps.common.quality import kinds
from steps.common.quality.spec import SuiteSpec
from steps.common.storage import hub
from steps.common.storage.find import lies_in, would_find
from steps.common.storage.output import Output
from steps.common.storage.place import OF_MLFLOW, Place, is_uri, local_name, locate

logger = logging.getLogger("steps")

# Filesystems that fsspec opens and encode cannot write to, or not for long.
UNWRITABLE = dict.fromkeys(("http", "https"), "a web server is only read") | {
    "memory": "it would be gone with this process"
}

# Names that encode gives to files of an output.
WRITTEN = (
    "part-00000.parquet",
    "part-00000.ids.parquet",
    "digests/part-00000.parquet",
    "rejects.parquet",
    "changes.parquet",
    "manifest.json",
)


def corpus_place(path: str, key: str = "corpus.path") -> Path | str:
    """The path or URI of the corpus a user named; raises UserError for a path that is not there, or an unusable URI."""
    if path == "sample":
        return SAMPLE_CORPUS
    check_scheme(path, key)
    return path if is_uri(path) else local_path(path, key)


@contextlib.contextmanager
def reading_as(node: str, **keys: str) -> Iterator[None]:
    """Name the keys of another node where an error would name those of `corpus`; `keys` are those that have another name."""
    try:
        yield
    except UserError as error:
        names = {f"corpus.{one}": f"{node}.{other}" for one, other in keys.items()} | {"corpus.": f"{node}."}
        text = str(error)
        for one, other in names.items():
            text = text.replace(one, other)
        raise UserError(text) from None


def find_suites(specs: Sequence[SuiteSpec]) -> list[SuiteSpec]:
    """These specs of suites, with the paths of their files on this machine: where a spec says, or else from the Hub.

    Raises UserError for an unknown kind of suite, and for a file or dataset that cannot be found.
    """
    return [_find_suite(spec) for spec in specs]


def _find_suite(spec: SuiteSpec) -> SuiteSpec:
    kinds.check_kind(spec)
    if spec.corpus is not None:
        return replace(spec, path=str(corpus_place(spec.corpus.path)))
    if spec.path is not None:
        path = local_path(spec.path, "suite.path")
    elif spec.hub_id is not None:
        path = hub.download_split(spec.hub_id, spec.revision, spec.split)
    else:
        raise UserError("suite.path and suite.hub_id are both null; expected a file or a dataset of the Hub.")
    documents = spec.documents and str(local_path(spec.documents, "suite.documents"))
    return replace(spec, path=str(path), documents=documents)


def output_place(given: str) -> Place:
    """The place of the output a user named, which may be new; raises UserError for a URI that cannot be one."""
    check_scheme(given, "output")
    return locate(given if is_uri(given) else output_path(given))


def open_output(given: str | None) -> Place | None:
    """The place of the output a user named, checked; None without one. Raises UserError as check_output."""
    return check_output(output_place(given)) if given else None


def check_apart(corpus: str, output: str | None) -> None:
    """Raises UserError where the corpus lies in the output, or the next encode would read this output as texts."""
    if not output:
        return
    where, place = corpus_place(corpus), output_place(output)
    if lies_in(where, place):
        raise UserError(f"the corpus {corpus} lies in the output {place}. Give an output outside of it.")
    if would_find(where, place, WRITTEN):
        raise UserError(
            f"output {place} lies in the corpus {corpus}, so its parts would be read as texts. Give a folder outside of it, or name the corpus by a glob that leaves it out, such as '*.csv'."
        )


def existing_output(given: str, key: str = "output") -> str:
    """An output that a user named: a URI as it is, else the path of what is there; raises UserError where nothing is.

    A relative path counts from the folder the command was typed in, where encode makes it.
    """
    if given.partition(":/")[0] in OF_MLFLOW:
        return given
    check_scheme(given, key)
    return given if is_uri(given) else str(local_path(given, key, first=typed_in()))


def open_reused(given: str | None, output: str | None) -> Asked:
    """The old output that an encode reuses, opened where it was named by folder or URI.

    Raises UserError for one that cannot be reused, unless `output` was begun with it: what is missing is computed then.
    """
    begun = resume.read_begun(Output(output_place(output))) if output else None
    asked = Asked(given or None, None, begun.reused if begun else None)
    if asked.given is None or not asked.is_place:
        return asked
    try:
        place = locate(existing_output(asked.given, "reuse"))
        if output and str(place) == str(output_place(output)):
            raise UserError(f"reuse={given} is the output itself. Give a new output, -P output=<another folder>.")
        return replace(asked, reuse=open_reuse(Output(place), str(place)))
    except UserError as error:
        if asked.noted is None:
            raise
        logger.warning("%s Texts without a stored vector are computed.", error)
        return asked


def check_scheme(given: str, key: str) -> None:
    """Raises UserError for a URI that would be taken for the name of a local folder, and says what to type."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)", given)
    if not match or match[1].lower() == "file":
        return
    scheme, rest = match[1].lower(), given[match.end() :]
    if scheme == "dbfs":
        raise UserError(f"{key}={given} cannot be used: on Databricks DBFS is a folder. Type {key}=/dbfs/{rest}")
    if scheme in OF_MLFLOW and key == "output":
        raise UserError(
            f"output={given} cannot be written: only mlflow writes into a run. Leave output out, and encode keeps the embeddings in its own run; or give a folder or a URI such as s3://bucket/embeddings."
        )
    if scheme in OF_MLFLOW:
        raise UserError(
            f"{key}={given} cannot be read: it is an artifact of mlflow. Download it, mlflow artifacts download -u {shlex.quote(given)} -d <folder>, and give the path."
        )
    if scheme in UNWRITABLE and key == "output":
        raise UserError(
            f"output={given} cannot be written: {UNWRITABLE[scheme]}. Give a folder or a URI such as s3://bucket/embeddings."
        )
    if not rest:
        raise UserError(f"{key}={given} names nothing behind {scheme}://; expected a bucket and a path in it.")
    if not is_uri(given):
        raise UserError(f"{key}={given} has one slash; expected {scheme}://{rest}, or ./{given} for a local path.")


def local_path(given: str, key: str, first: Path | None = None) -> Path:
    """An existing file, folder or glob the user named: absolute, or relative to the project's folder.

    What is not there is looked for in the folder `mlflow run` was typed in; first of all there, where the project's
    folder is mlflow's temporary clone of a git URL. Raises UserError where it is in neither.
    """
    if not given:
        raise UserError(f"{key} is empty; expected a path.")
    check_scheme(given, key)
    if is_uri(given):
        raise UserError(f"{key}: {given!r} is a URI; expected a path on this machine. Download it, then give its path.")
    given = local_name(given)
    path = _expanded(given)
    bases = [*_caller_folder(), PROJECT] if is_temporary_clone() else [PROJECT, *_caller_folder()]
    bases = list(dict.fromkeys(bases if first is None else [first, *bases]))
    for base in bases:
        # A glob that ends in ** finds the folder before it even where there is none.
        if (base / path).exists() or any(
            Path(found).exists() for found in glob.iglob(str(base / path), recursive=True)
        ):
            return base / path
    if path.is_absolute():
        raise UserError(f"{key}: there is no {str(path)!r}. The path is absolute already, so check its spelling.")
    looked = " nor in ".join(map(str, bases))
    typed_as = {key: name for names in ALIASES.values() for name, key in names.items()}
    raise UserError(
        f"{key}: there is no {given!r} in {looked}. Type an absolute path, for example: -P {typed_as.get(key, key)}={shlex.quote(str(typed_in() / path))}"
    )


def output_path(given: str) -> Path:
    """Where to write: absolute, or relative to the folder the command was typed in.

    Raises UserError for a relative path that would end up in mlflow's temporary clone.
    """
    base, path = typed_in(), _expanded(local_name(given))
    if base == PROJECT and is_temporary_clone() and not path.is_absolute():
        raise UserError(f"output={given} would land in a temporary clone of the project. Give an absolute path.")
    return (base / path).resolve()


def _expanded(given: str) -> Path:
    """A path with ~ as the home folder; ~name is a plain name where no such user is known."""
    with contextlib.suppress(RuntimeError):
        return Path(given).expanduser()
    return Path(given)


def is_temporary_clone() -> bool:
    """Whether mlflow has fetched this project from a git URL into a folder of its own."""
    return PROJECT.is_relative_to(Path(tempfile.gettempdir()).resolve()) and PROJECT.name.startswith(
        tempfile.gettempprefix()
    )


def typed_in() -> Path:
    """The folder the command was typed in."""
    return next(iter(_caller_folder()), PROJECT)


def typed_words() -> list[str]:
    """What was typed behind `mlflow run`, word by word; empty where no such command started this process."""
    caller = _caller()
    return caller[1] if caller else []


def _caller_folder() -> list[Path]:
    """The folder in which the `mlflow run` that started this process was typed; empty where there is none."""
    caller = _caller()
    return [caller[0]] if caller else []


def _caller() -> tuple[Path, list[str]] | None:
    """The folder of the `mlflow run` that started this process, and its words behind `run`."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            words = process.cmdline()
            program = [Path(word).name for word in words[:3]]
            if "mlflow" in program and "run" in words:
                return Path(process.cwd()), words[words.index("run") + 1 :]
    return None
