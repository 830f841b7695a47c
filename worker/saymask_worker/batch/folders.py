"""Where images come from and where rows go: any place that fsspec knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.spec import AbstractFileSystem

from saymask.batch_rows import RUN_FILE, find_image, list_parts
from saymask.errors import DatasetError
from saymask.image_files import IMAGE_SUFFIXES, is_image_name
from saymask.redaction import explain
from saymask_worker.batch.rows import Failed, Key, decode_done

_FAILURES_FILE = "_failures.jsonl"
_UNFINISHED = "_unfinished-"


def open_place(place: str) -> tuple[Any, str]:
    """Return the file system of a place, and its path there.

    Raises:
        DatasetError: the protocol is unknown, or its package is missing.
    """
    try:
        system, path = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"{place} cannot be opened: {explain(error)}",
            "Install the fsspec package of its protocol, for example s3fs or gcsfs.",
        ) from error
    return system, str(path).rstrip("/")


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images.

    Attributes:
        place: path or address, as fsspec reads it.
    """

    place: str

    def list_images(self) -> list[str]:
        """Return the names of the image files below the folder, sorted; not those of hidden ones.

        Raises:
            DatasetError: the folder cannot be read, or holds no image.
        """
        system, root = open_place(self.place)
        try:
            paths = system.find(root)
        except OSError as error:
            raise DatasetError(f"{self.place} cannot be read: {explain(error)}") from error
        if not paths and not system.exists(root):
            raise DatasetError(f"There is no folder {self.place}.")
        names = sorted(filter(is_image_name, (str(p)[len(root) :].lstrip("/") for p in paths)))
        if not names:
            raise DatasetError(
                f"{self.place} holds no image.",
                f"Name a folder of files {', '.join(IMAGE_SUFFIXES)}.",
            )
        return names

    def read(self, name: str) -> bytes:
        """Return the bytes of an image; raises OSError, also where its name leads out."""
        if ".." in PurePosixPath(name).parts:
            raise PermissionError(f"its name leads out of {self.place}.")
        system, root = open_place(self.place)
        data: bytes = system.cat_file(find_image(system, root, name))
        return data


class PartFolder:
    """A folder of parts, which an interrupted run continues.

    Args:
        place: path or address, as fsspec reads it.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._system, self._root = open_place(place)

    def begin(self, run: dict[str, Any]) -> None:
        """Create the folder for a run, or make sure that it belongs to the same.

        Raises:
            DatasetError: it belongs to another run, or cannot be written.
        """
        path = f"{self._root}/{RUN_FILE}"
        try:
            if not self._system.exists(path):
                self._system.makedirs(self._root, exist_ok=True)
                self.write(RUN_FILE, (json.dumps(run, indent=2) + "\n").encode())
                return
            before = json.loads(self._system.cat_file(path))
            if not isinstance(before, dict):
                raise ValueError(f"{RUN_FILE} is not an object.")
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(f"{self.place} cannot be used: {explain(error)}") from error
        changed = [k for k in sorted(before.keys() | run.keys()) if before.get(k) != run.get(k)]
        if changed:
            raise DatasetError(
                f"{self.place} belongs to another run: {', '.join(changed)} differ.",
                "Choose another --out, or delete that folder.",
            )

    def read_done(self) -> set[Key]:
        """Return the images that are done.

        Raises:
            DatasetError: a part is damaged; names it.
        """
        done: set[Key] = set()
        for path in list_parts(self._system, self._root):
            try:
                with self._system.open(path, "rb") as file:
                    done.update(decode_done(file))
            except (
                OSError, KeyError, TypeError, ValueError, RecursionError, pa.ArrowException,
            ) as error:  # fmt: skip
                raise DatasetError(
                    f"{path} is damaged: {error}", "Delete it; its images are then done again."
                ) from error
        return done

    def write_failures(self, failed: Sequence[Failed]) -> None:
        """Write which images failed in this run, and why; the next run tries them again."""
        lines = (json.dumps({"image": image, "failure": why}) + "\n" for image, why in failed)
        self.write(_FAILURES_FILE, "".join(lines).encode())

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one step: it is there whole or not."""
        unfinished = f"{self._root}/{_UNFINISHED}{name}"
        self._system.pipe_file(unfinished, data)
        if type(self._system).mv is AbstractFileSystem.mv:
            # Of file systems that cannot rename; it would take brackets for a pattern.
            self._system.cp_file(unfinished, f"{self._root}/{name}")
            self._system.rm_file(unfinished)
        else:
            self._system.mv(unfinished, f"{self._root}/{name}")
