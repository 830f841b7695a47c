"""Preparing photos alone and beside another busy process, by how PyTorch's threads wait.

A: they spin, as they do by themselves. B: they sleep, as ``worker`` chooses.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import cycle

from backend.local_stack.up import sample_images
from benchmarks.measure import Row
from worker.pipeline.build import build_pipeline
from worker.settings import load_worker_settings

# What libgomp takes by itself where there are as many processors as threads.
_SPINNING = {"GOMP_SPINCOUNT": "300000"}
_PHOTOS = 3


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(100_000))"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _measure(waiting: dict[str, str]) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.busy"]
    environment = {**os.environ, **waiting}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare() -> list[Row]:
    """Median seconds of a photo with the default settings and threads."""
    rows = []
    for where, beside in (("alone", nullcontext), ("beside one busy process", _busy_process)):
        with beside():
            spinning, sleeping = _measure(_SPINNING), _measure({})
        rows.append(
            Row(
                f"preparing a photo {where}: threads that spin / sleep while they wait",
                f"{spinning:.1f} s", f"{sleeping:.1f} s", f"{spinning / sleeping:.2f}x",
            )
        )  # fmt: skip
    return rows


def main() -> None:
    """Print the median seconds of some sample photos, after one that warms up."""
    pipeline = build_pipeline(load_worker_settings())
    pipeline.cache = None
    times = []
    for _, path in zip(range(_PHOTOS + 1), cycle(sample_images()), strict=False):
        started = time.perf_counter()
        pipeline.prepare(path.read_bytes())
        times.append(time.perf_counter() - started)
    print(statistics.median(times[1:]))


if __name__ == "__main__":
    main()
