"""Where images come from and where rows go: any place that fsspec knows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from saymask.batch_rows import PARTS, RUN_FILE
from saymask.errors import DatasetError, InvalidExpression
from saymask.redaction import explain
from worker.batch.rows import Failed, Key, decode_done
from worker.folder_proposals import IMAGE_SUFFIXES
from worker.language import clean_expression

_FAILURES_FILE = "_failures.jsonl"
_UNFINISHED = "_unfinished-"


def _open(place: str) -> tuple[Any, str]:
    """The file system of a place, and its path there.

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
class Source:
    """A folder of images.

    Attributes:
        place: path or address, as fsspec reads it.
    """

    place: str

    def list_images(self) -> list[str]:
        """Return the names of the image files below the folder, sorted.

        Raises:
            DatasetError: the folder cannot be read, or holds no image.
        """
        system, root = _open(self.place)
        try:
            paths = system.find(root)
        except OSError as error:
            raise DatasetError(f"{self.place} cannot be read: {explain(error)}") from error
        names = sorted(
            str(path)[len(root) :].lstrip("/")
            for path in paths
            if str(path).lower().endswith(IMAGE_SUFFIXES)
        )
        if not names:
            raise DatasetError(
                f"{self.place} holds no image.",
                f"Name a folder of files {', '.join(IMAGE_SUFFIXES)}.",
            )
        return names

    def read(self, name: str) -> bytes:
        """Return the bytes of an image; raises OSError."""
        system, root = _open(self.place)
        data: bytes = system.cat_file(f"{root}/{name}")
        return data


class Target:
    """A folder of parts, which an interrupted run continues.

    Args:
        place: path or address, as fsspec reads it.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._system, self._root = _open(place)

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
        except (OSError, ValueError) as error:
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
        for path in self.list_parts():
            try:
                with self._system.open(path, "rb") as file:
                    done.update(decode_done(file))
            except (OSError, KeyError, ValueError, pa.ArrowException) as error:
                raise DatasetError(
                    f"{path} is damaged: {error}", "Delete it; its images are then done again."
                ) from error
        return done

    def list_parts(self) -> list[str]:
        """Return the paths of all parts, sorted."""
        return sorted(str(path) for path in self._system.glob(f"{self._root}/{PARTS}"))

    def write_failures(self, failed: Sequence[Failed]) -> None:
        """Write which images failed in this run, and why; the next run tries them again."""
        lines = (json.dumps({"image": image, "failure": why}) + "\n" for image, why in failed)
        self.write(_FAILURES_FILE, "".join(lines).encode())

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one step: it is there whole or not."""
        unfinished = f"{self._root}/{_UNFINISHED}{name}"
        self._system.pipe_file(unfinished, data)
        self._system.mv(unfinished, f"{self._root}/{name}")


def read_expressions(place: str) -> dict[str, tuple[str, ...]]:
    """Read expressions by image from a file of rows ``image``, ``expression``.

    Args:
        place: of a ``.csv`` file with these columns, or of a file of JSON lines.

    Raises:
        DatasetError: it cannot be read; names the row.
    """
    system, path = _open(place)
    try:
        text = system.cat_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{place} cannot be read: {explain(error)}") from error
    texts_by_image: dict[str, dict[str, None]] = {}
    for number, row in _read_rows(text, place):
        image, expression = row.get("image"), row.get("expression")
        if not isinstance(image, str) or not isinstance(expression, str) or not image:
            raise DatasetError(
                f"Row {number} of {place} lacks image or expression.",
                'Expected rows like {"image": "a.jpg", "expression": "the cat"}.',
            )
        try:
            clean_expression(expression)
        except InvalidExpression as error:
            raise DatasetError(
                f"Row {number} of {place}, about {image}: {error.cause}",
                "Mend the row, or delete it.",
            ) from error
        texts_by_image.setdefault(image, {})[expression] = None
    if not texts_by_image:
        raise DatasetError(f"{place} holds no expression.")
    return {image: tuple(texts) for image, texts in sorted(texts_by_image.items())}


def _read_rows(text: str, place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if place.lower().endswith(".csv"):
        yield from enumerate(csv.DictReader(io.StringIO(text)), start=1)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"Row {number} of {place} is not valid JSON: {error}.") from error
        yield number, row if isinstance(row, dict) else {}
