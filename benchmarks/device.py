"""This machine's device: a photo never seen, a prepared one, and how near it comes to its limit.

Example: python -m benchmarks --only device
"""

from __future__ import annotations

import statistics
from functools import partial
from itertools import cycle

import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.local_stack.up import sample_images
from benchmarks.features import EXPRESSIONS
from benchmarks.measure import Row, percentile, seconds
from worker.pipeline.build import build_pipeline, choose_precision
from worker.settings import load_worker_settings
from worker.stages import PreparedImage

_ROUNDS = 3
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 2048}


def measure() -> list[Row]:
    """Over the sample photos, with the default settings; nothing is kept on disk."""
    settings = load_worker_settings(encoder="starter")
    pipeline = build_pipeline(settings)
    pipeline.cache = None
    pipeline.warm_up()
    photos = [path.read_bytes() for path in sample_images()]
    pipeline.prepare(photos[0])
    prepared: list[PreparedImage] = []

    def answer(data: bytes) -> None:
        image, timings = pipeline.prepare(data)
        pipeline.segment(image, "the first thing", 3, preparation=timings)
        prepared.append(image)

    def ask(image: PreparedImage, text: str) -> None:
        pipeline.segment(image, text, 3, preparation=None)

    cold = [seconds(partial(answer, data)) for data in photos * _ROUNDS]
    asked = [
        seconds(partial(ask, image, f"{text} here"))
        for image, text in zip(cycle(prepared), EXPRESSIONS, strict=False)
    ]
    with FlopCounterMode(display=False) as counter:
        pipeline.prepare(photos[0])
    operations = counter.get_total_flops()
    busy = statistics.median([seconds(lambda: pipeline.prepare(photos[0])) for _ in range(_ROUNDS)])
    dtype = choose_precision(settings.precision, pipeline.device)
    limit = _measure_limit(pipeline.device, dtype)
    return [
        Row("a photo never seen, Enter to answer: median", _in_ms(cold, 0.5), "", "", "150 ms"),
        Row("a prepared photo, a new expression: median", _in_ms(asked, 0.5), "", "", "15 ms"),
        Row("the same, 95th percentile", _in_ms(asked, 0.95), "", ""),
        Row("photos a second, one after the other", f"{len(cold) / sum(cold):.2f}", "", ""),
        Row(
            f"operations of one photo a second / of the best product in {dtype}",
            f"{operations / busy / 1e12:.2f} T", f"{limit / 1e12:.2f} T",
            f"{operations / busy / limit:.2f}",
        ),
    ]  # fmt: skip


def _in_ms(times: list[float], share: float) -> str:
    return f"{percentile(times, share) * 1000:.0f} ms"


def _measure_limit(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large product: what the device gives at best."""
    side = _PRODUCT_SIDE["cuda" if device.startswith("cuda") else "cpu"]
    matrix = torch.randn(side, side, device=device).to(dtype)

    def multiply() -> None:
        # Reading one number waits for the device.
        (matrix @ matrix)[0, 0].item()

    multiply()
    return float(2 * side**3 / min(seconds(multiply) for _ in range(5)))
