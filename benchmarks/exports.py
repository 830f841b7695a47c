"""Exports of few and of many records: memory must not grow with their number."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import insert

from benchmarks.measure import Cells, Table, timed
from saymask.masks import compute_area, decode_coco_rle, encode_coco_rle
from saymask_backend.export.plan import ExportPlan, Format, parse_split
from saymask_backend.export.run import run_export
from saymask_backend.records.stores import Stores
from saymask_backend.records.tables import AnnotationVersion, RecordRow
from saymask_backend.records.types import RecordFilter
from tests import peak_memory

FORMATS: tuple[Format, ...] = ("coco", "refcoco", "huggingface")
_HEIGHT, _WIDTH = 480, 640
_A_PHOTO = 4
_BATCH = 1_000
_MASKS = 200
_EXPORT = """
from pathlib import Path
from benchmarks.exports import export_once
return export_once(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
"""


def measure(records: int, database: str | None) -> Table:
    """Peak memory and seconds of every format, for a tenth of the records and for all."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        url = database or f"sqlite:///{scratch}/records.db"
        first = 1
        for count in (max(1, records // 10), records):
            with closing(Stores(url)) as stores:
                stores.migrate()
                _fill(stores, first, count)
            first = count + 1
            for format_ in FORMATS:
                out = Path(scratch) / f"{format_}-{count}"
                peak_mb, said = peak_memory.measure(_EXPORT, url, format_, str(out))
                rows.append({"format": format_, **json.loads(said), "peak MB": peak_mb})
    return Table("Exports", rows)


def export_once(url: str, format_: Format, out: Path) -> str:
    """One export; returns what it took as JSON, for the process that measured it."""
    plan = ExportPlan(
        format=format_, out=out, query={"split": "80/10/10"}, split=parse_split("80/10/10", 0),
        images="copy", merge="latest",
    )  # fmt: skip
    with closing(Stores(url)) as stores:
        groups = stores.records.iterate_by_image(RecordFilter())
        run = partial(run_export, plan, groups, lambda record: _photo(record.task_id), out.parent)
        summary, seconds = timed(lambda: run(lambda _count: None))
    return json.dumps({"expressions": summary.expressions, "s": seconds})


@cache
def _draw_photo() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((_WIDTH, _HEIGHT)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _photo(number: int) -> bytes:
    """A photo of a usual size, with other bytes for every number; no time goes into drawing it."""
    return _draw_photo() + number.to_bytes(8, "big")


@cache
def _mask(number: int) -> tuple[dict[str, Any], int]:
    """A mask with a wavy outline, and its area."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    radius = np.hypot(y - 240, x - 320 - number % 97)
    wave = 12 * np.sin(np.arctan2(y - 240, x - 320) * (5 + number % 9))
    rle = encode_coco_rle(radius < 60 + 30 * (number % _A_PHOTO) + wave)
    return rle, compute_area(decode_coco_rle(rle))


def _fill(stores: Stores, first: int, last: int) -> None:
    """Add the records from ``first`` to ``last``."""
    for start in range(first, last + 1, _BATCH):
        numbers = range(start, min(start + _BATCH, last + 1))
        versions, records = zip(*(_build_rows(number) for number in numbers), strict=True)
        with stores.database.session() as session, session.begin():
            session.execute(insert(AnnotationVersion), versions)
            session.execute(insert(RecordRow), records)


def _build_rows(number: int) -> tuple[Cells, Cells]:
    """A version of an annotation, and its record."""
    photo, at = number // _A_PHOTO, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    rle, area_px = _mask(number % _MASKS)
    both = {
        "id": number, "annotation_id": number, "project_id": 1, "project_created": 0,
        "task_id": photo,
    }  # fmt: skip
    version = {
        "updated_at": at, "ordered_at": at, "seen_at": at, "source": "webhook", "deleted": False,
        "content_hash": str(number),
    }  # fmt: skip
    record = {
        "version_id": number, "decided_at": at, "image": f"/data/upload/1/{photo}.jpg",
        "image_sha256": hashlib.sha256(_photo(photo)).hexdigest(),
        "height_px": _HEIGHT, "width_px": _WIDTH, "expression": f"the thing number {number}",
        "outcome": "accepted", "offered": 3, "rank": 1, "score": 0.5, "iou": 1.0,
        "first_iou": 1.0, "coco_rle": rle, "area_px": area_px, "parts": [],
        "head_noun_phrase": "the thing", "region_ids": [], "dabs": 0, "annotator": "1",
        "seconds": 9.0, "model_version": "bench", "notes": [],
    }  # fmt: skip
    return both | version, both | record
