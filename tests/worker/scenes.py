"""Small made-up images for tests of scoring and serving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import (
    PreparedImage,
    Proposals,
    TextFeatures,
    VisualFeatures,
    normalise_rows,
)
from saymask_worker.language.expression import ParsedExpression
from saymask_worker.ranking.appearance import DescribedImage, describe_image


def scene() -> tuple[np.ndarray, VisualFeatures, TextFeatures]:
    """Four equal squares in a row and one large block around the second."""
    masks = np.zeros((5, 60, 200), bool)
    for index in range(4):
        masks[index, 20:40, 20 + 45 * index : 40 + 45 * index] = True
    masks[3, 40:50, 155:175] = True
    masks[4, 10:50, 50:100] = True
    look = np.tile(np.array([[1.0, 0.2]], dtype=np.float32), (5, 1))
    look[4] = [0.0, 1.0]
    text = TextFeatures(
        np.array([1, 0], np.float32), np.array([1, 0], np.float32), np.array([[0, 1]], np.float32)
    )
    return masks, VisualFeatures(look, look), text


def parsed(**changes: object) -> ParsedExpression:
    plain = ParsedExpression("the box", "the box", "the box", "box")
    return replace(plain, **changes)  # type: ignore[arg-type]


def described(
    image: PreparedImage | None = None,
    config: ScoringConfig | None = None,
    things: list[list[float]] | None = None,
    stuff: list[list[float]] | None = None,
) -> DescribedImage:
    """The image among nouns of one's own; by default one thing and one stuff like anything."""
    image = image or prepared_image()
    width = image.features.local_context.shape[1]
    neutral = [[0.0] * width]
    rows = np.array([*(things or neutral), *(stuff or neutral)], np.float32)
    rows = normalise_rows(rows)
    is_thing = np.arange(len(rows)) < len(things or neutral)
    vocabulary = EncodedNouns(rows, is_thing, tuple(map(str, range(len(rows)))))
    return describe_image(image, vocabulary, config or ScoringConfig())


def prepared_image() -> PreparedImage:
    masks, features, _ = scene()
    quality = np.full(5, 0.9, np.float32)
    proposals = Proposals(masks, quality, quality, quality, quality, (60, 200))
    return PreparedImage("a" * 64, proposals, compute_geometry(masks), features, ("note",))
