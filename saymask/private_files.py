"""Folders and files that only their owner reads, whatever the umask.

Photos, expressions and answers are nobody else's on a machine with several users. A folder that
exists keeps its mode: whoever shares one creates it first, for a group.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_FILE_BITS = 0o666


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents for their owner alone; existing ones stay as is.

    Raises:
        OSError: one cannot be created.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(_FOLDER_MODE, exist_ok=True)
    # A file in its place is an error.
    path.mkdir(exist_ok=True)


def make_folder_inside(root: Path, name: str, *, exist_ok: bool = True) -> Path:
    """Create a folder with the mode of the root it lies in; returns its path.

    So whoever may write in the root, a group for example, may do so there. A missing root is
    created for its owner alone.

    Raises:
        OSError: it cannot be created.
    """
    make_private_folder(root)
    path = root / name
    if not (exist_ok and path.is_dir()):
        path.mkdir(exist_ok=exist_ok)
        path.chmod(_read_mode(root))
    return path


def share_like(path: Path, root: Path) -> None:
    """Give a new file the rights of the folder in which it is shared, without executing."""
    path.chmod(_read_mode(root) & _FILE_BITS)


def replace_shared_file(path: Path, data: bytes) -> None:
    """Write a file in one step, with the rights of the folder in which it is shared.

    A missing folder gets the rights of the one above it, see ``make_folder_inside``.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    folder = make_folder_inside(path.parent.parent, path.parent.name)
    with TemporaryDirectory(dir=folder, prefix=".writing-") as unfinished:
        part = Path(unfinished) / path.name
        part.write_bytes(data)
        share_like(part, folder)
        os.replace(part, path)


def create_private_file(path: Path) -> None:
    """Create an empty file for its owner alone; one that exists stays as it is.

    Raises:
        OSError: it cannot be created.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, _FILE_MODE))


def open_private_file(path: Path) -> TextIO:
    """Open a new text file for its owner alone.

    Raises:
        FileExistsError: it exists.
        OSError: it cannot be created.
    """
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "w", encoding="utf-8"
    )


def _read_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
