"""Where a model's files come from: a folder, an installed package or the Hub."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from steps.common.errors import UserError
from steps.common.model.conf import ModelConf
from steps.common.storage import hub
from steps.common.storage.place import locate
from steps.common.storage.stream import sha256


@dataclass(frozen=True)
class Source:
    """A model on this machine, before it is loaded."""

    folder: Path
    name: str
    revision: str | None
    weights_sha256: str


def find_source(conf: ModelConf) -> Source:
    """Find the files of a model: `path` if given, absolute, else an installed `package`, else the Hub.

    Raises:
        UserError: nothing to find a model by, no such folder, no model or no safetensors weights in it, weights of another digest, or a Hub
            that cannot be reached or does not have the model.
    """
    folder, revision = Path(conf.path) if conf.path is not None else None, conf.revision
    if folder is None and conf.package is not None:
        folder = _package_folder(conf.package)
    if folder is None and revision is None and "/" not in conf.name:
        # As with model=local, whose name is no ID of the Hub.
        raise UserError(
            "model.path is required: give -P model.path=<folder>. A model of the Hub is model=hub model.name=<org/model> model.revision=<commit>."
        )
    if folder is None:
        folder, revision = hub.download_model(conf.name, revision, conf.trust_remote_code)
    digest = weights_digest(folder)
    if conf.weights_sha256 is not None and digest != conf.weights_sha256:
        raise UserError(
            f"the weights in {folder} have SHA-256 {digest}, but model.weights_sha256 is {conf.weights_sha256}. Install or download the model again; if you changed the weights yourself, set model.weights_sha256."
        )
    return Source(folder, conf.name, revision, digest)


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
    digests = {str(file.relative_to(folder)): sha256(locate(file)) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest()
