"""The terms of the score choose the referent among the instances that a source found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from saymask_worker.images.types import (
    DecodedImage,
    Floats,
    PreparedImage,
    Proposals,
    Scores,
    TextFeatures,
    VisualFeatures,
)
from saymask_worker.language import ParsedExpression
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.pipeline.sources import InstanceChooser
from tests.worker.scenes import parsed, prepared_image

SIZE_HW = (60, 200)
IMAGE = DecodedImage(np.zeros((*SIZE_HW, 3), np.uint8), "a" * 64)


class ByPlace:
    """A method whose score is how far to the right a proposal lies."""

    def __init__(self) -> None:
        self.scored: list[int] = []

    def encode_proposals(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        rows = np.ones((len(proposals), 2), np.float32)
        return VisualFeatures(rows, rows)

    def encode_text(self, expression: ParsedExpression) -> TextFeatures:
        row = np.ones(2, np.float32)
        return TextFeatures(row, row)

    def score(
        self, prepared: PreparedImage, text: TextFeatures, expression: ParsedExpression
    ) -> Scores:
        self.scored.append(len(prepared.proposals))
        total = prepared.geometry.center_x
        return Scores(total, {"place": total}, np.argsort(-total, kind="stable"), presence=-9.0)

    def compute_probabilities(
        self, scores: Scores, prepared: PreparedImage, chosen: Sequence[int]
    ) -> Floats | None:
        assert scores.presence is None, "whether the noun is there, the source has said"
        assert len(prepared.proposals) == len(scores.total)
        return np.array([0.8 / (rank + 1) for rank in range(len(chosen))], np.float32)


class Instances:
    """An instance source that finds two boxes, and counts how often it looks."""

    name, fingerprint = "boxes", "1"

    def __init__(self, found: Sequence[SourceMask]) -> None:
        self._found, self.asked = found, list[str]()

    def find_instances(self, image: DecodedImage, noun_phrase: str) -> Sequence[SourceMask]:
        self.asked.append(noun_phrase)
        return self._found


def box(x: int) -> np.ndarray:
    mask = np.zeros(SIZE_HW, bool)
    mask[10:30, x : x + 20] = True
    return mask


def test_the_terms_choose_among_instances_and_the_sources_probability_enters() -> None:
    source = Instances([SourceMask(box(20), 0.9), SourceMask(box(150), 0.5)])
    method = ByPlace()
    chooser = InstanceChooser(method)
    right, left = chooser.choose(source, IMAGE, prepared_image(), parsed(appearance="red box"))
    assert right.mask[20, 160]
    assert (right.probability, left.probability) == pytest.approx((0.8 * 0.5, 0.4 * 0.9))
    assert method.scored == [2 + 5], "relations need the image's own proposals"
    chooser.choose(source, IMAGE, prepared_image(), parsed(appearance="red box"))
    assert source.asked == ["red box"], "found once"
    chooser.choose(source, IMAGE, prepared_image(), parsed(appearance="cat"))
    assert source.asked == ["red box", "cat"]


def test_instances_of_a_first_look_are_scored_alone() -> None:
    method = ByPlace()
    first = replace(prepared_image(), is_first_look=True)
    source = Instances([SourceMask(box(20), 0.9)])
    assert InstanceChooser(method).choose(source, IMAGE, first, parsed(appearance="box"))
    assert method.scored == [1]


def test_without_a_noun_or_an_instance_nothing_is_offered() -> None:
    chooser = InstanceChooser(ByPlace())
    nothing = Instances([])
    assert chooser.choose(nothing, IMAGE, prepared_image(), parsed(appearance="box")) == []
    speck = np.zeros((4000, 4000), bool)
    speck[0, 0] = True
    large = DecodedImage(np.zeros((4000, 4000, 3), np.uint8), "c" * 64)
    vanishes = Instances([SourceMask(speck, 0.9)])
    assert chooser.choose(vanishes, large, prepared_image(), parsed(appearance="box")) == []
    place = parsed(appearance=None, head_noun_phrase=None)
    assert chooser.choose(nothing, IMAGE, prepared_image(), place) == []
    assert nothing.asked == ["box"]
