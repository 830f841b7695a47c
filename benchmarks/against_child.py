"""One of two checkouts, asked line by line by ``benchmarks.against``; not meant to be run by hand.

Each line is ``prepare PATH``, ``first PATH`` or ``ask PATH EXPRESSION``; the answer is seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any


def _load() -> Any:
    """The pipeline of whichever checkout comes first on the path, without a cache."""
    try:
        from worker.pipeline.build import build_pipeline
        from worker.settings import load_worker_settings
    except ModuleNotFoundError:  # before the packages were reorganised
        from worker.config import load_worker_settings  # type: ignore[attr-defined,no-redef]
        from worker.pipeline import build_pipeline  # type: ignore[attr-defined,no-redef]
    pipeline = build_pipeline(load_worker_settings(encoder="starter"))
    pipeline.cache = None
    return pipeline


def main() -> None:
    pipeline = _load()
    prepared: dict[str, Any] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        how, path, *rest = line.rstrip("\n").split("\t")
        data = Path(path).read_bytes()
        started = time.perf_counter()
        if how == "prepare":
            answer = pipeline.prepare(data)
            prepared[path] = answer[0] if isinstance(answer, tuple) else answer
        elif how == "first":
            look, timings = pipeline.look_first(data)
            pipeline.segment(look, rest[0], 5, preparation=timings)
        else:
            pipeline.segment(prepared[path], rest[0], 5, preparation=None)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
