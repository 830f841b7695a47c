"""Proposals: how many masks of segment-anything's own generator ours find, and in what time."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

from segment_anything import SamAutomaticMaskGenerator

from benchmarks.measure import Cells, Table, timed
from saymask.masks import Mask, Masks, compute_iou
from saymask_backend.local_stack.up import sample_images
from saymask_worker.config.pipeline import FirstLookConfig, ProposalsConfig
from saymask_worker.images.decode import decode_image
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.sam import SamProposer
from saymask_worker.weights.device import choose_device, choose_precision
from saymask_worker.weights.store import WeightStore

RECALL_IOU = 0.8


def count_found(wanted: list[Mask], ours: Masks) -> int:
    """How many wanted masks one of ours meets at IoU 0.8 or more."""
    return sum(any(compute_iou(mask, own) >= RECALL_IOU for own in ours) for mask in wanted)


def measure(grid: int, folder: Path | None) -> Table:
    """The stock generator with our thresholds against ours, in full and as in a first look."""
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
    quick = ours.replace_config(replace(full, points_share=FirstLookConfig.points_share))
    photos = sorted(folder.glob("*.jpg")) if folder else sample_images()
    rows = _compare(stock, {"ours, in full": ours, "ours, a first look": quick}, photos)
    return Table(f"Proposals of {len(photos)} photos, {grid} x {grid} points", rows)


def _compare(
    stock: SamAutomaticMaskGenerator, proposers: dict[str, SamProposer], photos: list[Path]
) -> list[Cells]:
    stocks = "segment-anything's"
    names = (stocks, *proposers)
    took: dict[str, list[float]] = {name: [] for name in names}
    found = dict.fromkeys(names, 0)
    for path in photos:
        photo = decode_image(path.read_bytes(), 120)
        generated, seconds = timed(partial(stock.generate, photo.pixels))
        took[stocks].append(seconds)
        found[stocks] += len(generated)
        for name, proposer in proposers.items():
            proposed, seconds = timed(partial(proposer.propose, photo))
            took[name].append(seconds)
            wanted = [mask["segmentation"] for mask in generated]
            found[name] += count_found(wanted, proposed.masks)
    return [
        {"generator": name, "median s": statistics.median(took[name]),
         f"of its masks at IoU {RECALL_IOU}": found[name],
         "share": found[name] / max(1, found[stocks])}
        for name in names
    ]  # fmt: skip
