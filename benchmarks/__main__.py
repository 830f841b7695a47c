"""``python -m benchmarks``: proposals against stock segment-anything; cold and warm answers.

Writes a Markdown table with hardware, versions and medians to standard output.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator

from backend.stack.up import sample_photos
from worker.config import ProposalsConfig, load_worker_settings
from worker.images import decode_photo
from worker.pipeline import build_pipeline, choose_device, choose_precision
from worker.proposals.sam import SamProposer, load_sam
from worker.weights import WeightStore

GRID = 8
ROUNDS = 3
EXPRESSIONS = ("the cat", "the red thing on the left", "the biggest one", "a photo of the sky")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_proposals() -> list[tuple[str, str, str, str]]:
    """Stock automatic mask generator against ours: same photo, grid and thresholds."""
    path = WeightStore().require("mobile-sam")
    photo = decode_photo(next(p for p in sample_photos() if p.stem == "coffee").read_bytes(), 120)
    device = choose_device("auto")
    on_gpu = device.startswith("cuda")
    stock = SamAutomaticMaskGenerator(
        load_sam("mobile-sam", path).to(device),
        points_per_side=GRID,
        pred_iou_thresh=0.75,
        stability_score_thresh=0.85,
    )
    config = ProposalsConfig(points_per_side=GRID, box_rounds=0)
    rows = []
    for dtype in dict.fromkeys((torch.float32, choose_precision("auto", device))):
        sam = load_sam("mobile-sam", path)
        ours = SamProposer(
            sam, config, device, dtype, batch=64 if on_gpu else 4, fingerprint="bench"
        )
        ours.propose(photo)
        a, b = [], []
        for _ in range(ROUNDS):
            a.append(seconds(lambda: stock.generate(photo.pixels)))
            b.append(seconds(lambda proposer=ours: proposer.propose(photo)))
        rows.append(
            (
                f"proposals, {GRID} x {GRID} points, {str(dtype)[6:]}",
                f"stock {statistics.median(a):.2f} s",
                f"ours {statistics.median(b):.2f} s",
                f"{statistics.median(a) / statistics.median(b):.1f}x",
            )
        )
    return rows


def time_answers() -> list[tuple[str, str, str, str]]:
    """A photo never seen against one that is prepared, over all sample photos."""
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = build_pipeline(load_worker_settings())
        if pipeline.cache is None:
            raise RuntimeError("the pipeline has a cache by default")
        pipeline.cache._directory = Path(scratch) / "prepared"
        cold, warm = [], []
        for path in sample_photos():
            data = path.read_bytes()

            def answer(expression: str, data: bytes = data) -> None:
                known = pipeline.load_prepared(hashlib.sha256(data).hexdigest())
                prepared, timings = (known, None) if known else pipeline.prepare(data)
                pipeline.segment(prepared, expression, 3, preparation=timings)

            cold.append(seconds(lambda run=answer: run("the first thing")))
            warm += [seconds(lambda run=answer, e=e: run(e)) for e in EXPRESSIONS]
    memory = psutil.Process().memory_info().rss / 1e9
    print(f"Model version: {pipeline.model_version}; memory of this process: {memory:.2f} GB\n")
    return [
        (
            "one expression",
            f"cold photo {statistics.median(cold):.1f} s (worst {max(cold):.1f} s)",
            f"prepared {statistics.median(warm) * 1000:.0f} ms",
            f"{statistics.median(cold) / statistics.median(warm):.0f}x",
        )
    ]


def main() -> None:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = psutil.cpu_count()
    print(f"{platform.processor() or platform.machine()}, {cores} cores, {gpu};", end=" ")
    print(f"torch {torch.__version__}, numpy {np.__version__}, Pillow {Image.__version__}")
    rows = time_answers() + compare_proposals()
    print("| what | A | B | A / B |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
