"""Models and datasets of the Hugging Face Hub, in the local cache."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import huggingface_hub
from huggingface_hub import constants, errors

from steps.common.errors import UserError

# Seconds to wait for the first answer of the Hub: its client would retry for over a minute.
HUB_TIMEOUT = 5.0

# What a sentence-transformers model is made of. Weights in other formats are not asked for.
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")

# Where datasets keep a split as Parquet: the Hub's own conversion, and what its makers upload.
SPLIT_FILES = (
    "*/{split}/*.parquet",
    "data/{split}-*.parquet",
    "{split}.parquet",
    "{split}-*.parquet",
    "data/{split}.parquet",
)

MODELS_OFFLINE = (
    "Offline, these work: model=all-MiniLM-L6-v2 (its weights are installed with the project), "
    "model=local model.path=<folder>, and any model at a full commit that is in the Hub's cache already."
)

SUITES_OFFLINE = (
    "Offline, these work: suite=builtin, suite=retrieval, suite=paraphrase, the split as a file of your own "
    "(suite.path=<file>), and what is in the Hub's cache already."
)


@dataclass(frozen=True)
class _Repository:
    kind: str
    id: str
    revision: str | None
    # The config keys of its id and revision.
    keys: tuple[str, str]
    # Where a person reads about it, below the Hub's address.
    page: str
    works_offline: str
    # Ends the message of an unknown revision.
    revisions: str

    def __str__(self) -> str:
        return f"the {self.kind} {self.id}"


def download_model(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str]:
    """The folder of a model in the local cache, and the commit it is at.

    Raises UserError for an unknown model or revision, and for a Hub that cannot be reached.
    """
    repository = _Repository(
        kind="model",
        id=name,
        revision=revision,
        keys=("model.name", "model.revision"),
        page=name,
        works_offline=MODELS_OFFLINE,
        revisions=f"{constants.ENDPOINT}/{name}/commits/main lists them.",
    )
    # A full commit never changes, so what the cache holds of it needs no question to the Hub.
    is_fixed = re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None
    files = [*MODEL_FILES, "*.py"] if trust_remote_code else list(MODEL_FILES)
    folder = _download(repository, files, lambda folder: any(folder.rglob("*.safetensors")), is_fixed)
    return folder, folder.name


def download_split(hub_id: str, revision: str | None, split: str) -> Path:
    """The Parquet file of one split of a dataset in the local cache.

    Raises UserError for an unknown dataset, split or revision, a split in several files, a Hub that cannot be reached.
    """
    repository = _Repository(
        kind="dataset",
        id=hub_id,
        revision=revision,
        keys=("suite.hub_id", "suite.revision"),
        page=f"datasets/{hub_id}",
        works_offline=SUITES_OFFLINE,
        revisions="refs/convert/parquet is the Hub's own conversion.",
    )
    patterns = [pattern.format(split=split) for pattern in SPLIT_FILES]

    def find(folder: Path) -> list[Path]:
        return sorted({file for pattern in patterns for file in folder.glob(pattern)})

    folder = _download(repository, patterns, lambda folder: bool(find(folder)), True)
    files = find(folder)
    if len(files) != 1:
        raise UserError(
            f"the dataset {hub_id} at {revision} has {len(files)} Parquet files of the split {split!r}; expected one. Check suite.split, or download them and give suite.path=<file>."
        )
    return files[0]


def _download(
    repository: _Repository, patterns: list[str], is_whole: Callable[[Path], bool], cache_first: bool
) -> Path:
    """The folder of some files of a repository; with `cache_first` the Hub is not asked for what the cache holds whole."""

    def fetch(local_files_only: bool) -> Path:
        folder = huggingface_hub.snapshot_download(
            repository.id,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=patterns,
            local_files_only=local_files_only,
        )
        return Path(folder)

    with _explain(repository):
        if cache_first or constants.HF_HUB_OFFLINE:
            with contextlib.suppress(errors.LocalEntryNotFoundError):
                folder = fetch(local_files_only=True)
                if is_whole(folder):
                    return folder
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{repository} at {repository.revision} is not in the Hub's cache, and HF_HUB_OFFLINE is set. {repository.works_offline}"
            )
        reach(constants.ENDPOINT, repository.works_offline)
        return fetch(local_files_only=False)


@contextlib.contextmanager
def _explain(repository: _Repository) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that names the config key to check."""
    id_key, revision_key = repository.keys
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{id_key}={repository.id!r} is not a Hub id: {error}") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{repository} is gated: accept its terms on {constants.ENDPOINT}/{repository.page}, then set HF_TOKEN."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hub has no {repository.kind} {repository.id!r} that you may read. Check the spelling of {id_key}; a private one needs HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{repository} has no revision {repository.revision!r}. Check {revision_key}; {repository.revisions}"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{repository} could not be downloaded from {constants.ENDPOINT}: {error}. {repository.works_offline}"
        ) from None


def reach(endpoint: str, works_offline: str) -> None:
    """Raises UserError where the Hub gives no answer: its client would retry for over a minute."""
    try:
        httpx.head(endpoint, timeout=HUB_TIMEOUT, follow_redirects=False)
    except httpx.HTTPError as error:
        raise UserError(
            f"the Hub at {endpoint} cannot be reached ({str(error) or type(error).__name__}). {works_offline}"
        ) from None
