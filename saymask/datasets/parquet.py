"""The rows of ``saymask-worker batch``, or some of them, as a dataset to review."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from saymask.batch_rows import RUN_FILE, SCHEMA, list_parts
from saymask.datasets.model import Dataset, DatasetImage, Expression, RowChoice
from saymask.errors import DatasetError

_ROWS_AT_ONCE = 1024


class BatchRows:
    """The folder that a batch wrote.

    Args:
        place: path or address, as fsspec reads it.

    Raises:
        DatasetError: there is no such folder.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        try:
            self._system, root = fsspec.core.url_to_fs(place)
            self._root = str(root).rstrip("/")
            run = json.loads(self._system.cat_file(f"{self._root}/{RUN_FILE}"))
            self._source = str(run["source"])
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise DatasetError(
                f"{place} is not a folder of saymask-worker batch: {error}",
                f"It holds {RUN_FILE} and part-*.parquet.",
            ) from error

    def iterate(
        self, doubtful: float | None = None, columns: Sequence[str] = tuple(SCHEMA.names)
    ) -> Iterator[dict[str, Any]]:
        """Yield rows as ``SCHEMA`` has them, in a fixed order.

        An image that changed between two runs of the batch has rows of both contents.

        Args:
            doubtful: only rows of less confidence than this; needs the column ``confidence``.
            columns: to read.

        Raises:
            DatasetError: a part is damaged; names it.
        """
        for path in list_parts(self._system, self._root):
            try:
                with self._system.open(path, "rb") as file:
                    for batch in pq.ParquetFile(file).iter_batches(
                        _ROWS_AT_ONCE, columns=list(columns)
                    ):
                        for row in batch.to_pylist():
                            if doubtful is None or (row["confidence"] or 0.0) < doubtful:
                                yield row
            except (OSError, pa.ArrowException) as error:
                raise DatasetError(
                    f"{path} is damaged: {error}",
                    "Delete it and run the batch again, which writes it anew.",
                ) from error

    def choose(self, choice: RowChoice) -> list[dict[str, Any]]:
        """Return the chosen rows that have a candidate; memory grows with their number only."""
        rows = (row for row in self.iterate(choice.doubtful) if row["candidates"])
        if choice.sample is None:
            return list(rows)
        return heapq.nsmallest(choice.sample, rows, key=lambda row: _draw(row, choice.seed))

    def fetch_image(self, name: str, folder: Path) -> Path:
        """Return a local copy of an image of the source, or the image itself where it is local.

        Raises:
            DatasetError: it cannot be read.
        """
        try:
            system, root = fsspec.core.url_to_fs(self._source)
            path = f"{str(root).rstrip('/')}/{name}"
            if "file" in (system.protocol if isinstance(system.protocol, tuple) else ()):
                if not Path(path).is_file():
                    raise FileNotFoundError(path)
                return Path(path)
            local = folder / hashlib.sha256(name.encode()).hexdigest() / Path(name).name
            local.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(local))
        except (OSError, ValueError, ImportError) as error:
            raise DatasetError(
                f"The photo {name} of {self._source} cannot be read: {error}",
                "The source of a batch must still be where it was.",
            ) from error
        return local


def _draw(row: dict[str, Any], seed: int) -> str:
    """What orders rows at random."""
    text = f"{seed}\n{row['sha256']}\n{row['expression']}"
    return hashlib.sha256(text.encode()).hexdigest()


def load_parquet(place: str, choice: RowChoice, folder: Path) -> Dataset:
    """Read rows of a batch, each with its best candidate.

    Args:
        place: folder of the rows.
        choice: which of them.
        folder: for local copies of images.

    Raises:
        DatasetError: nothing is chosen, a part is damaged, an image is missing or was changed.
    """
    batch_rows = BatchRows(place)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in batch_rows.choose(choice):
        by_image.setdefault(row["image"], []).append(row)
    if not by_image:
        raise DatasetError(f"No row of {place} is chosen.", "Widen --doubtful.")
    images = []
    for name, rows in sorted(by_image.items()):
        path = batch_rows.fetch_image(name, folder)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        current = [row for row in rows if row["sha256"] == sha256]
        if not current:
            raise DatasetError(
                f"The photo {name} has changed since its rows were written.",
                "Run the batch again: it does changed photos anew.",
            )
        size_hw = (current[0]["height"], current[0]["width"])
        expressions = tuple(_to_expression(place, row) for place, row in enumerate(current))
        images.append(DatasetImage(path, size_hw, expressions, ()))
    return Dataset("parquet", "all", tuple(images))


def _to_expression(place: int, row: dict[str, Any]) -> Expression:
    best = row["candidates"][0]
    mask = {"size": best["size"], "counts": best["counts"]}
    return Expression(
        str(place), row["expression"], mask, (mask,), row["noun_phrase"], None,
        row["provenance"] == "proposed",
    )  # fmt: skip
