"""People's decisions about the rows of a batch, as a table that can be joined with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saymask.datasets.parquet import BatchRows
from saymask.private_files import replace_atomically
from saymask_backend.records.types import RecordView

_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("sha256", pa.string()),
        ("expression", pa.string()),
        ("outcome", pa.string()),
        ("rank", pa.int32()),
        ("iou", pa.float64()),
        ("size", pa.list_(pa.int32())),
        ("counts", pa.string()),
        ("annotator", pa.string()),
        ("seconds", pa.float64()),
        ("decided_at", pa.timestamp("us", tz="UTC")),
        ("record_id", pa.int64()),
    ]
)
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class DecisionsReport:
    """How many decisions were written; ``unmatched`` records are about no row of the batch."""

    decisions: int
    unmatched: int


def write_decisions(place: str, records: Iterable[RecordView], out: Path) -> DecisionsReport:
    """Write a Parquet file with a row for every record about a row of the batch.

    ``image``, ``sha256`` and ``expression`` are those of the batch's row, by which both are
    joined. A record belongs to a row when the bytes of its image are the same and its expression,
    or the one that was typed before it was changed, is.

    Raises:
        DatasetError: the batch cannot be read.
    """
    keys = BatchRows(place).iterate(columns=("image", "sha256", "expression"))
    image_of_row = {(row["sha256"], row["expression"]): row["image"] for row in keys}
    decisions = unmatched = 0
    with (
        replace_atomically(out) as part,
        pq.ParquetWriter(part, _SCHEMA, compression="zstd") as writer,
    ):
        rows: list[dict[str, Any]] = []
        for record in records:
            expression = next(
                (
                    text
                    for text in (record.expression, record.typed_expression)
                    if (record.image_sha256, text) in image_of_row
                ),
                None,
            )
            if expression is None:
                unmatched += 1
                continue
            decisions += 1
            image = image_of_row[str(record.image_sha256), expression]
            rows.append(_to_row(record, image, expression))
            if len(rows) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    return DecisionsReport(decisions, unmatched)


def _to_row(record: RecordView, image: str, expression: str) -> dict[str, Any]:
    mask = record.coco_rle or {"size": None, "counts": None}
    return {
        "image": image,
        "sha256": record.image_sha256,
        "expression": expression,
        "outcome": record.outcome,
        "rank": record.rank,
        "iou": record.iou,
        "size": mask["size"],
        "counts": mask["counts"],
        "annotator": record.annotator,
        "seconds": record.seconds,
        "decided_at": record.decided_at,
        "record_id": record.id,
    }
