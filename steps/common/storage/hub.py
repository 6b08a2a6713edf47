"""Datasets of the Hub, for suites that are read from there. Knows neither MLflow nor Hydra."""

import re
from pathlib import Path

from steps.common.errors import UserError

# Seconds to wait for the first answer of the Hub: its client would retry for over a minute.
HUB_TIMEOUT = 5.0

# What a sentence-transformers model is made of. Weights in other formats are not asked for.
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja"]

WORKS_OFFLINE = (
    "Offline, these work: model=all-MiniLM-L6-v2 (its weights are installed with the project), "
    "model=local model.path=<folder>, and any model at a full commit that is in the Hub's cache already."
)

# Where datasets keep a split as Parquet: the Hub's own conversion, and what its makers upload.
PATTERNS = (
    "*/{split}/*.parquet",
    "data/{split}-*.parquet",
    "{split}.parquet",
    "{split}-*.parquet",
    "data/{split}.parquet",
)

WORKS_OFFLINE = (
    "Offline, these work: suite=builtin, suite=retrieval, suite=paraphrase, the split as a file of your own "
    "(suite.path=<file>), and what is in the Hub's cache already."
)


def download_split(hub_id: str, revision: str | None, split: str) -> tuple[Path, str]:
    """The Parquet file of one split of a dataset in the local cache, and the commit it is at.

    Raises:
        UserError: no such dataset, split or revision, a split in several files, or a Hub that cannot be reached.
    """
    from huggingface_hub import constants, errors, snapshot_download

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                hub_id,
                repo_type="dataset",
                revision=revision,
                allow_patterns=[pattern.format(split=split) for pattern in PATTERNS],
                local_files_only=local_files_only,
            )
        )

    try:
        try:
            folder = fetch(local_files_only=True)
        except errors.LocalEntryNotFoundError:
            folder = None
        if folder is None or not _files(folder, split):
            if constants.HF_HUB_OFFLINE:
                raise UserError(
                    f"the dataset {hub_id} is not in the Hub's cache, and HF_HUB_OFFLINE is set. {WORKS_OFFLINE}"
                )
            reach(constants.ENDPOINT, WORKS_OFFLINE)
            folder = fetch(local_files_only=False)
    except errors.HFValidationError as error:
        raise UserError(f"suite.hub_id={hub_id!r} is not a Hub id: {error}") from None
    except errors.GatedRepoError:
        raise UserError(
            f"the dataset {hub_id} is gated: accept its terms on {constants.ENDPOINT}/datasets/{hub_id}, then set HF_TOKEN."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hub has no dataset {hub_id!r} that you may read. Check the spelling of suite.hub_id; a private one needs HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"the dataset {hub_id} has no revision {revision!r}. Check suite.revision; refs/convert/parquet is the Hub's own conversion."
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"the dataset {hub_id} could not be downloaded from {constants.ENDPOINT}: {error}. {WORKS_OFFLINE}"
        ) from None
    files = _files(folder, split)
    if len(files) != 1:
        raise UserError(
            f"the dataset {hub_id} at {revision} has {len(files)} Parquet files of the split {split!r}; expected one. Check suite.split, or download them and give suite.path=<file>."
        )
    return files[0], folder.name


def _files(folder: Path, split: str) -> list[Path]:
    return sorted({file for pattern in PATTERNS for file in folder.glob(pattern.format(split=split))})


def download(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str]:
    """The folder of a model of the Hub in the local cache, and the commit it is at."""
    # Imported here: a model on this machine does not need it.
    from huggingface_hub import constants, errors, snapshot_download

    def fetch(local_files_only: bool) -> tuple[Path, str]:
        patterns = [*HUB_FILES, "*.py"] if trust_remote_code else HUB_FILES
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=local_files_only)
        )
        return folder, folder.name

    # A full commit never changes, so what the cache holds of it needs no question to the Hub.
    if re.fullmatch(r"[0-9a-f]{40}", revision or "") or constants.HF_HUB_OFFLINE:
        try:
            folder, commit = fetch(local_files_only=True)
            if any(folder.rglob("*.safetensors")):
                return folder, commit
        except errors.LocalEntryNotFoundError:
            pass
        except errors.HFValidationError as error:
            raise UserError(f"model.name={name!r} is not a Hub id: {error}") from None
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{name} at {revision} is not in the Hub's cache, and HF_HUB_OFFLINE is set. {WORKS_OFFLINE}")
    reach(constants.ENDPOINT, WORKS_OFFLINE)
    try:
        return fetch(local_files_only=False)
    except errors.GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its terms on {constants.ENDPOINT}/{name}, then set HF_TOKEN."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hub has no model {name!r} that you may read. Check the spelling of model.name; a private one needs HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{name} has no revision {revision!r}. Check model.revision on {constants.ENDPOINT}/{name}/commits/main"
        ) from None
    except errors.HFValidationError as error:
        raise UserError(f"model.name={name!r} is not a Hub id: {error}") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name} could not be downloaded from {constants.ENDPOINT}: {error}. {WORKS_OFFLINE}") from None


def reach(endpoint: str, works_offline: str) -> None:
    """Fail at once where the Hub's client would retry for over a minute. Any answer will do."""
    import httpx

    try:
        httpx.head(endpoint, timeout=HUB_TIMEOUT, follow_redirects=False)
    except httpx.HTTPError as error:
        raise UserError(
            f"the Hub at {endpoint} cannot be reached ({str(error) or type(error).__name__}). {works_offline}"
        ) from None
