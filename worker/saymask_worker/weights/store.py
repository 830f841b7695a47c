"""The checkpoints on this machine.

A checkpoint is pulled once into the cache directory: written aside, checked, then renamed into
place, so that a file in place is complete. A file with the wrong hash is never used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from saymask.errors import WeightsError
from saymask.left_out import OnProgress
from saymask.private_files import make_folder_inside, replace_atomically
from saymask_worker.weights.checkpoints import Checkpoint, check_file, find_checkpoint, hash_file
from saymask_worker.weights.download import download

CACHE_VARIABLE = "SAYMASK_CACHE_DIR"


def default_cache_dir() -> Path:
    """Return ``SAYMASK_CACHE_DIR``, else the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("saymask"))


@contextmanager
def explain_files(doing: str) -> Iterator[None]:
    """Explain why weights cannot be "read" or "kept": a full disk, another user's folder.

    Raises:
        WeightsError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"The weights cannot be {doing}: {error}.",
            "Make room, give this user access, or set SAYMASK_CACHE_DIR to another folder.",
        ) from error


class WeightStore:
    """The checkpoints on this machine.

    Args:
        cache_dir: None for the default.
    """

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.directory = (cache_dir or default_cache_dir()) / "weights"

    def path(self, name: str) -> Path:
        """Return the file of a checkpoint, whether or not it is there."""
        return self.directory / find_checkpoint(name).stored_as

    def is_present(self, name: str) -> bool:
        """Return whether a checkpoint was pulled.

        Raises:
            WeightsError: another user keeps the folder.
        """
        with explain_files("read"):
            return self.path(name).is_file() and self._note(name).is_file()

    def _note(self, name: str) -> Path:
        path = self.path(name)
        return path.with_name(path.name + ".sha256")

    def require(self, name: str) -> Path:
        """Return the path of a checkpoint.

        Raises:
            WeightsError: it was not pulled yet.
        """
        if not self.is_present(name):
            raise WeightsError(
                f"The weights {name!r} are not on this machine ({self.path(name)}).",
                f"Pull them once: saymask-worker models pull {name}",
            )
        return self.path(name)

    def verify(self, name: str) -> str:
        """Hash the stored file again and compare; returns the hash.

        A published file is compared with the hash in ``checkpoints``, one that was converted with
        the hash noted then.

        Raises:
            WeightsError: missing, or not the expected file.
        """
        path = self.require(name)
        checkpoint = find_checkpoint(name)
        expected = checkpoint.sha256
        with explain_files("read"):
            if checkpoint.convert is not None:
                expected = self._note(name).read_text(encoding="ascii").strip()
            actual = hash_file(path)
        if actual != expected:
            raise WeightsError(
                f"{path} has changed: expected sha256 {expected}, got {actual}.",
                f"Delete it and run: saymask-worker models pull {name}",
            )
        return actual

    def require_verified(self, name: str) -> Path:
        """Return the path of a checkpoint whose content was hashed just now.

        Raises:
            WeightsError: it was not pulled yet, or is not the expected file.
        """
        self.verify(name)
        return self.path(name)

    def pull(self, name: str, report: OnProgress) -> Path:
        """Fetch a checkpoint unless it is present; returns its path.

        Raises:
            WeightsError: unreachable, damaged, or not the expected file.
        """
        checkpoint, target = find_checkpoint(name), self.path(name)
        if self.is_present(name):
            return target
        with explain_files("kept"):
            self._fetch(checkpoint, target, report)
        return target

    def _fetch(self, checkpoint: Checkpoint, target: Path, report: OnProgress) -> None:
        name = checkpoint.name
        make_folder_inside(self.directory.parent, self.directory.name)
        with replace_atomically(self._note(name)) as note, replace_atomically(target) as stored:
            published = stored if checkpoint.convert is None else stored.with_name("published")
            download(checkpoint, published, stored.parent, report)
            check_file(published, checkpoint.sha256, str(checkpoint.source))
            if checkpoint.convert is not None:
                checkpoint.convert(published, stored)
            note.write_text(hash_file(stored) + "\n", encoding="ascii")
