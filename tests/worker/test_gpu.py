"""A CUDA device gives the answers of the CPU, and its memory does not grow with the photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from saymask.masks import compute_iou, decode_coco_rle
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.pipeline import build
from saymask_worker.pipeline.pipeline import Pipeline
from tests.weights import require_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

ASKED = (
    ("astronaut", "the american flag"), ("chelsea", "the cat"), ("coffee", "the spoon"),
    ("coffee", "the red saucer"), ("rocket", "the rocket"), ("flower", "the flower"),
)  # fmt: skip


def load(device: str) -> Pipeline:
    require_weights()
    settings = load_worker_settings(encoder="starter", device=device, points_per_side=10)
    pipeline = build.build_pipeline(settings)
    pipeline.cache = None
    return pipeline


def load_in_float32(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """On the CPU, also where it multiplies bfloat16."""
    monkeypatch.setattr(build, "choose_precision", lambda device: torch.float32)
    return load("cpu")


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[Pipeline]:
    yield load("cuda")
    torch.cuda.empty_cache()


def test_the_first_candidate_is_that_of_the_cpu_in_float32(
    on_gpu: Pipeline, samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = load_in_float32(monkeypatch)
    same = []
    for photo, expression in ASKED:
        data = samples[photo].read_bytes()
        ours, theirs = (
            p.segment(p.prepare(data)[0], expression, 1, preparation=None) for p in (on_gpu, on_cpu)
        )
        masks = [decode_coco_rle(r.candidates[0].mask.as_dict()) for r in (ours, theirs)]
        same.append(compute_iou(*masks) > 0.9)
    # A mask may be a hair better or worse than its neighbour in another precision.
    assert sum(same) >= len(ASKED) - 1, same


def test_texts_are_encoded_as_on_the_cpu(on_gpu: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat on the left", "a cup", "something red behind the second chair"]
    on_cpu = load_in_float32(monkeypatch)
    ours, theirs = (p.encoder.text.encode(texts) for p in (on_gpu, on_cpu))
    assert (np.sum(ours * theirs, axis=1) > 0.999).all()


def test_a_first_look_and_clicks_answer(on_gpu: Pipeline, samples: dict[str, Path]) -> None:
    data = samples["coffee"].read_bytes()
    look = on_gpu.look_first(data)
    assert look is not None
    assert on_gpu.segment(look[0], "the spoon", 3, preparation=look[1]).is_first_look
    embedded = on_gpu.embed(data)
    assert embedded.size_hw == look[0].proposals.size_hw


def test_memory_does_not_grow_with_the_photos(on_gpu: Pipeline, samples: dict[str, Path]) -> None:
    on_gpu.prepare(samples["coffee"].read_bytes())
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for path in samples.values():
        on_gpu.prepare(path.read_bytes())
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 50e6
