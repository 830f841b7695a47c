"""Why an answer is wrong: one kind per wrong answer, from masks alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from saymask.masks import Mask, compute_ious

ErrorKind = Literal[
    "right", "no proposal", "part", "too much", "wrong one of the same noun", "wrong noun",
    "no target",
]  # fmt: skip
KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

HIT_IOU = 0.5
# Of the smaller of two masks, so much must lie in the other for one to be its part.
_INSIDE = 0.7


def classify_answer(
    answer: Mask | None,
    target: Mask,
    category: str | None,
    instances: Sequence[tuple[str, Mask]],
    oracle_iou: float,
) -> ErrorKind:
    """Return the kind of error of one answer.

    Args:
        answer: the first mask, or None when there is none.
        target: ground truth; empty when nothing is meant.
        category: of the target.
        instances: category and mask of every annotated object of the image.
        oracle_iou: the best IoU any proposal reaches.

    Returns:
        ``right`` above IoU 0.5, else the first that holds: no proposal above 0.5; the answer is
        part of the target; the target is part of the answer; the answer lies on another object of
        the same category; anything else is the wrong noun. ``no target`` for an empty target.
    """
    if not target.any():
        return "no target"
    if answer is None or not answer.any():
        return "no proposal"
    shared = int((answer & target).sum())
    answer_px, target_px = int(answer.sum()), int(target.sum())
    if shared / (answer_px + target_px - shared) > HIT_IOU:
        return "right"
    if oracle_iou <= HIT_IOU:
        return "no proposal"
    if shared / answer_px >= _INSIDE:
        return "part"
    if shared / target_px >= _INSIDE:
        return "too much"
    if category is not None and find_category(answer, instances) == category:
        return "wrong one of the same noun"
    return "wrong noun"


def find_category(answer: Mask, instances: Sequence[tuple[str, Mask]]) -> str | None:
    """Return the category of the annotated object that the answer mostly lies on.

    The object whose IoU with the answer is largest; among objects that hold the whole answer
    that is the smallest. None when the answer touches none.
    """
    if not instances:
        return None
    ious = compute_ious(answer, np.stack([mask for _, mask in instances]))
    best = int(ious.argmax())
    return instances[best][0] if ious[best] > 0 else None
