"""Visual features: the published way, in float32, against ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from backend.local_stack.up import sample_images
from benchmarks.measure import Row, interleave
from worker.methods import faithful
from worker.pipeline.build import build_pipeline
from worker.pipeline.images import decode_image
from worker.pipeline.pipeline import Pipeline
from worker.proposals.base import LastImageProposer
from worker.resize import to_original_size
from worker.settings import load_worker_settings
from worker.stages import DecodedImage, Proposals

PROPOSALS = 60
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
EXPRESSIONS = (
    "the cat", "a woman", "orange space suit", "the helmet", "the flag", "the spoon", "a cup",
    "the red saucer", "the rocket", "the tower on the left", "the temple", "the sky", "trees",
    "the flower", "the biggest thing", "a face", "the table", "second from the left", "the floor",
    "something red",
)  # fmt: skip


class _Fixed:
    """The same proposals for everyone."""

    name = "fixed"
    fingerprint = "bench"

    def __init__(self, proposals: Proposals) -> None:
        self._proposals = proposals

    def propose(self, _photo: DecodedImage) -> Proposals:
        return self._proposals


def _encode_published(pipeline: Pipeline, photo: DecodedImage, proposals: Proposals) -> None:
    masks = np.stack([to_original_size(mask, photo.size_hw) for mask in proposals.masks])
    boxes = faithful.compute_extents_xyxy(masks)
    faithful.encode_proposals(pipeline.encoder.visual, photo.pixels, masks, boxes)


def compare(rounds: int) -> list[Row]:
    """Seconds for 60 proposals, and whether the first candidates stay the same."""
    settings = load_worker_settings()
    ours = build_pipeline(settings)
    plain = build_pipeline(settings.model_copy(update={"precision": "float32"}))
    data = next(p for p in sample_images() if p.stem == "astronaut").read_bytes()
    photo = decode_image(data, 120)
    found = ours.proposer.propose(photo)
    proposals = found.take(np.arange(min(PROPOSALS, len(found))))
    quick = ours.with_config(ours.config, _Fixed(proposals))
    quick.prepare(data)
    a, b = interleave(
        lambda: _encode_published(plain, photo, proposals), lambda: quick.prepare(data), rounds
    )
    few = ours.with_config(ours.config, _Fixed(found.take(np.arange(PROPOSALS // 2))))
    few.prepare(data)
    c, d = interleave(lambda: quick.prepare(data), lambda: few.prepare(data), rounds)
    share = _share_of_products(lambda: quick.prepare(data))
    e, f = interleave(_product(torch.float32), _product(torch.bfloat16), 10 * rounds)
    same, total = _count_same_answers(ours, plain)
    return [
        Row(
            f"visual features of {len(proposals)} proposals: published way, float32 / ours",
            f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.1f}x", "4.5x",
        ),
        Row(
            f"growth: features of {len(proposals)} proposals / {PROPOSALS // 2}",
            f"{c:.2f} s", f"{d:.2f} s", f"{c / d:.1f}x",
        ),
        Row(
            f"what bounds it: {share:.0%} of our time are matrix products; one of them in float32"
            " / bfloat16",
            f"{1000 * e:.0f} ms", f"{1000 * f:.0f} ms", f"{e / f:.1f}x",
        ),
        Row(
            "first candidate the same as in float32",
            f"{total} pairs", f"{same} the same", f"{same / total:.3f}", ".99",
        ),
    ]  # fmt: skip


def _share_of_products(work: Callable[[], object]) -> float:
    """Of the processor's time, by the profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        work()
    times = {event.key: event.self_cpu_time_total for event in watched.key_averages()}
    return sum(times.get(name, 0.0) for name in _PRODUCTS) / sum(times.values())


def _product(dtype: torch.dtype) -> Callable[[], object]:
    """A layer of ViT-B/16 on 16 crops."""
    tokens = torch.randn(16 * 197, 768, dtype=dtype)
    weight = torch.randn(3072, 768, dtype=dtype)
    return lambda: F.linear(tokens, weight)


def _count_same_answers(ours: Pipeline, plain: Pipeline) -> tuple[int, int]:
    """Over all sample photos and expressions, on the same proposals."""
    same = total = 0
    shared = LastImageProposer(ours.proposer)
    for path in sample_images():
        data = path.read_bytes()
        first, _ = ours.with_config(ours.config, shared).prepare(data)
        second, _ = plain.with_config(plain.config, shared).prepare(data)
        for expression in EXPRESSIONS:
            orders = [
                pipeline.rank(prepared, expression)[1].order[0]
                for pipeline, prepared in ((ours, first), (plain, second))
            ]
            same += int(orders[0] == orders[1])
            total += 1
    return same, total
