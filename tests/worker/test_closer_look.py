"""A closer look at the best proposals of a first look: each once, and they go first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from saymask.masks import Masks
from tests.worker.scenes import prepared_image
from worker.methods.closer_look import CloserLook
from worker.stages import Floats, PreparedImage, Scores


class Eye:
    """Encodes a proposal as where it lies; remembers how many it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, pixels: NDArray[np.uint8], masks: Masks) -> tuple[Floats, Floats]:
        assert pixels.shape[:2] == masks.shape[1:]
        self.seen += len(masks)
        x = np.array([[mask.any(axis=0).argmax(), 0] for mask in masks], np.float32)
        return x, x


@pytest.fixture
def look() -> PreparedImage:
    image = prepared_image()
    height, width = image.proposals.masks.shape[1:]
    pixels = np.zeros((height, width, 3), np.uint8)
    return replace(image, is_first_look=True, pixels=pixels)


def score(image: PreparedImage) -> Scores:
    """Proposals look the better, the further right they lie; before that the first is best."""
    total = image.features.local_context[:, 0] + np.linspace(0.5, 0.1, 5, dtype=np.float32)
    return Scores(total, {}, np.argsort(-total, kind="stable"))


def test_the_best_are_ranked_by_what_is_seen_of_them(look: PreparedImage) -> None:
    # At a first look the fifth, whose row is (0, 1), is the worst.
    assert score(look).order.tolist() == [0, 1, 2, 3, 4]
    eye = Eye()
    scores = CloserLook(eye.encode, 3).rank(look, score)
    assert scores.order.tolist() == [2, 1, 0, 3, 4], "the furthest right of the three comes first"
    assert eye.seen == 3
    assert (np.diff(scores.total[scores.order]) <= 0).all(), "the order is that of the totals"


def test_a_proposal_is_encoded_once(look: PreparedImage) -> None:
    eye = Eye()
    closer = CloserLook(eye.encode, 2)
    assert closer.rank(look, score).order.tolist()[:2] == [1, 0]
    assert closer.rank(look, score).order.tolist()[:2] == [1, 0]
    assert eye.seen == 2
    closer.rank(look, lambda image: Scores(-score(image).total, {}, np.array([4, 3, 2, 1, 0])))
    assert eye.seen == 4, "another expression has other best ones"


def test_nothing_to_look_at(look: PreparedImage) -> None:
    eye = Eye()
    assert CloserLook(eye.encode, 0).rank(look, score).order.tolist() == [0, 1, 2, 3, 4]
    without = replace(look, pixels=None)
    assert CloserLook(eye.encode, 3).rank(without, score).order.tolist() == [0, 1, 2, 3, 4]
    assert eye.seen == 0
