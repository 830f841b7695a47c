"""Which proposals are cropped, and the predicted features of the others."""

from __future__ import annotations

import numpy as np
import pytest

from saymask_worker.config.pipeline import FeaturesConfig
from saymask_worker.images.types import Floats, Proposals, normalise_rows
from saymask_worker.ranking.crop_budget import choose_cropped, predict_crops


def make_proposals(
    sides: list[int], vote_share: list[float], granularity: list[float]
) -> Proposals:
    masks = np.zeros((len(sides), 100, 100), dtype=bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[:side, :side] = True
    ones = np.ones(len(sides), dtype=np.float32)
    return Proposals(
        masks, ones, ones, np.float32(vote_share), np.float32(granularity), size_hw=(100, 100)
    )


def draw(count: int, width: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_whole_objects_are_cropped_before_parts() -> None:
    proposals = make_proposals(
        sides=[50, 50, 5, 50, 50], vote_share=[0.9, 0.1, 0.9, 0.9, 0.9], granularity=[2, 2, 2, 1, 2]
    )
    log_thing = np.float32([-0.1, -0.1, -0.1, -0.1, -2.0])
    order = [
        choose_cropped(proposals, log_thing, FeaturesConfig(crops_max=n)).tolist()
        for n in (1, 2, 3, 4, 9)
    ]
    assert order == [[0], [0, 3], [0, 2, 3], [0, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_crops_that_were_computed_stay_as_they_are() -> None:
    crops = draw(3, 8, seed=1)
    features = predict_crops(draw(5, 8, seed=2), crops, np.array([0, 2, 3]), ridge=1.0)
    assert np.array_equal(features[[0, 2, 3]], crops)
    length = np.linalg.norm(crops, axis=1).mean()
    assert np.linalg.norm(features[[1, 4]], axis=1) == pytest.approx(np.full(2, length), rel=1e-5)
    every = draw(5, 8, seed=3)
    assert predict_crops(draw(5, 8, seed=2), every, np.arange(5), ridge=1.0) is every


def test_a_linear_relation_is_found() -> None:
    """Crops that depend on the regions are predicted better than by their mean."""
    regions = normalise_rows(draw(80, 6, seed=4))
    crops = normalise_rows(regions @ draw(6, 16, seed=5) + 0.05 * draw(80, 16, seed=6))
    cropped = np.arange(40)
    predicted = predict_crops(regions, crops[cropped], cropped, ridge=0.01)[40:]
    mean = normalise_rows(crops[cropped].mean(axis=0)[None])
    assert (predicted * crops[40:]).sum(axis=1).mean() > 0.95
    assert (mean * crops[40:]).sum(axis=1).mean() < 0.5


def test_ridge_agrees_with_its_definition() -> None:
    """The dual form against the normal equations, solved for every output."""
    regions, crops = normalise_rows(draw(30, 5, seed=7)), normalise_rows(draw(20, 4, seed=8))
    cropped = np.arange(20)
    x = regions[:20] - regions[:20].mean(axis=0)
    penalty = 2.0 * (x**2).sum() / 20
    y = crops - crops.mean(axis=0)
    solution = np.linalg.lstsq(
        np.vstack([x, np.sqrt(penalty) * np.eye(5)]), np.vstack([y, np.zeros((5, 4))]), rcond=None
    )[0]
    expected = crops.mean(axis=0) + (regions[20:] - regions[:20].mean(axis=0)) @ solution
    got = predict_crops(regions, crops, cropped, ridge=2.0)[20:]
    assert got == pytest.approx(normalise_rows(np.float32(expected)), abs=1e-5)


def test_regions_that_are_all_alike_predict_the_mean() -> None:
    regions = np.ones((4, 6), dtype=np.float32)
    crops = normalise_rows(draw(2, 6, seed=9))
    features = predict_crops(regions, crops, np.array([1, 2]), ridge=1.0)
    mean = normalise_rows(crops.mean(axis=0)[None])[0]
    assert features[0] == pytest.approx(mean, abs=1e-5)
