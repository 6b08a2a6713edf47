"""Find the files that a path, folder or glob names."""

import functools
import glob
import os
from dataclasses import replace
from pathlib import Path

from pyarrow import fs

from steps.common.storage.place import Place, before_magic, hidden, is_loop, locate, reaching


def find(where: Path | str) -> list[Place]:
    """Every file that a path, URI, folder or glob names, in name order; hidden ones of a folder are left out.

    Raises:
        UserError: a place that cannot be reached.
    """
    root = locate(where)
    info = root.info()
    if info.type == fs.FileType.File:
        return [root]
    if info.type == fs.FileType.Directory:
        base = root.path.rstrip("/") + "/"
        found = _walk(root) if root.local is not None else _selected(root)
        files = [path for path in found if not hidden(path.removeprefix(base))]
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
        folders[:] = [name for name in folders if not is_loop(str(Path(folder, name)))]
        base = folder.rstrip("/") + "/"
        found += [base + name for name in names if Path(folder, name).is_file()]
    return found


def _glob(root: Place) -> list[str]:
    if root.local is not None:
        leads_back = functools.cache(is_loop)
        found = [path for path in glob.glob(root.path, recursive=True) if Path(path).is_file()]
        return [path for path in found if not any(leads_back(str(folder)) for folder in Path(path).parents)]
    from fsspec.implementations.arrow import ArrowFSWrapper

    fixed, handler = before_magic(root.path), getattr(root.filesystem, "handler", None)
    with reaching(root):
        filesystem = handler.fs if isinstance(handler, fs.FSSpecHandler) else ArrowFSWrapper(root.filesystem)
        found = filesystem.glob(root.path, detail=True)
    # Like a local glob, it takes no file that starts with a dot.
    return [
        path for path, facts in found.items() if facts["type"] == "file" and "/." not in "/" + path.removeprefix(fixed)
    ]
