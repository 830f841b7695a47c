"""What a batch reads and what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saymask.datasets.parquet import BatchRows


def write_texts(path: Path, rows: Iterable[tuple[str, str]]) -> str:
    """Write pairs of image and expression as JSON lines; returns the path."""
    lines = [json.dumps({"image": image, "expression": text}) for image, text in rows]
    path.write_text("\n".join(lines))
    return str(path)


def read_rows(out: str | Path) -> list[dict[str, Any]]:
    """Read all rows of a target."""
    return list(BatchRows(str(out)).iterate())
