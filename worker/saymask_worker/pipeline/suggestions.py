"""Which of the ranked masks are offered: answers that a person can tell apart, and accept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

from saymask.contract import MAX_K
from saymask.masks import Mask, Masks, compute_box_xywh
from saymask_worker.config.pipeline import PipelineConfig, SuggestionsConfig
from saymask_worker.images.types import PreparedImage, Scores
from saymask_worker.language import Count
from saymask_worker.ranking.comparison import find_instances

# Of all objects of a noun: the marks of more would hide the photo.
_OFFERED_OF_ALL = 10


def choose_how_many(k: int, count: Count | None, separate: int) -> int:
    """Return how many suggestions are offered: ``k``, or as many as objects are meant.

    Args:
        k: as requested.
        count: how many objects are meant, where several are.
        separate: how many were found.
    """
    meant = min(separate, _OFFERED_OF_ALL) if isinstance(count, str) else count or 1
    return min(max(k, meant), MAX_K)


def choose_distinct(
    prepared: PreparedImage,
    scores: Scores,
    config: PipelineConfig,
    k: int,
    count: Count | None = None,
) -> list[int]:
    """Return the indices of the k best proposals that a person can tell apart.

    Where several objects are meant, this number of separate ones comes first, or all that were
    found where no number is known.
    """
    iou = prepared.geometry.iou
    is_same = compare_masks(
        prepared.proposals.masks, lambda a, b: float(iou[a, b]), config.suggestions
    )
    ranked = list(map(int, scores.order))
    if count is not None:
        several = find_instances(scores.total, prepared.geometry, config.scoring)
        ranked = [*several[: count if isinstance(count, int) else None].tolist(), *ranked]
    return select_distinct(dict.fromkeys(ranked), is_same, k)


def count_separate(prepared: PreparedImage, scores: Scores, config: PipelineConfig) -> int:
    """Return how many separate objects can be meant, whichever of them is."""
    comparison = scores.terms.get("comparison")
    named = scores.total if comparison is None else scores.total - comparison
    return len(find_instances(named, prepared.geometry, config.scoring))


def select_distinct(
    ranked: Iterable[int], is_same: Callable[[int, int], bool], k: int
) -> list[int]:
    """Return the first k indices of a ranking that are not the same answer as an earlier one."""
    kept: list[int] = []
    for index in ranked:
        if len(kept) == k:
            break
        if not any(is_same(index, earlier) for earlier in kept):
            kept.append(index)
    return kept


def compare_masks(
    masks: Sequence[Mask] | Masks,
    measure_iou: Callable[[int, int], float],
    config: SuggestionsConfig,
) -> Callable[[int, int], bool]:
    """Return a function that tells whether two masks are the same answer to a person.

    Args:
        masks: of one size.
        measure_iou: returns the IoU of two of them, by their indices.
        config: how much they overlap, or how close their marks are, if they are the same.
    """

    @cache
    def find_mark_of(index: int) -> tuple[float, float]:
        return find_mark(masks[index])

    def is_same(first: int, second: int) -> bool:
        if measure_iou(first, second) >= config.same_answer_iou:
            return True
        # Marks on top of each other: one cannot tell them apart.
        apart_x, apart_y = np.abs(np.subtract(find_mark_of(first), find_mark_of(second)))
        return bool(apart_x < config.marks_apart_x and apart_y < config.marks_apart_y)

    return is_same


def find_mark(mask: Mask) -> tuple[float, float]:
    """Return where Label Studio draws the marks of a mask (H, W): below the middle of its box.

    As shares of the image's width and height.
    """
    height, width = mask.shape
    x, y, box_width, box_height = compute_box_xywh(mask)
    return (x + box_width / 2) / width, (y + box_height) / height
