"""A photo never seen: a first look against the full preparation, and where each spends its time."""

from __future__ import annotations

import statistics
from dataclasses import asdict

from benchmarks.measure import Row
from saymask_backend.local_stack.up import sample_images
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.pipeline.build import build_pipeline


def compare(rounds: int) -> list[Row]:
    """Median seconds over the sample photos, both ways in turn, by stage and in all."""
    pipeline = build_pipeline(load_worker_settings(encoder="starter", first_look="on"))
    # So that no photo is kept.
    pipeline.cache = None
    first, full = list[dict[str, float]](), list[dict[str, float]]()
    for path in sample_images() * rounds:
        data = path.read_bytes()
        look = pipeline.look_first(data)
        if look is None:
            raise RuntimeError("there is no first look")
        first.append(asdict(look[1]))
        full.append(asdict(pipeline.prepare(data)[1]))
    rows = [
        _compare(stage.removesuffix("_ms").replace("_", " "), full, first, (stage,))
        for stage in first[0]
    ]
    return [*rows, _compare("all", full, first, tuple(first[0]))]


def _compare(
    what: str, a: list[dict[str, float]], b: list[dict[str, float]], stages: tuple[str, ...]
) -> Row:
    slow, quick = (
        statistics.median(sum(timings[stage] for stage in stages) / 1000 for timings in each)
        for each in (a, b)
    )
    return Row(
        f"a photo never seen, prepared in full / first look: {what}",
        f"{slow:.2f} s", f"{quick:.2f} s", f"{slow / quick:.1f}x", "3x" if what == "all" else "",
    )  # fmt: skip
