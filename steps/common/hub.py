"""Datasets of the Hub, for suites that are read from there."""

from pathlib import Path

from steps.common import source
from steps.common.errors import UserError

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
            source.reach(constants.ENDPOINT, WORKS_OFFLINE)
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
