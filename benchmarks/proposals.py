"""Proposals: segment-anything's own generator against ours, same photo, grid and thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from backend.masks import compute_iou
from backend.stack.up import sample_photos
from benchmarks.measure import Row, interleave, seconds
from worker.config import ProposalsConfig
from worker.images import decode_photo
from worker.pipeline import choose_device, choose_precision
from worker.proposals.exact import ExactProposer
from worker.proposals.sam import SamProposer, load_sam
from worker.stages import Masks
from worker.weights import WeightStore

PHOTO = "coffee"
RECALL_IOU = 0.8


def compute_recall(stock: Masks, ours: Masks) -> float:
    """Share of stock masks that one of ours meets at IoU 0.8 or more."""
    found = [max((compute_iou(mask, other) for other in ours), default=0.0) for mask in stock]
    return float(np.mean([iou >= RECALL_IOU for iou in found]))


def compare(grid: int, rounds: int) -> list[Row]:
    """Exact and fast mode against stock."""
    path = WeightStore().require("mobile-sam")
    photo = decode_photo(next(p for p in sample_photos() if p.stem == PHOTO).read_bytes(), 120)
    device = choose_device("auto")
    dtype = choose_precision("auto", device)
    batch = 64 if device.startswith("cuda") else 4
    sam = load_sam("mobile-sam", path).to(device)
    config = ProposalsConfig(points_per_side=grid, box_rounds=0, max_count=10_000)
    stock = SamAutomaticMaskGenerator(
        sam,
        points_per_side=grid,
        pred_iou_thresh=config.predicted_iou_min,
        stability_score_thresh=config.stability_min,
    )
    exact = ExactProposer(sam, replace(config, exact=True), device, batch, "bench")
    fast = SamProposer(load_sam("mobile-sam", path), config, device, dtype, batch, "bench")
    whole = SamProposer(
        load_sam("mobile-sam", path), replace(config, box_rounds=1), device, dtype, batch, "bench"
    )
    fast.propose(photo)
    reference = np.stack([found["segmentation"] for found in stock.generate(photo.pixels)])
    ours = exact.propose(photo).masks
    same = ours.shape == reference.shape and bool((ours == reference).all())
    name = f"{grid} x {grid} points on {PHOTO}"
    rows = []
    a, b = interleave(lambda: stock.generate(photo.pixels), lambda: exact.propose(photo), rounds)
    rows.append(
        Row(
            f"proposals, {name}: stock / exact mode, float32,"
            f" {len(reference)} masks {'identical' if same else 'NOT identical'}",
            f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.1f}x", "4x",
        )
    )  # fmt: skip
    c = sorted(seconds(lambda: fast.propose(photo)) for _ in range(rounds))[rounds // 2]
    found = fast.propose(photo).masks
    rows.append(
        Row(
            f"the same: stock / fast mode without box round, {str(dtype)[6:]}; {len(found)} masks,"
            f" recall of stock masks at IoU .8 {compute_recall(reference, found):.2f}",
            f"{a:.2f} s", f"{c:.2f} s", f"{a / c:.1f}x", "10x, recall .95",
        )
    )  # fmt: skip
    d = sorted(seconds(lambda: whole.propose(photo)) for _ in range(rounds))[rounds // 2]
    rows.append(Row("the same with box round", f"{a:.2f} s", f"{d:.2f} s", f"{a / d:.1f}x"))
    return rows + _growth(path, device, dtype, batch)


def _growth(path: object, device: str, dtype: torch.dtype, batch: int) -> list[Row]:
    """With the grid, and with the size of the photo."""
    data = next(p for p in sample_photos() if p.stem == PHOTO).read_bytes()
    photo = decode_photo(data, 120)
    times = []
    for grid in (8, 16):
        config = ProposalsConfig(points_per_side=grid)
        proposer = SamProposer(load_sam("mobile-sam", path), config, device, dtype, batch, "bench")  # type: ignore[arg-type]
        proposer.propose(photo)
        times.append(seconds(lambda p=proposer: p.propose(photo)))
    rows = [
        Row("growth: 16 x 16 points / 8 x 8", f"{times[1]:.2f} s", f"{times[0]:.2f} s",
            f"{times[1] / times[0]:.1f}x")
    ]  # fmt: skip
    large = replace(photo, pixels=np.ascontiguousarray(photo.pixels.repeat(4, 0).repeat(4, 1)))
    sizes = [seconds(lambda p=p: proposer.propose(p)) for p in (photo, large)]
    height, width = large.size_hw
    rows.append(
        Row(f"growth: photo of {width} x {height} / a quarter of the side",
            f"{sizes[1]:.2f} s", f"{sizes[0]:.2f} s", f"{sizes[1] / sizes[0]:.1f}x")
    )  # fmt: skip
    return rows
