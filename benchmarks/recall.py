"""Proposals: how many masks of segment-anything's own generator ours find, and in what time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from segment_anything import SamAutomaticMaskGenerator

from benchmarks.measure import Row
from saymask.masks import Masks, compute_iou
from saymask_backend.local_stack.up import sample_images
from saymask_worker.config.pipeline import FirstLookConfig, ProposalsConfig
from saymask_worker.images.decode import decode_image
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.sam import SamProposer
from saymask_worker.weights.device import choose_device, choose_precision
from saymask_worker.weights.store import WeightStore

RECALL_IOU = 0.8


def count_found(stock: Masks, ours: Masks) -> int:
    """How many stock masks one of ours meets at IoU 0.8 or more."""
    best = [max((compute_iou(mask, other) for other in ours), default=0.0) for mask in stock]
    return int(np.sum(np.array(best) >= RECALL_IOU))


def compare(grid: int, folder: Path | None) -> list[Row]:
    """The stock generator with our thresholds against ours, in full and as in a first look.

    Args:
        grid: points per side.
        folder: of .jpg files; by default the sample photos.
    """
    photos = sorted(folder.glob("*.jpg")) if folder else sample_images()
    path = WeightStore().require("mobile-sam")
    device = choose_device("auto")
    full = ProposalsConfig(points_per_side=grid, max_count=10_000)
    stock = SamAutomaticMaskGenerator(
        load_sam("mobile-sam", path).to(device), points_per_side=grid,
        pred_iou_thresh=full.predicted_iou_min, stability_score_thresh=full.stability_min,
        min_mask_region_area=0,
    )  # fmt: skip
    batch = 64 if device.startswith("cuda") else 8
    ours = SamProposer(
        load_sam("mobile-sam", path), full, device, choose_precision(device), batch, "bench"
    )
    quick = ours.replace_config(
        ProposalsConfig(
            points_per_side=grid, max_count=10_000, points_share=FirstLookConfig.points_share
        )
    )
    return _compare(stock, {"in full": ours, "a first look": quick}, photos, grid)


def _compare(
    stock: SamAutomaticMaskGenerator,
    proposers: dict[str, SamProposer],
    photos: Sequence[Path],
    grid: int,
) -> list[Row]:
    total, stock_s = 0, list[float]()
    found = dict.fromkeys(proposers, 0)
    seconds: dict[str, list[float]] = {name: [] for name in proposers}
    for path in photos:
        photo = decode_image(path.read_bytes(), 120)
        started = time.perf_counter()
        masks = [mask["segmentation"] for mask in stock.generate(photo.pixels)]
        stock_s.append(time.perf_counter() - started)
        total += len(masks)
        for name, proposer in proposers.items():
            started = time.perf_counter()
            proposed = proposer.propose(photo).masks
            seconds[name].append(time.perf_counter() - started)
            found[name] += count_found(np.stack(masks), proposed) if masks else 0
    a = statistics.median(stock_s)
    rows = []
    for name in proposers:
        b = statistics.median(seconds[name])
        rows += [
            Row(f"proposals, {grid} x {grid} points, {len(photos)} photos: segment-anything's"
                f" generator / ours, {name}", f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.1f}x"),
            Row(f"the same: its masks / of these found by ours at IoU {RECALL_IOU}", f"{total}",
                f"{found[name]}", f"{found[name] / max(1, total):.3f}", ".95"),
        ]  # fmt: skip
    return rows
