"""The rows that ``saymask-worker batch`` writes and ``saymask import parquet`` reads.

One row per image and expression, with its candidates, best first; a row is found again by
``sha256`` and ``expression``. Masks are compressed COCO RLE at the image's own size.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from saymask.image_files import list_spellings

RUN_FILE = "_run.json"
_PART = re.compile(r"part-[^/]*\.parquet")

_CANDIDATE = pa.struct(
    [
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("size", pa.list_(pa.int32())),
        ("counts", pa.string()),
        ("box_xywh", pa.list_(pa.int32())),
        ("predicted_iou", pa.float64()),
        ("stability_score", pa.float64()),
        ("source", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("expression", pa.string()),
        ("provenance", pa.string()),
        ("noun_phrase", pa.string()),
        ("confidence", pa.float64()),
        ("notices", pa.list_(pa.string())),
        ("model_version", pa.string()),
        ("candidates", pa.list_(_CANDIDATE)),
    ]
)


def find_image(system: Any, folder: str, name: str) -> str:
    """Return the path of an image below a folder, also where its accents are stored otherwise.

    That of the name itself if there is no such file.
    """
    paths = [f"{folder}/{spelling}" for spelling in list_spellings(name)]
    # Most names have one spelling, about which the file system need not be asked.
    return next((p for p in paths if len(paths) == 1 or system.exists(p)), paths[0])


def list_parts(system: Any, folder: str) -> list[str]:
    """Return the paths of all parts in a folder of an fsspec file system, sorted.

    The folder is listed: a glob would take brackets in its name for a pattern.
    """
    if not system.isdir(folder):
        # Nothing was written yet.
        return []
    paths = (str(path) for path in system.ls(folder, detail=False))
    return sorted(path for path in paths if _PART.fullmatch(path.rpartition("/")[2]))
