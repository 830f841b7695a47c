"""The images of an export: read once, checked against the hash they were annotated under."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from saymask.image_files import strip_secrets
from saymask.private_files import make_private_folder, replace_atomically
from saymask_backend.export.model import ExportImage
from saymask_backend.export.plan import ExportError, ExportPlan
from saymask_backend.records.types import RecordView

_READ_FOLDER = ".read"
_REMOVED_AT_ONCE = 10_000
ReadImage = Callable[[RecordView], bytes]
"""Fetches the bytes of a record's image."""


class ImageStore:
    """Keeps the images that an export read, so that an interrupted one reads none again.

    Args:
        plan: of the export.
        partial: directory in which the export is written.
        shared: with ``images="link"``, where images are kept once for all exports.
    """

    def __init__(self, plan: ExportPlan, partial: Path, shared: Path) -> None:
        self._partial = partial
        self._folder = shared if plan.images == "link" else partial / _READ_FOLDER
        make_private_folder(self._folder)

    def clear_partial(self) -> None:
        """Remove what an interrupted export wrote, but not the images it read."""
        for path in self._partial.iterdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif path.name != _READ_FOLDER:
                _remove_folder(path)

    def read(self, records: list[RecordView], read_image: ReadImage) -> bytes:
        """Return an image's bytes: kept by an earlier try, else fetched.

        Raises:
            SaymaskError: unreadable, or not the image that was annotated.
        """
        sha256 = str(records[0].image_sha256)
        path = self._folder / sha256
        if path.is_file():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        data = read_image(records[0])
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ExportError(
                f"{strip_secrets(records[0].image)[:120]} is not the photo that was annotated (its"
                " content changed).",
                "Restore the old photo.",
            )
        with replace_atomically(path) as part:
            part.write_bytes(data)
        return data

    def place(self, image: ExportImage, folder: str, data: bytes) -> None:
        """Put an image that was read under its name in the export, as a link where possible.

        Args:
            image: to be placed.
            folder: below the export.
            data: of its file, where that is not what was read.
        """
        target = self._partial / folder / image.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if image.is_turned:
            target.write_bytes(data)
            return
        source = self._folder / image.sha256
        try:
            os.link(source, target)
        except OSError:
            # Another file system, or one without links.
            shutil.copyfile(source, target)

    def forget(self) -> None:
        """Remove the images that only this export kept."""
        folder = self._partial / _READ_FOLDER
        if folder.exists():
            _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    """Remove a folder some files at a time; ``shutil.rmtree`` lists a million images at once."""
    while True:
        with os.scandir(folder) as entries:
            some = list(islice(entries, _REMOVED_AT_ONCE))
        if not some:
            break
        for entry in some:
            if entry.is_dir(follow_symlinks=False):
                _remove_folder(Path(entry.path))
            else:
                os.unlink(entry.path)
    folder.rmdir()
