"""A photo never seen against one that is prepared; what a prepared photo takes on disk."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from backend.local_stack.up import sample_images
from benchmarks.measure import Row, seconds
from worker.pipeline.build import build_pipeline
from worker.pipeline.cache import PreparedCache
from worker.pipeline.opening import open_image
from worker.settings import load_worker_settings

EXPRESSIONS = ("the cat", "the red thing on the left", "the biggest one", "a photo of the sky")

_COLORS = ("red", "green", "blue", "white", "black", "brown", "grey", "orange", "yellow", "pink")
_NOUNS = ("cat", "cup", "spoon", "woman", "flag", "flower", "rocket", "sky", "tree", "helmet",
          "table")  # fmt: skip


def measure() -> list[Row]:
    """Over all sample photos."""
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = build_pipeline(load_worker_settings())
        idle_gb = psutil.Process().memory_info().rss / 1e9
        pipeline.cache = PreparedCache(Path(scratch), "bench", 10**9)
        cold, warm, known = [], [], []
        for path in sample_images():
            data = path.read_bytes()

            def answer(expression: str, data: bytes = data) -> None:
                prepared, timings = open_image(pipeline, data)
                pipeline.segment(prepared, expression, 3, preparation=timings)

            cold.append(seconds(lambda run=answer: run("the first thing")))
            warm += [seconds(lambda run=answer, e=e: run(e)) for e in EXPRESSIONS]
            known += [seconds(lambda run=answer, e=e: run(e)) for e in EXPRESSIONS]
        entries, megabytes = pipeline.cache.usage()
        largest = max(path.stat().st_size for path in Path(scratch).rglob("*.npz")) / 1e6
        growth = _measure_growth(answer)
    peak_gb = psutil.Process().memory_info().rss / 1e9
    c, w, k = (statistics.median(times) for times in (cold, warm, known))
    return [
        Row("one expression: photo never seen / photo prepared, new expression",
            f"{c:.1f} s (worst {max(cold):.1f} s)", f"{w * 1000:.0f} ms", f"{c / w:.0f}x",
            "B 50 ms"),
        Row("prepared photo: new expression / one seen before",
            f"{w * 1000:.0f} ms", f"{k * 1000:.0f} ms", f"{w / k:.1f}x"),
        Row("prepared photo on disk: mean / largest",
            f"{megabytes / entries:.2f} MB", f"{largest:.2f} MB", "", "0.2 MB"),
        Row("memory of the process: models loaded / after six photos",
            f"{idle_gb:.2f} GB", f"{peak_gb:.2f} GB", "", "A 1.5 GB"),
        *growth,
    ]  # fmt: skip


def _measure_growth(answer: Callable[[str], None]) -> list[Row]:
    """Many different expressions on one prepared photo."""
    few, many = 10, 100
    texts = [f"the {color} {noun} number {n}" for n, (color, noun) in enumerate(
        (c, n) for c in _COLORS for n in _NOUNS)][: few + many]  # fmt: skip
    a = seconds(lambda: [answer(text) for text in texts[few:]])
    b = seconds(lambda: [answer(text) for text in texts[:few]])
    return [
        Row(f"growth: {many} new expressions on one photo / {few}",
            f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.1f}x")
    ]  # fmt: skip
