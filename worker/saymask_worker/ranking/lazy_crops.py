"""Crops of the best proposals of a first look, computed when an expression needs them.

A first look knows only the region token of each proposal. For an expression the best proposals are
cropped, and the features of all other crops predicted from these, as in a full preparation
(``saymask_worker.ranking.crop_budget``). This is repeated for those that are then among the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from saymask_worker.config.pipeline import FirstLookConfig
from saymask_worker.images.types import Floats, PreparedImage, Scores
from saymask_worker.ranking.crop_budget import predict_crops

EncodeMasks = Callable[[NDArray[np.uint8], Masks], Floats]
"""Encodes proposals (N, h, w) of pixels (h, w, 3): (N, D)."""
ScoreAll = Callable[[PreparedImage], Scores]


@dataclass
class _Views:
    """The views of one image's proposals computed so far.

    Attributes:
        context: (N, D) of all.
        crops: (D,) of some.
    """

    context: Floats
    crops: dict[int, Floats] = field(default_factory=dict)


class LazyCrops:
    """Encodes the best proposals of first looks, each once.

    Args:
        encode_context: encodes proposals in the context of the whole image.
        encode_crops: encodes their crops.
        config: how many are cropped for an expression.
        ridge: see ``predict_crops``.
    """

    def __init__(
        self,
        encode_context: EncodeMasks,
        encode_crops: EncodeMasks,
        config: FirstLookConfig,
        ridge: float,
    ) -> None:
        self._encode_context = encode_context
        self._encode_crops = encode_crops
        self._first, self._count = config.initial_crops, config.total_crops
        self._ridge = ridge

    def rank(self, look: PreparedImage, score: ScoreAll) -> Scores:
        """Score the proposals of a first look by all their views.

        Only the crops of this expression's best proposals count, so that the answer does not
        depend on what was asked before.

        Args:
            look: with pixels.
            score: scores all proposals of an image.
        """
        scores = score(look)
        chosen: list[int] = []
        for total in (self._first, self._count):
            best = scores.order[: self._count].tolist()
            new = [index for index in best if index not in chosen][: total - len(chosen)]
            if look.pixels is None or not new:
                break
            chosen = sorted(chosen + new)
            scores = score(self._with_views(look, look.pixels, chosen))
        return scores

    def _with_views(
        self, look: PreparedImage, pixels: NDArray[np.uint8], chosen: list[int]
    ) -> PreparedImage:
        """The image with the context of all proposals, their crops computed or predicted."""
        masks, features = look.proposals.masks, look.features
        if features.region is None:
            raise ValueError("a first look has a region's token for each proposal")
        views: _Views | None = look.derived.get(self)
        if views is None:
            views = look.derived[self] = _Views(self._encode_context(pixels, masks))
        new = [index for index in chosen if index not in views.crops]
        if new:
            views.crops.update(zip(new, self._encode_crops(pixels, masks[new]), strict=True))
        crops = np.stack([views.crops[index] for index in chosen])
        local_context = predict_crops(features.region, crops, np.array(chosen), self._ridge)
        return replace(
            look,
            features=replace(features, global_context=views.context, local_context=local_context),
        )
