"""Exports of few and of many records: memory must not grow with their number.

``--only exports`` compares 5,000 and 50,000 records in SQLite. Any number, in any database:

Example: python -m benchmarks.exports fill postgresql://host/empty --records 1000000

Example: python -m benchmarks.exports once postgresql://host/empty coco out
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import insert

from benchmarks.measure import Row
from saymask.masks import compute_area, decode_coco_rle, encode_coco_rle
from saymask_backend.export.plan import ExportPlan, Format, parse_split
from saymask_backend.export.run import run_export
from saymask_backend.records.stores import Stores
from saymask_backend.records.tables import AnnotationVersion, RecordRow
from saymask_backend.records.types import RecordFilter, RecordView

FEW, MANY = 5_000, 50_000
FORMATS: tuple[Format, ...] = ("coco", "refcoco", "huggingface")
_HEIGHT, _WIDTH = 480, 640
_A_PHOTO = 4
_BATCH = 1_000


@cache
def _draw_photo() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((_WIDTH, _HEIGHT)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _photo(number: int) -> bytes:
    """A photo of a usual size, with other bytes for every number; no time goes into drawing it."""
    return _draw_photo() + number.to_bytes(8, "big")


def _mask(number: int) -> dict[str, Any]:
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    radius = np.hypot(y - 240, x - 320 - number % 97)
    wave = 12 * np.sin(np.arctan2(y - 240, x - 320) * (5 + number % 9))
    return encode_coco_rle(radius < 60 + 30 * (number % _A_PHOTO) + wave)


def _fill(stores: Stores, count: int) -> None:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    masks = [_mask(number) for number in range(200)]
    areas = [compute_area(decode_coco_rle(mask)) for mask in masks]
    for first in range(1, count + 1, _BATCH):
        numbers = range(first, min(first + _BATCH, count + 1))
        with stores.database.session() as session, session.begin():
            session.execute(
                insert(AnnotationVersion),
                [
                    {
                        "id": n, "annotation_id": n, "project_id": 1, "project_created": 0,
                        "task_id": n // _A_PHOTO,
                        "updated_at": started + timedelta(seconds=n),
                        "ordered_at": started + timedelta(seconds=n), "seen_at": started,
                        "source": "webhook", "deleted": False, "content_hash": str(n),
                    }
                    for n in numbers
                ],
            )  # fmt: skip
            session.execute(
                insert(RecordRow),
                [
                    {
                        "id": n, "version_id": n, "annotation_id": n, "project_id": 1,
                        "project_created": 0, "task_id": n // _A_PHOTO,
                        "decided_at": started + timedelta(seconds=n),
                        "image": f"/data/upload/1/{n // _A_PHOTO}.jpg",
                        "image_sha256": hashlib.sha256(_photo(n // _A_PHOTO)).hexdigest(),
                        "height_px": _HEIGHT, "width_px": _WIDTH,
                        "expression": f"the thing number {n}", "outcome": "accepted",
                        "offered": 3, "rank": 1, "score": 0.5, "iou": 1.0, "first_iou": 1.0,
                        "coco_rle": masks[n % 200], "area_px": areas[n % 200], "parts": [],
                        "head_noun_phrase": "the thing", "region_ids": [], "dabs": 0,
                        "annotator": "1", "seconds": 9.0, "model_version": "bench", "notes": [],
                    }
                    for n in numbers
                ],
            )  # fmt: skip


def _read_photo(record: RecordView) -> bytes:
    return _photo(record.task_id)


def _read_peak_mb() -> float:
    """Of this program alone: ``ru_maxrss`` would still know the process that started it."""
    status = Path("/proc/self/status").read_text("utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def export_once(url: str, format_: Format, out: Path) -> None:
    """One export, in a process of its own; prints what it took as JSON."""
    plan = ExportPlan(
        format=format_, out=out, query={"split": "80/10/10"}, split=parse_split("80/10/10", 0),
        images="copy", merge="latest",
    )  # fmt: skip
    with closing(Stores(url)) as stores:
        groups = stores.records.iterate_by_image(RecordFilter())
        started, processor = time.perf_counter(), time.process_time()
        summary = run_export(plan, groups, _read_photo, out.parent, lambda _count: None)
        took = {
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - processor,
            "peak_mb": _read_peak_mb(),
            "expressions": summary.expressions,
        }
    print(json.dumps(took))


def compare() -> list[Row]:
    """Peak memory and seconds of every format, few records against many."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        urls = {}
        for count in (FEW, MANY):
            urls[count] = f"sqlite:///{scratch}/{count}.db"
            with closing(Stores(urls[count])) as stores:
                stores.migrate()
                _fill(stores, count)
        for format_ in FORMATS:
            took = {}
            for count, url in urls.items():
                out = Path(scratch) / f"{format_}-{count}"
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.exports",
                    "once",
                    url,
                    format_,
                    str(out),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                took[count] = json.loads(done.stdout)
                if took[count]["expressions"] != count:
                    raise RuntimeError(f"{took[count]['expressions']} of {count} were exported")
            few, many = took[FEW], took[MANY]
            rows.append(
                Row(
                    f"{format_}: {FEW} / {MANY} records ({few['seconds']:.0f} / "
                    f"{many['seconds']:.0f} s), peak memory",
                    f"{few['peak_mb']:.0f} MB", f"{many['peak_mb']:.0f} MB",
                    f"{few['peak_mb'] / many['peak_mb']:.2f}x", "1",
                )
            )  # fmt: skip
    return rows


def fill(url: str, count: int) -> None:
    """Fill an empty database with so many records."""
    with closing(Stores(url)) as stores:
        stores.migrate()
        _fill(stores, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill", help="fill an empty database")
    filling.add_argument("url")
    filling.add_argument("--records", type=int, required=True)
    once = commands.add_parser("once", help="export it, and print seconds and peak memory")
    once.add_argument("url")
    once.add_argument("format", choices=FORMATS)
    once.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "fill":
        fill(arguments.url, arguments.records)
    else:
        export_once(arguments.url, arguments.format, arguments.out)


if __name__ == "__main__":
    main()
