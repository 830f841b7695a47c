"""One worker against two, each with one thread, preparing a folder of photos."""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.pool import Pool

from PIL import Image, ImageOps

from backend.local_stack.up import sample_images
from benchmarks.measure import Row
from worker.pipeline.build import build_pipeline
from worker.pipeline.pipeline import Pipeline
from worker.settings import load_worker_settings


@cache
def _load() -> Pipeline:
    """The models of this process, loaded with its first photo."""
    settings = load_worker_settings().model_copy(update={"threads": 1})
    pipeline = build_pipeline(settings)
    pipeline.cache = None
    return pipeline


def _prepare(data: bytes) -> int:
    return len(_load().prepare(data)[0].proposals)


def _photos() -> list[bytes]:
    """The sample photos and their mirror images, one size, so that shares are alike."""
    found = []
    for path in sample_images():
        image = Image.open(path).convert("RGB").resize((512, 384))
        for version in (image, ImageOps.mirror(image)):
            buffer = io.BytesIO()
            version.save(buffer, "PNG")
            found.append(buffer.getvalue())
    return found


@contextmanager
def _pool(count: int) -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        pool.map(_prepare, _photos()[:count], chunksize=1)  # models are loaded now
        yield pool


def compare() -> list[Row]:
    """Wall clock for twelve photos, models loaded."""
    photos, times = _photos(), []
    for count in (1, 2):
        with _pool(count) as pool:
            started = time.perf_counter()
            pool.map(_prepare, photos, chunksize=1)
            times.append(time.perf_counter() - started)
    return [
        Row(
            f"preparing {len(photos)} photos: one worker / two, one thread each",
            f"{times[0]:.1f} s", f"{times[1]:.1f} s", f"{times[0] / times[1]:.2f}x", "1.8x",
        )
    ]  # fmt: skip
