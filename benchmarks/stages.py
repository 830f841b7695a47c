"""A photo never seen: a first look against the full preparation, and where each spends its time."""

from __future__ import annotations

import statistics

from benchmarks.measure import Table
from saymask_backend.local_stack.up import sample_images
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.pipeline.build import build_pipeline


def measure(rounds: int) -> Table:
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
        first.append(look[1].model_dump())
        full.append(pipeline.prepare(data)[1].model_dump())
    rows = []
    for stages in (*((stage,) for stage in first[0]), tuple(first[0])):
        slow_s, quick_s = (
            statistics.median(sum(took[stage] for stage in stages) / 1000 for took in way)
            for way in (full, first)
        )
        name = "all" if len(stages) > 1 else stages[0].removesuffix("_ms").replace("_", " ")
        rows.append({"stage": name, "prepared in full, s": slow_s, "first look, s": quick_s})
    return Table(f"A photo never seen, median of {len(full)}", rows)
