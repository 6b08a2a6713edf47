"""Where a model's files come from: a folder, an installed package or the Hub."""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Source:
    """A model on this machine, before it is loaded."""

    folder: Path
    name: str
    revision: str | None
    weights_sha256: str


def find_source(
    *,
    name: str,
    revision: str | None,
    path: Path | None,
    package: str | None,
    weights_sha256: str | None,
    trust_remote_code: bool = False,
) -> Source:
    """Find the files of a model: `path` if given, else an installed `package`, else the Hub.

    Raises:
        UserError: no such folder, no model or no safetensors weights in it, weights of another digest, or a Hub
            that cannot be reached or does not have the model.
    """
    folder = path
    if folder is None and package is not None:
        folder = _package_folder(package)
    if folder is None:
        folder, revision = _download(name, revision, trust_remote_code)
    digest = weights_digest(folder)
    if weights_sha256 is not None and digest != weights_sha256:
        raise UserError(
            f"the weights in {folder} have SHA-256 {digest}, but model.weights_sha256 is {weights_sha256}. Install or download the model again; if you changed the weights yourself, set model.weights_sha256."
        )
    return Source(folder, name, revision, digest)


def _package_folder(package: str) -> Path | None:
    """The `model` folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if folder.is_dir() else None


def weights_digest(folder: Path) -> str:
    """SHA-256 of a model's safetensors file; if it has several (shards, Dense modules), of their names and digests.

    Raises:
        UserError: the folder holds no model, or weights that are not safetensors.
    """
    if not folder.is_dir():
        raise UserError(f"model.path={folder} is not a folder; expected the folder of a sentence-transformers model.")
    if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no sentence-transformers model: expected modules.json or config.json in it.")
    for pickled in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(pickled.parent.glob("*.safetensors")):
            raise UserError(
                f"{pickled} is a pickle, which can run code when it is loaded; expected safetensors. Convert it where you trust it: load the model and call model.save(<folder>)."
            )
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no weights: expected model.safetensors.")
    digests = {str(file.relative_to(folder)): _sha256(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str]:
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
