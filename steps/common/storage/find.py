"""Which files a path, folder or glob names, and whether it would name others."""

import functools
import glob
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.utils import glob_translate
from pyarrow import fs

from steps.common.storage.place import Place, locate, reaching


def find(where: Path | str) -> list[Place]:
    """Every file that a path, URI, folder or glob names, in name order; hidden ones of a folder are left out.

    Raises UserError for a place that cannot be reached.
    """
    root = locate(where)
    info = root.info()
    if info.type == fs.FileType.File:
        return [root]
    if info.type == fs.FileType.Directory:
        base = root.path.rstrip("/") + "/"
        found = _walk(root) if root.local is not None else _selected(root)
        files = [path for path in found if not _is_hidden(path.removeprefix(base))]
    elif glob.has_magic(root.path):
        files = _glob(root)
    else:
        return []
    return [replace(root, path=path) for path in sorted(files)]


def _selected(root: Place) -> list[str]:
    with reaching(root):
        infos = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=True))
    return [info.path for info in infos if info.type == fs.FileType.File]


def _walk(root: Place) -> list[str]:
    """The files of a local folder. A link to a folder is followed, unless it leads back to where it is."""
    found = []
    for folder, folders, names in os.walk(root.path, followlinks=True):
        folders[:] = [name for name in folders if not _is_loop(str(Path(folder, name)))]
        base = folder.rstrip("/") + "/"
        found += [base + name for name in names if Path(folder, name).is_file()]
    return found


def _glob(root: Place) -> list[str]:
    if root.local is not None:
        leads_back = functools.cache(_is_loop)
        found = [path for path in glob.glob(root.path, recursive=True) if Path(path).is_file()]
        return [path for path in found if not any(leads_back(str(folder)) for folder in Path(path).parents)]
    fixed, handler = before_magic(root.path), getattr(root.filesystem, "handler", None)
    with reaching(root):
        filesystem = handler.fs if isinstance(handler, fs.FSSpecHandler) else ArrowFSWrapper(root.filesystem)
        found = filesystem.glob(root.path, detail=True)
    # Like a local glob, it takes no file that starts with a dot.
    return [
        path for path, facts in found.items() if facts["type"] == "file" and "/." not in "/" + path.removeprefix(fixed)
    ]


def would_find(where: Path | str, folder: Place, names: tuple[str, ...]) -> bool:
    """Whether `find` would take files of these names, once they are in a folder that need not be there yet.

    A local folder is looked for under every name it has by links.
    """
    root = locate(where)
    is_folder = root.info().type == fs.FileType.Directory
    if not is_folder and not glob.has_magic(root.path):
        return False
    base = root.path.rstrip("/") + "/" if is_folder else before_magic(root.path)
    if root.local is not None and folder.local is not None:
        levels = None if is_folder or "**" in root.path else root.path.removeprefix(base).count("/")
        folders = _names_below(base, os.path.realpath(folder.path), levels)
    elif _same_store(root, folder):
        base, folders = base.replace("//", "/"), iter([posixpath.normpath(folder.path)])
    else:
        return False
    paths = (f"{one}/{name}" for one in folders for name in names)
    if is_folder:
        return any(path.startswith(base) and not _is_hidden(path.removeprefix(base)) for path in paths)
    pattern = re.compile(glob_translate(root.path))
    return any(pattern.match(path) and "/." not in "/" + path.removeprefix(base) for path in paths)


def lies_in(where: Path | str, folder: Place) -> bool:
    """Whether a path, or where its glob begins, is a folder or in it; links are followed."""
    root = locate(where)
    path = before_magic(root.path) if glob.has_magic(root.path) and not root.info().size else root.path
    if root.local is not None and folder.local is not None:
        path, outer = os.path.realpath(path), os.path.realpath(folder.path)
    elif _same_store(root, folder):
        path, outer = posixpath.normpath(path), posixpath.normpath(folder.path)
    else:
        return False
    return path == outer or path.startswith(outer.rstrip("/") + "/")


def _same_store(one: Place, other: Place) -> bool:
    return one.prefix == other.prefix and type(one.filesystem) is type(other.filesystem)


def _names_below(base: str, target: str, levels: int | None) -> Iterator[str]:
    """The names under `base` of a real path: one for each folder on the way to it, and for each link."""
    for folder, folders, _ in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if target == real or target.startswith(real.rstrip("/") + "/"):
            yield (folder.rstrip("/") + "/" + target.removeprefix(real).lstrip("/")).rstrip("/")
        deep = levels is not None and folder.removeprefix(base).count("/") >= levels
        folders[:] = [] if deep else [name for name in folders if not _is_loop(str(Path(folder, name)))]


def _is_loop(folder: str) -> bool:
    """Whether a folder is one of those it is in, by a link."""
    if not Path(folder).is_symlink():
        return False
    real, parent = os.path.realpath(folder), os.path.realpath(Path(folder).parent)
    return real == parent or parent.startswith(real.rstrip("/") + "/")


def before_magic(path: str) -> str:
    """The folder, with its slash, in which the first glob of a path is."""
    return re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0] + "/"


def _is_hidden(path: str) -> bool:
    """Whether a part of a relative path starts with . or _, as the leavings of other tools do; _a=1 is a column."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in path.split("/"))
