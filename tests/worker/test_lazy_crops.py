"""The crops of a first look: the best proposals are cropped, the other crops predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from saymask.masks import Masks
from saymask_worker.config.pipeline import FirstLookConfig
from saymask_worker.images.types import Floats, PreparedImage, Scores
from saymask_worker.ranking.crop_budget import predict_crops
from saymask_worker.ranking.lazy_crops import LazyCrops
from tests.worker.scenes import prepared_image

RIDGE = 0.5


class Eye:
    """Encodes a proposal as where it lies; remembers how many it saw."""

    def __init__(self) -> None:
        self.contexts = 0
        self.crops: list[int] = []

    def encode_context(self, pixels: NDArray[np.uint8], masks: Masks) -> Floats:
        assert pixels.shape[:2] == masks.shape[1:]
        self.contexts += 1
        return np.array([[mask.any(axis=1).argmax(), 1] for mask in masks], np.float32)

    def encode_crops(self, pixels: NDArray[np.uint8], masks: Masks) -> Floats:
        assert pixels.shape[:2] == masks.shape[1:]
        lefts = find_lefts(masks)
        self.crops += lefts
        return np.array([[x, 1] for x in lefts], np.float32)

    def lazy_crops(self, first: int, count: int) -> LazyCrops:
        config = FirstLookConfig(initial_crops=first, total_crops=count)
        return LazyCrops(self.encode_context, self.encode_crops, config, RIDGE)


@pytest.fixture
def look() -> PreparedImage:
    image = prepared_image()
    height, width = image.proposals.masks.shape[1:]
    pixels = np.zeros((height, width, 3), np.uint8)
    rows = np.array([[x, 1] for x in range(5)], np.float32)
    features = replace(image.features, global_context=rows, local_context=rows, region=rows)
    return replace(image, features=features, is_first_look=True, pixels=pixels)


def score(image: PreparedImage) -> Scores:
    """The first is the best before the crops, then the one whose crop lies furthest left."""
    total = -image.features.local_context[:, 0]
    return Scores(total, {}, np.argsort(-total, kind="stable"))


def find_lefts(masks: Masks) -> list[int]:
    return [int(mask.any(axis=0).argmax()) for mask in masks]


def test_the_others_are_predicted_from_what_was_looked_at(look: PreparedImage) -> None:
    seen: list[PreparedImage] = []

    def remember(image: PreparedImage) -> Scores:
        seen.append(image)
        return score(image)

    eye = Eye()
    scores = eye.lazy_crops(3, 3).rank(look, remember)
    first, last = seen
    assert first is look
    lefts = find_lefts(look.proposals.masks)
    crops = np.array([[x, 1] for x in lefts], np.float32)
    assert look.features.region is not None
    expected = predict_crops(look.features.region, crops[:3], np.arange(3), RIDGE)
    assert np.array_equal(last.features.local_context, expected)
    assert np.array_equal(expected[:3], crops[:3])
    assert last.features.global_context.shape == (5, 2)
    assert scores.order.tolist() == score(last).order.tolist()
    assert (eye.contexts, eye.crops) == (1, lefts[:3])


def test_what_comes_up_then_is_looked_at_too(look: PreparedImage) -> None:
    """Orders before the crops, after the first two crops, and after two more."""
    orders = iter(([0, 1, 2, 3, 4], [4, 3, 0, 1, 2], [4, 0, 3, 1, 2]))
    eye = Eye()
    scores = eye.lazy_crops(2, 4).rank(
        look, lambda image: Scores(score(image).total, {}, np.array(next(orders)))
    )
    lefts = find_lefts(look.proposals.masks)
    assert eye.crops == [lefts[0], lefts[1], lefts[3], lefts[4]]
    assert scores.order.tolist() == [4, 0, 3, 1, 2]


def test_a_proposal_is_encoded_once_and_an_answer_depends_on_nothing_else(
    look: PreparedImage,
) -> None:
    eye = Eye()
    lazy = eye.lazy_crops(2, 2)
    first = lazy.rank(look, score)
    reverse = lazy.rank(look, lambda image: Scores(-score(image).total, {}, np.arange(5)[::-1]))
    lefts = find_lefts(look.proposals.masks)
    assert eye.crops == [lefts[0], lefts[1], lefts[3], lefts[4]]
    assert reverse.order.tolist() == [4, 3, 2, 1, 0]
    again = lazy.rank(look, score)
    assert np.array_equal(again.total, first.total)
    assert eye.contexts == 1
    assert len(eye.crops) == 4


def test_nothing_to_look_at(look: PreparedImage) -> None:
    eye = Eye()
    assert eye.lazy_crops(0, 0).rank(look, score).order.tolist() == [0, 1, 2, 3, 4]
    without = replace(look, pixels=None)
    assert eye.lazy_crops(3, 3).rank(without, score).order.tolist() == [0, 1, 2, 3, 4]
    assert (eye.contexts, eye.crops) == (0, [])
