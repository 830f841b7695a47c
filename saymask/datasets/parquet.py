"""The rows of ``saymask-worker batch``, or some of them, as a dataset to review.

A file may come from anywhere. A column of one repeated value takes bytes in the file and gigabytes
as Python objects, so repeated text is read as a dictionary of its values, and rows are decoded
some at a time.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from saymask.batch_rows import RUN_FILE, SCHEMA, find_image, list_parts
from saymask.contract import MAX_EXPRESSION_CHARS
from saymask.datasets.files import check_size_hw, to_rle
from saymask.datasets.images import require_inside
from saymask.datasets.model import Dataset, DatasetImage, Expression, RowChoice
from saymask.errors import DatasetError

_ROWS_AT_ONCE = 1024
# A batch writes groups of 1,024 rows, some hundred kilobytes each at most.
_GROUP_MAX_BYTES = 256_000_000
_GROUP_MAX_VALUES = 2_000_000
_DECODED_MAX_BYTES = 64_000_000
_CHOSEN_MAX_BYTES = 500_000_000
_ROW_BYTES = 1_000
_MAX_CHARS = {"image": 4096, "sha256": 64, "expression": MAX_EXPRESSION_CHARS}


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
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ImportError) as error:
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
            DatasetError: a part is damaged, or unpacks to far more than a batch writes; names it.
        """
        for path in list_parts(self._system, self._root):
            try:
                with self._system.open(path, "rb") as file:
                    for row in _read_part(file, columns):
                        if doubtful is None or (row["confidence"] or 0.0) < doubtful:
                            yield row
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DatasetError(
                    f"{path} is damaged: {error}",
                    "Delete it and run the batch again, which writes it anew.",
                ) from error

    def choose(self, choice: RowChoice) -> list[dict[str, Any]]:
        """Return the chosen rows that have a candidate, each with its best one.

        Memory grows with their number only.

        Raises:
            DatasetError: a part is damaged, or the chosen rows are too large together.
        """
        chosen: list[tuple[int, int, dict[str, Any]]] = []
        size = 0
        for index, row in enumerate(self.iterate(choice.doubtful)):
            if not row["candidates"]:
                continue
            row["candidates"] = row["candidates"][:1]
            size += _weigh(row)
            # The row that leaves first is the one that was drawn last.
            heapq.heappush(chosen, (-_draw(row, choice.seed), index, row))
            if choice.sample is not None and len(chosen) > choice.sample:
                size -= _weigh(heapq.heappop(chosen)[-1])
            if size > _CHOSEN_MAX_BYTES:
                raise DatasetError(
                    f"The chosen rows of {self.place} hold more than"
                    f" {_CHOSEN_MAX_BYTES // 1_000_000} MB of masks and text.",
                    f"Choose fewer: --sample {max(1, len(chosen) // 2)}",
                )
        return [row for *_, row in sorted(chosen, key=lambda entry: entry[1])]

    def fetch_image(self, name: str, folder: Path) -> Path:
        """Return a local copy of an image of the source, or the image itself where it is local.

        Raises:
            DatasetError: it cannot be read.
        """
        try:
            system, root = fsspec.core.url_to_fs(self._source)
            path = find_image(system, str(root).rstrip("/"), name)
            if "file" in (system.protocol if isinstance(system.protocol, tuple) else ()):
                if not Path(path).is_file():
                    raise FileNotFoundError(path)
                require_inside([Path(path)], Path(root))
                return Path(path)
            if ".." in Path(name).parts:
                raise ValueError("its name leads out of the source.")
            local = folder / hashlib.sha256(name.encode()).hexdigest() / Path(name).name
            local.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(local))
        except (OSError, ValueError, ImportError) as error:
            raise DatasetError(
                f"The photo {name} of {self._source} cannot be read: {error}",
                "The source of a batch must still be where it was.",
            ) from error
        return local


def _read_part(file: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of one file.

    Raises:
        ValueError, OSError, pa.ArrowException: it is damaged, or a batch did not write it.
    """
    part = pq.ParquetFile(file)
    _check_schema(part.schema_arrow, columns)
    metadata = part.metadata
    repeated: set[str] = set()
    for number in range(metadata.num_row_groups):
        repeated |= _check_group(metadata.row_group(number))
    part = pq.ParquetFile(file, metadata=metadata, read_dictionary=sorted(repeated))
    # One by one: Arrow does not join the dictionaries of several groups inside lists.
    for number in range(metadata.num_row_groups):
        for batch in part.iter_batches(_ROWS_AT_ONCE, row_groups=[number], columns=list(columns)):
            for piece in _split(batch):
                for row in piece.to_pylist():
                    _check_row(row)
                    yield row


def _check_schema(schema: Any, columns: Sequence[str]) -> None:
    for name in columns:
        found = schema.field(name).type if name in schema.names else None
        if found != SCHEMA.field(name).type:
            raise ValueError(f"its column {name} is {found}, not {SCHEMA.field(name).type}.")


def _check_group(group: Any) -> set[str]:
    """Refuse what would take gigabytes to unpack, by what the file says of itself.

    Returns:
        Columns of text whose values the file keeps once, however often they are repeated. A batch
        writes none.
    """
    columns = [group.column(number) for number in range(group.num_columns)]
    size = max(group.total_byte_size, sum(column.total_uncompressed_size for column in columns))
    if size > _GROUP_MAX_BYTES:
        raise ValueError(
            f"{group.num_rows} rows unpack to {size / 1e6:,.0f} MB; a batch writes at most"
            f" {_GROUP_MAX_BYTES // 1_000_000} MB together."
        )
    values = max(column.num_values for column in columns)
    if values > _GROUP_MAX_VALUES:
        raise ValueError(f"{group.num_rows} rows have {values:,} values in one column.")
    return {
        column.path_in_schema
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and any("DICTIONARY" in encoding for encoding in column.encodings)
    }


def _split(batch: Any) -> Iterator[Any]:
    """Pieces of a batch that are small enough to become Python objects."""
    size = sum(_measure(column) for column in batch.columns)
    if size <= _DECODED_MAX_BYTES:
        yield batch
        return
    if batch.num_rows == 1:
        raise ValueError(f"one row unpacks to {size / 1e6:,.0f} MB.")
    middle = batch.num_rows // 2
    yield from _split(batch.slice(0, middle))
    yield from _split(batch.slice(middle))


def _measure(array: Any) -> int:
    """Bytes of an array's values, each repetition counted."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_list(array.type):
        return _measure(array.flatten())
    if pa.types.is_struct(array.type):
        return sum(_measure(field) for field in array.flatten())
    return int(array.nbytes)


def _check_row(row: dict[str, Any]) -> None:
    for name, most in _MAX_CHARS.items():
        value = row.get(name, "")
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"a row has no {name}, or one of more than {most} characters.")
    if not all(isinstance(row.get(name, 0), int) for name in ("height", "width")):
        raise ValueError("a row has no height or width.")


def _weigh(row: dict[str, Any]) -> int:
    """About how many bytes a row takes in memory."""
    best = row["candidates"][0] or {}
    return _ROW_BYTES + sum(len(value) for value in (*row.values(), *best.values())
                            if isinstance(value, str))  # fmt: skip


def _draw(row: dict[str, Any], seed: int) -> int:
    """What orders rows at random."""
    text = f"{seed}\n{row['sha256']}\n{row['expression']}"
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def load_parquet(place: str, choice: RowChoice, folder: Path) -> Dataset:
    """Read rows of a batch, each with its best candidate.

    An image that is missing, changed or has a broken row is named in ``Dataset.left_out``.

    Args:
        place: folder of the rows.
        choice: which of them.
        folder: for local copies of images.

    Raises:
        DatasetError: nothing is chosen, a part is damaged, or no image can be used.
    """
    batch_rows = BatchRows(place)
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in batch_rows.choose(choice):
        by_image.setdefault(row["image"], []).append(row)
    if not by_image:
        raise DatasetError(f"No row of {place} is chosen.", "Widen --doubtful.")
    images: list[DatasetImage] = []
    errors: list[DatasetError] = []
    for name, rows in sorted(by_image.items()):
        try:
            images.append(_to_image(batch_rows.fetch_image(name, folder), name, rows))
        except DatasetError as error:
            errors.append(error)
    if not images:
        raise errors[0]
    return Dataset("parquet", "all", tuple(images), tuple(map(str, errors)))


def _to_image(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> DatasetImage:
    """An image with the rows of its present content."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"The photo {name} cannot be read: {error.strerror}.") from error
    current = [row for row in rows if row["sha256"] == sha256]
    if not current:
        raise DatasetError(
            f"The photo {name} has changed since its rows were written.",
            "Run the batch again: it does changed photos anew.",
        )
    size_hw = check_size_hw((current[0]["height"], current[0]["width"]), f"A row about {name}")
    expressions = tuple(_to_expression(number, row, size_hw) for number, row in enumerate(current))
    return DatasetImage(path, size_hw, expressions, ())


def _to_expression(number: int, row: dict[str, Any], size_hw: tuple[int, int]) -> Expression:
    mask = to_rle(row["candidates"][0], size_hw, f"{row['expression']!r} in {row['image']}")
    return Expression(
        str(number), row["expression"], mask, (mask,), row["noun_phrase"], None,
        row["provenance"] == "proposed",
    )  # fmt: skip
