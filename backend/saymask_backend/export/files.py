"""Writing long files piece by piece: JSON with long lists, pickles of long lists."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from saymask.masks import Mask
from saymask_backend.export.model import Categories

_PROTOCOL = 2
_HEAD = pickle.PROTO + bytes([_PROTOCOL])


def to_json(value: Any) -> str:
    """Return JSON in one line, keys in the given order, any script readable."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


class JsonList:
    """A JSON list, one element a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._file.write("[")
        self.count = 0

    def add(self, value: Any) -> None:
        """Append an element."""
        self._file.write(("," if self.count else "") + "\n" + to_json(value))
        self.count += 1

    def close(self) -> None:
        """Finish the list."""
        self._file.write("\n]\n")
        self._file.close()


class PickledList:
    """A pickle (protocol 2) of one list of plain containers, for ``pickle.load``.

    Each element is pickled by itself and only the list's frame is written by hand, so memory
    does not grow with the list; the same elements always give the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(_HEAD + pickle.EMPTY_LIST + pickle.MARK)
        self.count = 0

    def add(self, value: Any) -> None:
        """Append an element."""
        # Through JSON: equal strings become equal objects, on which the bytes depend.
        plain = json.loads(json.dumps(value))
        self._file.write(pickle.dumps(plain, _PROTOCOL)[len(_HEAD) : -len(pickle.STOP)])
        self.count += 1

    def close(self) -> None:
        """Finish the pickle."""
        self._file.write(pickle.APPENDS + pickle.STOP)
        self._file.close()


class InstancesFile:
    """A COCO instances file.

    Images and annotations come interleaved, so each list is written to a separate file until
    ``close`` joins them. All categories of the export are listed, with ids from 1 on.
    """

    def __init__(self, path: Path, info: dict[str, Any], categories: Categories) -> None:
        self._path = path
        self._info = info
        self._categories = categories
        path.parent.mkdir(parents=True, exist_ok=True)
        self.images = JsonList(path.with_suffix(".images"))
        self.annotations = JsonList(path.with_suffix(".annotations"))

    def close(self) -> None:
        """Join the lists and finish the file."""
        self.images.close()
        self.annotations.close()
        categories = [
            {"id": category_id, "name": name, "supercategory": ""}
            for category_id, name in enumerate(self._categories.names, start=1)
        ]
        with self._path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{{"info": {to_json(self._info)},\n"licenses": [],\n"categories": ')
            file.write(to_json(categories))
            for name in ("images", "annotations"):
                file.write(f',\n"{name}": ')
                list_path = self._path.with_suffix(f".{name}")
                with list_path.open(encoding="utf-8", newline="") as part:
                    shutil.copyfileobj(part, file)
                list_path.unlink()
            file.write("}\n")


class Table:
    """A parquet file, written in row groups; the schema carries the Hugging Face features.

    Args:
        path: of the file.
        schema: of pyarrow.
        rows_at_once: a row group is written when it has this many rows,
        bytes_at_once: or this many bytes.
    """

    def __init__(
        self, path: Path, schema: Any, rows_at_once: int = 200, bytes_at_once: int = 32_000_000
    ) -> None:
        import pyarrow.parquet

        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._limits = rows_at_once, bytes_at_once
        self.count = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        """Append a row of ``size`` bytes."""
        self._rows.append(row)
        self._bytes += size
        self.count += 1
        if len(self._rows) >= self._limits[0] or self._bytes >= self._limits[1]:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._writer.close()


def to_png(mask: Mask) -> bytes:
    """Encode a mask (H, W) as 8-bit PNG, 255 inside; equal masks give equal bytes."""
    from PIL import Image

    # Pillow is three times slower at masks in column order, as they come from COCO RLE. Runs alone
    # make smaller files of masks than zlib's search for repetitions, in less time.
    pixels = np.ascontiguousarray(mask).astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_type=zlib.Z_RLE, compress_level=1)
    return buffer.getvalue()
