"""Looking closer at what a first look ranks high: the views that preparing left out.

A first look knows only the region's token of each proposal. For the expression at hand the best
proposals are cropped and seen in their context as in a full preparation, and ranked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from worker.methods.features import to_float32
from worker.stages import Floats, PreparedImage, Scores

EncodeViews = Callable[[NDArray[np.uint8], Masks], tuple[Floats, Floats]]
"""Encodes proposals (N, h, w) of pixels (h, w, 3): global and local context, each (N, D)."""
ScoreAll = Callable[[PreparedImage], Scores]


@dataclass
class _Views:
    """The views (D,) of the proposals of one image that were looked at so far."""

    rows: dict[int, tuple[Floats, Floats]] = field(default_factory=dict)


class CloserLook:
    """Encodes the best proposals of first looks, each once.

    Args:
        encode: encodes proposals.
        count: so many are looked at for an expression.
    """

    def __init__(self, encode: EncodeViews, count: int) -> None:
        self._encode = encode
        self._count = count
        self._seen: WeakKeyDictionary[PreparedImage, _Views] = WeakKeyDictionary()

    def rank(self, look: PreparedImage, score: ScoreAll) -> Scores:
        """Score the proposals of a first look, the best of them by all their views.

        Args:
            look: with pixels.
            score: scores all proposals of an image.
        """
        quick = score(look)
        best = quick.order[: self._count]
        if look.pixels is None or len(best) == 0:
            return quick
        scores = score(self._with_views(look, look.pixels, best.tolist()))
        # Views of other kinds are not compared: what was looked at goes first.
        total = scores.total.copy()
        is_seen = np.zeros(len(total), dtype=bool)
        is_seen[best] = True
        total[~is_seen] = np.minimum(quick.total[~is_seen], total[is_seen].min())
        order = np.concatenate(
            [best[np.argsort(-total[best], kind="stable")], quick.order[self._count :]]
        )
        return replace(scores, total=to_float32(total), order=order)

    def _with_views(
        self, look: PreparedImage, pixels: NDArray[np.uint8], indices: Sequence[int]
    ) -> PreparedImage:
        """The image with the views of these and all earlier proposals."""
        views = self._seen.setdefault(look, _Views())
        new = [index for index in indices if index not in views.rows]
        if new:
            rows = zip(*self._encode(pixels, look.proposals.masks[new]), strict=True)
            views.rows.update(zip(new, rows, strict=True))
        features = look.features
        context = features.global_context.copy(), features.local_context.copy()
        for index in indices:
            for array, row in zip(context, views.rows[index], strict=True):
                array[index] = row
        return replace(look, features=replace(features, global_context=context[0],
                                              local_context=context[1]))  # fmt: skip
