"""Proposals: segment-anything's own generator against ours, same photo, grid and thresholds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from segment_anything import SamAutomaticMaskGenerator

from backend.local_stack.up import sample_images
from benchmarks.measure import Row, interleave
from saymask.masks import Masks, compute_iou
from worker.config import FirstLookConfig, ProposalsConfig
from worker.pipeline.build import choose_device, choose_precision
from worker.pipeline.images import decode_image
from worker.proposals.exact import ExactProposer
from worker.proposals.load import load_sam
from worker.proposals.sam import SamProposer
from worker.stages import DecodedImage
from worker.weights.store import WeightStore

PHOTO = "coffee"
RECALL_IOU = 0.8


# (least predicted quality, least stability): segment-anything's own defaults, and ours.
LOW_RESOLUTION_SLACK = 0.02
THRESHOLDS = ((0.88, 0.95), (ProposalsConfig.predicted_iou_min, ProposalsConfig.stability_min))


def count_found(stock: Masks, ours: Masks) -> int:
    """How many stock masks one of ours meets at IoU 0.8 or more."""
    best = [max((compute_iou(mask, other) for other in ours), default=0.0) for mask in stock]
    return int(np.sum(np.array(best) >= RECALL_IOU))


class _Makers:
    """The three ways of making masks, over the same weights, grid and thresholds."""

    def __init__(self, grid: int, thresholds: tuple[float, float]) -> None:
        path = WeightStore().require("mobile-sam")
        device = choose_device("auto")
        self.dtype = choose_precision("auto", device)
        batch = 64 if device.startswith("cuda") else 4
        config = ProposalsConfig(
            points_per_side=grid,
            points_share=1.0,
            min_area_share=0.0,  # stock drops no small masks
            box_rounds=0,
            max_count=10_000,
            predicted_iou_min=thresholds[0],
            stability_min=thresholds[1],
        )
        sam = load_sam("mobile-sam", path).to(device)
        self._stock = SamAutomaticMaskGenerator(
            sam,
            points_per_side=grid,
            pred_iou_thresh=thresholds[0],
            stability_score_thresh=thresholds[1],
        )
        self._exact = ExactProposer(sam, replace(config, exact=True), device, batch, "bench")
        # At a quarter of the resolution a pixel more or less is a larger share of the outline.
        low = replace(config, stability_min=thresholds[1] - LOW_RESOLUTION_SLACK)
        self._fast, self._whole = (
            SamProposer(
                load_sam("mobile-sam", path), replace(low, box_rounds=rounds), device,
                self.dtype, batch, "bench",
            )
            for rounds in (0, 1)
        )  # fmt: skip

    def stock(self, photo: DecodedImage) -> Masks:
        found = [mask["segmentation"] for mask in self._stock.generate(photo.pixels)]
        return np.stack(found) if found else np.zeros((0, *photo.size_hw), dtype=bool)

    def exact(self, photo: DecodedImage) -> Masks:
        return self._exact.propose(photo).masks

    def fast(self, photo: DecodedImage) -> Masks:
        return self._fast.propose(photo).masks

    def whole(self, photo: DecodedImage) -> Masks:
        return self._whole.propose(photo).masks


def compare(grid: int, rounds: int) -> list[Row]:
    """Exact and fast mode against stock, in turn; with stock's thresholds and with ours."""
    rows = []
    for thresholds in THRESHOLDS:
        rows += _compare(_Makers(grid, thresholds), grid, thresholds, rounds)
    return rows + _growth()


def _compare(makers: _Makers, grid: int, thresholds: tuple[float, float], rounds: int) -> list[Row]:
    photo = _load(PHOTO)
    makers.fast(photo)  # the first call chooses kernels
    times: dict[str, list[float]] = {"stock": [], "exact": [], "fast": [], "whole": []}
    masks: dict[str, Masks] = {}
    for _ in range(rounds):
        for name, spent in times.items():
            started = time.perf_counter()
            masks[name] = getattr(makers, name)(photo)
            spent.append(time.perf_counter() - started)
    a, b, c, d = (statistics.median(spent) for spent in times.values())
    same = np.array_equal(masks["stock"], masks["exact"])
    kind = str(makers.dtype)[6:]
    name = f"{grid} x {grid} points, thresholds {thresholds[0]} / {thresholds[1]}"
    return [
        Row(
            f"proposals, {name}: stock / exact mode, float32, {len(masks['stock'])} masks"
            f" {'identical' if same else 'NOT identical'}",
            f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.1f}x", "4x",
        ),
        Row(f"the same: stock / fast mode without box round, {kind}",
            f"{a:.2f} s", f"{c:.2f} s", f"{a / c:.1f}x", "10x"),
        Row("the same with box round", f"{a:.2f} s", f"{d:.2f} s", f"{a / d:.1f}x"),
    ]  # fmt: skip


def compare_quality(grid: int, folder: Path | None) -> list[Row]:
    """Of all stock masks on all photos of a folder (default: the sample photos), how many fast
    mode finds."""
    photos = sorted(folder.glob("*.jpg")) if folder else sample_images()
    rows = []
    for thresholds in THRESHOLDS:
        makers = _Makers(grid, thresholds)
        total, found = 0, {"fast": 0, "whole": 0}
        for path in photos:
            photo = decode_image(path.read_bytes(), 120)
            # Identical to stock's, which ``compare`` says, and sooner.
            stock = makers.exact(photo)
            total += len(stock)
            for name in found:
                found[name] += count_found(stock, getattr(makers, name)(photo))
        for name, words in (("fast", "without box round"), ("whole", "with box round")):
            rows.append(
                Row(f"stock masks at {thresholds[0]} / {thresholds[1]}, {grid} x {grid} points,"
                    f" {len(photos)} photos / found by fast mode {words} (IoU {RECALL_IOU})",
                    f"{total} masks", f"{found[name]}", f"{found[name] / total:.3f}", ".95")
            )  # fmt: skip
    return rows


def compare_points(folder: Path | None) -> list[Row]:
    """Of the masks of a whole grid, how many a first look's points find, and how many a regular
    grid of about as many; of those with all tokens, how many with a sample of the padding."""
    share, side = FirstLookConfig.points_share, ProposalsConfig.points_per_side
    sparse = round(side * share**0.5)
    whole = ProposalsConfig(points_share=1.0)
    variants = {
        "whole": whole,
        "chosen": replace(whole, points_share=share),
        "regular": replace(whole, points_per_side=sparse),
        "padded": replace(whole, padding_step=1),
    }
    photos = sorted(folder.glob("*.jpg")) if folder else sample_images()
    masks, seconds = _propose(variants, photos)
    grid, step = f"{side} x {side} points", whole.padding_step
    rows = []
    for first, second, names in (
        ("whole", "chosen", f"{grid} / the {round(share * side**2)} that differ most"),
        ("whole", "regular", f"{grid} / a regular grid of {sparse} x {sparse}"),
        ("padded", "whole", f"all tokens of the padding / one in {step} x {step}"),
    ):
        total = sum(map(len, masks[first]))
        count = sum(map(count_found, masks[first], masks[second]))
        a, b = (statistics.median(seconds[name]) for name in (first, second))
        rows += [
            Row(f"proposals, {len(photos)} photos: {names}",
                f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.2f}x"),
            Row(f"the same: masks / found at IoU {RECALL_IOU}",
                f"{total}", f"{count}", f"{count / total:.3f}"),
        ]  # fmt: skip
    return rows


def _propose(
    variants: dict[str, ProposalsConfig], photos: Sequence[Path]
) -> tuple[dict[str, list[Masks]], dict[str, list[float]]]:
    """The masks of each variant on each photo, and the seconds they took; asked in turn."""
    device = choose_device("auto")
    proposer = SamProposer(
        load_sam("mobile-sam", WeightStore().require("mobile-sam")), ProposalsConfig(), device,
        choose_precision("auto", device), 64 if device.startswith("cuda") else 8, "bench",
    )  # fmt: skip
    for config in variants.values():  # the first call chooses kernels
        proposer.with_config(config).propose(decode_image(photos[0].read_bytes(), 120))
    masks: dict[str, list[Masks]] = {name: [] for name in variants}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for path in photos:
        photo = decode_image(path.read_bytes(), 120)
        for name, config in variants.items():
            started = time.perf_counter()
            masks[name].append(proposer.with_config(config).propose(photo).masks)
            seconds[name].append(time.perf_counter() - started)
    return masks, seconds


def _load(stem: str) -> DecodedImage:
    return decode_image(next(p for p in sample_images() if p.stem == stem).read_bytes(), 120)


def _growth() -> list[Row]:
    """With the grid, and with the size of the photo; fast mode as it is used."""
    photo = _load(PHOTO)
    coarse, fine = (_Makers(grid, THRESHOLDS[1]) for grid in (8, 16))
    coarse.whole(photo)
    b, a = interleave(lambda: coarse.whole(photo), lambda: fine.whole(photo), 3)
    rows = [Row("growth: 16 x 16 points / 8 x 8", f"{a:.2f} s", f"{b:.2f} s", f"{a / b:.1f}x")]
    large = replace(photo, pixels=np.ascontiguousarray(photo.pixels.repeat(4, 0).repeat(4, 1)))
    c, d = interleave(lambda: fine.whole(large), lambda: fine.whole(photo), 3)
    height, width = large.size_hw
    rows.append(
        Row(f"growth: photo of {width} x {height} / a quarter of the side",
            f"{c:.2f} s", f"{d:.2f} s", f"{c / d:.1f}x")
    )  # fmt: skip
    return rows
