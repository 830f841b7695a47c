"""Files that appear whole or not at all, and folders and files that only their owner reads.

Photos, expressions and answers are nobody else's on a machine with several users. A folder that
exists keeps its mode: to share one with a group, create it first.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from saymask.errors import ConfigError

UP_DIR_VARIABLE = "SAYMASK_UP_DIR"
DEFAULT_UP_DIR = ".saymask"
_SETTINGS_FILE = "settings.env"
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_FILE_BITS = 0o666
UNFINISHED_PREFIX = ".writing-"
"""Of the folders that a killed writer leaves; see ``replace_atomically``."""


@contextmanager
def replace_atomically(
    path: Path,
    *,
    part_folder: Path | None = None,
    is_synced: bool = False,
    keeps_mode: bool = True,
) -> Iterator[Path]:
    """Yield a path to write a file or folder to, which then takes the place of ``path`` at once.

    A reader sees the old content or the new one, also if the process is killed. If the block
    fails, the old file stays as it is and nothing of the new one remains. The yielded path lies in
    a temporary folder, which may hold other scratch files.

    Args:
        path: to be replaced or created.
        part_folder: in which the temporary folder is made, on the same file system; by default
            that of ``path``.
        is_synced: the disk holds the file before it takes its place, also if the power fails.
        keeps_mode: a file that is replaced keeps its mode; otherwise the block sets it.

    Raises:
        OSError: it cannot be written.
    """
    with TemporaryDirectory(dir=part_folder or path.parent, prefix=UNFINISHED_PREFIX) as unfinished:
        part = Path(unfinished) / "part"
        yield part
        if keeps_mode and path.is_file():
            part.chmod(_read_mode(path))
        if is_synced:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)


def replace_folder(new: Path, folder: Path) -> None:
    """Give a finished folder its name; an earlier one is removed once the new one stands there.

    Killed between two renames, it leaves the earlier one aside; ``recover_folder`` brings it back.

    Raises:
        OSError: a folder cannot be moved.
    """
    recover_folder(folder)
    previous = _name_previous(folder)
    if folder.exists():
        os.replace(folder, previous)
    os.replace(new, folder)
    if previous.exists():
        shutil.rmtree(previous)


def recover_folder(folder: Path) -> None:
    """Finish or undo what ``replace_folder`` was killed in, before the folder is read."""
    previous = _name_previous(folder)
    if previous.exists() and not folder.exists():
        os.replace(previous, folder)
    elif previous.exists():
        shutil.rmtree(previous)


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

    So those who may write in the root, a group for example, may write there. A missing root is
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
    with replace_atomically(path, keeps_mode=False) as part:
        part.write_bytes(data)
        share_like(part, folder)


def create_private_file(path: Path) -> None:
    """Create an empty file for its owner alone; one that exists is not even opened.

    Closing a file ends all locks that this process has on it, SQLite's among them.

    Raises:
        OSError: it cannot be created.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE))


def open_private_file(path: Path) -> TextIO:
    """Open a new text file for its owner alone.

    Raises:
        FileExistsError: it exists.
        OSError: it cannot be created.
    """
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "w", encoding="utf-8"
    )


def find_settings_file() -> Path | None:
    """Return the settings file of the local installation, which ``saymask up`` wrote, or None.

    It lies in the installation's folder (``.saymask`` below the working directory, or
    ``SAYMASK_UP_DIR``), so that every command run there finds database, queue and Label Studio.
    """
    path = Path(os.environ.get(UP_DIR_VARIABLE) or DEFAULT_UP_DIR) / _SETTINGS_FILE
    return path if path.is_file() else None


def write_settings_file(directory: Path, variables: Mapping[str, str]) -> Path:
    """Write variables to the settings file of an installation, readable by its owner only.

    Raises:
        ConfigError: a value cannot be written in the dotenv format.
    """
    for name, value in variables.items():
        if "'" in value or "\n" in value:
            raise ConfigError(
                f"{name} contains a quotation mark or a line break.",
                "In an address, write %27 for the quotation mark.",
            )
    lines = [f"{name}='{value}'\n" for name, value in variables.items()]
    path = directory / _SETTINGS_FILE
    with replace_atomically(path, keeps_mode=False) as part, open_private_file(part) as file:
        file.writelines(["# Written by saymask up; environment variables come first.\n", *lines])
    return path


def _name_previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _read_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
