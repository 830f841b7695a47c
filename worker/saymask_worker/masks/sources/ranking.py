"""Masks of several sources in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saymask.masks import Mask, compute_iou


@dataclass(frozen=True)
class Contender:
    """A mask that competes for a rank.

    Attributes:
        source: its name.
        index: which of the source's masks it is.
        mask: (h, w) bool; all contenders have one size.
        probability: that it is the referent, 0 to 1.
    """

    source: str
    index: int
    mask: Mask
    probability: float


def rank_together(contenders: Sequence[Contender], same_object_iou: float) -> list[Contender]:
    """Return contenders by probability, best first, an object that several sources found once.

    Of such an object the most probable mask stays. Sources that agree support each other: its
    probability becomes that of not all of them being wrong, ``1 - (1 - p) (1 - q)``. Masks of one
    source are never taken together; ties keep the order given.
    """
    ranked: list[Contender] = []
    sources: list[set[str]] = []
    for contender in sorted(contenders, key=lambda c: -c.probability):
        match = _find_same(contender, ranked, sources, same_object_iou)
        if match is None:
            ranked.append(contender)
            sources.append({contender.source})
            continue
        both = 1 - (1 - ranked[match].probability) * (1 - contender.probability)
        ranked[match] = replace(ranked[match], probability=both)
        sources[match].add(contender.source)
    return sorted(ranked, key=lambda c: -c.probability)


def _find_same(
    contender: Contender, ranked: list[Contender], sources: list[set[str]], same_object_iou: float
) -> int | None:
    """The place of the same object, found by other sources only."""
    for place, earlier in enumerate(ranked):
        is_other = contender.source not in sources[place]
        if is_other and compute_iou(earlier.mask, contender.mask) >= same_object_iou:
            return place
    return None
