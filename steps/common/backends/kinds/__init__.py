"""The backends there are: each file here describes one in a `KIND`, and nothing else has to know it.

These files are read to check a command line, so they import nothing heavy. What loads the backend is a module with two
functions: `check(precision, devices)`, which raises Unsuitable for what this machine cannot compute, whatever the model,
and `load(request)`, which returns the Backend. A backend whose imports are light can have both in its own file here.
"""

import functools
import importlib
import pkgutil
from dataclasses import dataclass

from steps.common.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A backend before it is loaded."""

    name: str
    # The first one is what is meant where none is asked for; f32 is exact.
    precisions: tuple[str, ...]
    # Among cpu, cuda and mps.
    devices: tuple[str, ...]
    # Name of the module that checks and loads.
    module: str

    @property
    def keys(self) -> list[str]:
        """name/precision of each precision."""
        return [f"{self.name}/{precision}" for precision in self.precisions]

    @property
    def choice(self) -> dict[str, str]:
        """What `backend=<name>` sets, where it differs from conf/backend/auto.yaml."""
        only = {"device": self.devices[0]} if len(self.devices) == 1 else {}
        return {"name": self.name, "precision": self.precisions[0], **only}


@functools.cache
def registered() -> dict[str, Kind]:
    """Every backend by name: torch, with which the others are compared, then the others."""
    found = [importlib.import_module(f"{__name__}.{module.name}").KIND for module in pkgutil.iter_modules(__path__)]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: (kind.name != "torch", kind.name))}


def names() -> list[str]:
    """What backend.name may be."""
    return ["auto", *registered()]


def keys() -> list[str]:
    """name/precision of every backend in every precision."""
    return [key for kind in registered().values() for key in kind.keys]


def check_candidates(candidates: list[str]) -> None:
    """Raises UserError for one of a list of backends, name/precision, that does not exist."""
    for candidate in candidates:
        if candidate not in keys():
            raise UserError(f"candidates: there is no backend {candidate!r}; expected some of {', '.join(keys())}.")
