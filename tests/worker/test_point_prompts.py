"""Which points of a grid become prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saymask_worker.masks.point_prompts import build_grid, choose_points

FRAME_HW = (768, 1024)


def make_embedding(*patches: tuple[int, int, int, int]) -> Tensor:
    """One direction everywhere, but another in each patch (top, left, bottom, right) of cells."""
    embedding = torch.zeros(1, 8, 64, 64)
    embedding[:, 0] = 1
    for index, (top, left, bottom, right) in enumerate(patches, start=1):
        embedding[:, :, top:bottom, left:right] = torch.eye(8)[index].view(1, 8, 1, 1)
    return embedding


def test_a_grid_has_its_points_in_the_middle_of_its_cells() -> None:
    grid = build_grid(2, FRAME_HW, "cpu")
    assert grid.tolist() == [[256, 192], [768, 192], [256, 576], [768, 576]]


def test_small_things_are_prompted_before_the_middle_of_large_ones() -> None:
    grid = build_grid(16, FRAME_HW, "cpu")
    embedding = make_embedding((4, 9, 6, 11), (20, 40, 24, 44))
    points = choose_points(grid, embedding, FRAME_HW, share=0.05, place_weight=2.0)
    assert len(points.prompted) == 13
    seen = {
        int(embedding[0, :, int(y) // 16, int(x) // 16].argmax()) for x, y in points.xy.tolist()
    }
    assert seen == {0, 1, 2}


def test_a_representative_looks_like_its_points() -> None:
    grid = build_grid(12, FRAME_HW, "cpu")
    embedding = make_embedding((0, 0, 48, 32))
    points = choose_points(grid, embedding, FRAME_HW, share=0.1, place_weight=0.01)
    is_left = grid[:, 0] < 512
    assert (is_left == is_left[points.prompted][points.representative]).all()
    own = points.representative[points.prompted]
    assert own.tolist() == list(range(len(points.prompted))), "a prompt stands for itself"


def test_on_an_even_surface_points_lie_apart() -> None:
    grid = build_grid(16, FRAME_HW, "cpu")
    points = choose_points(grid, make_embedding(), FRAME_HW, share=1 / 16, place_weight=2.0)
    shares = points.xy / torch.tensor([1024.0, 768.0])
    distances = torch.cdist(shares, shares).fill_diagonal_(1)
    assert distances.min() > 0.15, "sixteen random points would lie closer"


@pytest.mark.parametrize("share", [1.0, 0.999])
def test_all_points_of_a_whole_grid_are_prompts(share: float) -> None:
    grid = build_grid(4, FRAME_HW, "cpu")
    points = choose_points(grid, make_embedding(), FRAME_HW, share, place_weight=2.0)
    assert points.prompted.tolist() == points.representative.tolist() == list(range(16))


def test_at_least_one_point_is_a_prompt() -> None:
    grid = build_grid(2, FRAME_HW, "cpu")
    points = choose_points(grid, make_embedding(), FRAME_HW, share=0.01, place_weight=2.0)
    assert len(points.prompted) == 1
    assert points.representative.tolist() == [0] * 4


def test_an_embedding_without_padding_gives_the_same_points() -> None:
    grid = build_grid(10, FRAME_HW, "cpu")
    embedding = torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(3))
    whole = choose_points(grid, embedding, FRAME_HW, share=0.5, place_weight=2.0)
    cut = choose_points(grid, embedding[:, :, :48], FRAME_HW, share=0.5, place_weight=2.0)
    assert whole.prompted.tolist() == cut.prompted.tolist()
