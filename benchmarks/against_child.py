"""One of two checkouts, asked line by line by ``benchmarks.against``; not meant to be run by hand.

Each line is ``prepare``, ``first``, ``open`` or ``ask``, a path and an expression; the answer is
seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def _load(directory: Path) -> tuple[Any, Any]:
    """The pipeline of the checkout in the working directory, and a cache apart from it."""
    # Not by trying: an installed saymask would be found instead of an old checkout's packages.
    is_new = Path("worker/saymask_worker").is_dir()
    names = "saymask_worker.config.settings" if is_new else "worker.settings"
    load_worker_settings = import_module(names).load_worker_settings
    build = import_module("saymask_worker.pipeline.build" if is_new else "worker.pipeline.build")
    # Other sources are found as installed packages, which belong to one of the two at most.
    settings = load_worker_settings(encoder="starter", first_look="on", sources="proposals")
    pipeline = build.build_pipeline(settings)
    cache = type(pipeline.cache)(directory, "bench", 10**10)
    pipeline.cache = None
    return pipeline, cache


def _answer(pipeline: Any, cache: Any) -> None:
    prepared: dict[str, Any] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        what, path, expression = line.rstrip("\n").split("\t")
        data = Path(path).read_bytes()
        if what == "open":
            cache.store(prepared[path])
        started = time.perf_counter()
        if what == "prepare":
            prepared[path], _ = pipeline.prepare(data)
        elif what == "open":
            cache.load(prepared[path].sha256)
        elif what == "first":
            look, timings = pipeline.look_first(data)
            pipeline.segment(look, expression, 5, preparation=timings)
        else:
            pipeline.segment(prepared[path], expression, 5, preparation=None)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        _answer(*_load(Path(scratch)))
