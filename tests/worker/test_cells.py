"""Masks on coarse grids and the map of places: equal to the direct ways, which are slower."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from saymask_worker.images.geometry import (
    count_in_columns,
    cover_cells,
    cover_square_grid,
    divide_by_rounding,
)
from saymask_worker.images.patch_map import build_patch_map

SIDES = st.integers(1, 90)


def _masks(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, height, width)) < 0.4


@given(SIDES, SIDES, st.integers(1, 30), st.integers(0, 9))
def test_the_square_grid_is_adaptive_average_pooling(
    height: int, width: int, side: int, seed: int
) -> None:
    masks = _masks(height, width, seed)
    soft = torch.from_numpy(masks).float()
    expected = F.adaptive_avg_pool2d(soft, side).numpy()
    np.testing.assert_allclose(cover_square_grid(masks, side), expected, atol=1e-6)


@given(SIDES, SIDES, st.integers(1, 30), st.integers(0, 9))
def test_rounded_bins_add_what_lies_between_their_limits(
    height: int, width: int, side: int, seed: int
) -> None:
    masks = _masks(height, width, seed)
    rows, columns = divide_by_rounding(height, side), divide_by_rounding(width, side)
    got = cover_cells(masks, rows, columns)
    for i, (top, below) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            expected = masks[:, top:below, left:right].mean(axis=(1, 2))
            np.testing.assert_allclose(got[:, i, j], expected, atol=1e-6)


@pytest.mark.parametrize("height", [1, 254, 255, 256, 511, 1019, 2000])
def test_sums_of_bytes_do_not_overflow(height: int) -> None:
    full = np.ones((2, height, 7), dtype=np.bool_)
    full[1, ::3] = False
    assert np.array_equal(count_in_columns(full), full.sum(axis=1))
    for count in (1, 2, 3):
        rows, columns = divide_by_rounding(height, count), divide_by_rounding(7, 2)
        shares = cover_cells(full, rows, columns)
        assert (shares[0] == 1).all()
        assert np.allclose(shares[1, 0], full[1, slice(*rows[0])].mean())


@given(st.integers(1, 400), st.integers(1, 40))
def test_rounded_bins_cover_every_pixel_once_where_there_are_enough(
    length: int, count: int
) -> None:
    bins = divide_by_rounding(length, count)
    assert len(bins) == count
    pixels = [pixel for start, stop in bins for pixel in range(start, stop)]
    assert set(pixels) == set(range(length))
    if length >= count:
        assert pixels == list(range(length))


@pytest.mark.parametrize(("side", "width"), [(14, 512), (2, 8), (1, 4)])
def test_the_map_of_places_is_the_best_of_its_rank(side: int, width: int) -> None:
    """No map of this rank is nearer than that of the singular values (Eckart and Young)."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(side * side, width)) @ random.normal(size=(width, width))
    places = (mixed / 9).reshape(side, side, width).astype(np.float32)
    rows = places.reshape(-1, width)
    left, strength, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    best = (left[:, :48] * strength[:48]) @ right[:48] + rows.mean(axis=0)
    lost = np.linalg.norm(rows - best)
    patch_map = build_patch_map(places)
    codes = patch_map.codes * patch_map.code_scale
    ours = codes @ (patch_map.basis * patch_map.basis_scale) + patch_map.mean
    rounding = 0.02 * np.linalg.norm(rows)
    assert np.linalg.norm(rows - ours) <= lost + rounding
