"""Selecting among masks: equal to pycocotools, and what stays is what should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.resize import draw_at_original_size, to_original_size
from saymask_worker.masks.decoder import SelectedMasks
from saymask_worker.masks.filters import (
    SeenMasks,
    compute_boxes_xyxy,
    compute_pairwise_iou,
    compute_stability,
    suppress_duplicates,
)
from saymask_worker.masks.point_prompts import PointPrompts, prompt_every
from saymask_worker.masks.votes import count_votes


def test_a_mask_seen_before_is_skipped_unless_it_is_better() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 10:30, 10:30] = True
    almost, other, tiny = mask.clone(), mask.clone(), torch.zeros_like(mask)
    almost[:, 10, 10:14] = False
    other[:, 10:14] = False
    tiny[:, 40:44, 40:44] = True
    seen = SeenMasks(CONFIG)
    seen.add(mask[:0], torch.zeros(0))
    both = torch.cat([mask, almost, other])
    assert seen.select_new(both, torch.tensor([0.8, 0.9, 0.7])).tolist() == [1, 2]
    seen.add(almost, torch.tensor([0.9]))
    assert seen.select_new(both, torch.tensor([0.91, 0.9, 0.7])).tolist() == [2]
    assert seen.select_new(mask, torch.tensor([0.95])).tolist() == [0]
    # Of masks this small, coarse masks do not say that they are the same.
    seen.add(tiny, torch.tensor([0.9]))
    assert seen.select_new(tiny, torch.tensor([0.5])).tolist() == [0]
    many = torch.rand(300, 64, 64) > 0.5
    seen.add(many, torch.full((300,), 0.9))
    assert seen.select_new(many[:200], torch.full((200,), 0.8)).tolist() == []
    assert seen.select_new(mask, torch.tensor([0.9])).tolist() == []


def test_many_masks_at_once_are_remembered_before_any_other() -> None:
    """A GPU's first batch of prompts gives more masks than there is room for at first."""
    many = torch.rand(200, 64, 64) > 0.5
    seen = SeenMasks(CONFIG)
    seen.add(many, torch.full((200,), 0.9))
    assert seen.select_new(many, torch.full((200,), 0.8)).tolist() == []


CONFIG = ProposalsConfig()

masks_strategy = st.tuples(st.integers(1, 5), st.integers(2, 12), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.bool_, shape)
)


@given(masks_strategy)
def test_overlaps_and_boxes_equal_pycocotools(masks: np.ndarray) -> None:
    masks[:, 0, 0] = True
    encoded = [coco.encode(np.asfortranarray(mask)) for mask in masks]
    expected = coco.iou(encoded, encoded, [0] * len(masks))
    tensor = torch.from_numpy(masks)
    assert np.allclose(compute_pairwise_iou(tensor).numpy(), expected, atol=1e-6)
    assert np.allclose(compute_geometry(masks).iou, expected, atol=1e-6)
    boxes = compute_boxes_xyxy(tensor).numpy()
    theirs = coco.toBbox(encoded)
    theirs[:, 2:] += theirs[:, :2]
    assert np.array_equal(boxes, theirs)


def test_duplicates_go_but_a_shirt_stays_with_its_person() -> None:
    person = torch.zeros(10, 10, dtype=torch.bool)
    person[1:9, 2:8] = True
    shirt = person.clone()
    shirt[1:4] = False
    twin = person.clone()
    twin[1, 2] = False
    kept = suppress_duplicates(
        torch.stack([twin, person, shirt]), torch.tensor([0.8, 0.9, 0.7]), 0.85
    )
    assert kept.tolist() == [1, 2]


def test_stability() -> None:
    logits = torch.tensor([[[2.0, 0.5, -0.5, -2.0]], [[-2.0, -2.0, -2.0, -2.0]]])
    assert compute_stability(logits, 1.0).tolist() == pytest.approx([1 / 3, 0.0])


def test_resize_to_original_size_keeps_area_and_place() -> None:
    mask = np.zeros((100, 150), bool)
    mask[20:60, 30:90] = True
    large = to_original_size(mask, (1000, 1500))
    assert large.shape == (1000, 1500)
    assert abs(large.mean() - mask.mean()) < 0.002
    assert large[210:590, 310:890].all()
    assert to_original_size(mask, (100, 150)) is mask


@given(
    arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.tuples(st.integers(1, 600), st.integers(1, 40)),
)
def test_resizing_is_bilinear_though_only_a_box_of_it_is_computed(
    mask: np.ndarray, size_hw: tuple[int, int]
) -> None:
    logits = torch.from_numpy(mask).float()
    whole = F.interpolate(logits[None, None], size_hw, mode="bilinear")[0, 0].numpy()
    is_clear = np.abs(whole - 0.5) > 1e-5
    smooth = to_original_size(mask, size_hw)
    if (whole >= 0.5).any() and mask.shape != size_hw:
        assert np.array_equal(smooth[is_clear], (whole >= 0.5)[is_clear])
    elif mask.shape != size_hw:
        hard = F.interpolate(logits[None, None], size_hw, mode="nearest-exact")[0, 0].numpy()
        assert np.array_equal(smooth, hard > 0)
    drawn = draw_at_original_size(logits - 0.5, size_hw)
    assert np.array_equal(drawn[is_clear], (whole > 0.5)[is_clear])


def cast_votes(masks: torch.Tensor, prompt: list[int], level: list[int]) -> SelectedMasks:
    logits = masks.float() - 0.5
    return SelectedMasks(
        torch.tensor(prompt, dtype=torch.long), torch.tensor(level), torch.ones(len(masks)), logits
    )


def test_votes_tell_objects_from_groups() -> None:
    masks = torch.zeros(3, 8, 12, dtype=torch.bool)
    masks[0, 2:6, 1:5] = True
    masks[1, 2:6, 7:11] = True
    masks[2] = masks[0] | masks[1]
    points = torch.tensor([[2.0, 3.0], [4.0, 5.0], [8.0, 3.0], [10.0, 5.0]])
    # Every point finds its own square as a part, one of four the group of both as a whole.
    votes = cast_votes(masks[[0, 0, 1, 1, 2]], [0, 1, 2, 3, 3], [1, 1, 1, 1, 2])
    share, granularity = count_votes(
        masks, votes, prompt_every(points), (8, 12), CONFIG.vote_iou_min
    )
    assert share.tolist() == pytest.approx([2.5 / 3, 2.5 / 3, 1.5 / 5])
    assert granularity.tolist() == [1, 1, 2]
    none = cast_votes(masks[:0], [], [])
    far = prompt_every(points + 100)
    _, granularity = count_votes(masks, none, far, (8, 12), CONFIG.vote_iou_min)
    assert granularity.tolist() == [1, 1, 1]


def test_points_that_are_no_prompts_vote_like_their_representative() -> None:
    masks = torch.zeros(2, 8, 12, dtype=torch.bool)
    masks[0, 2:6, 1:5] = True
    masks[1, 2:6, 1:11] = True
    points = torch.tensor([[2.0, 3.0], [4.0, 3.0], [4.0, 5.0], [8.0, 3.0], [10.0, 5.0]])
    every = cast_votes(masks[[0, 0, 0, 1, 1]], [0, 1, 2, 3, 4], [1, 1, 1, 2, 0])
    part = PointPrompts(points, torch.tensor([0, 3, 4]), torch.tensor([0, 0, 0, 1, 2]))
    some = cast_votes(masks[[0, 1, 1]], [0, 1, 2], [1, 2, 0])
    whole = count_votes(masks, every, prompt_every(points), (8, 12), CONFIG.vote_iou_min)
    fewer = count_votes(masks, some, part, (8, 12), CONFIG.vote_iou_min)
    for expected, got in zip(whole, fewer, strict=True):
        assert got.tolist() == pytest.approx(expected.tolist())
    assert fewer[0].tolist() == pytest.approx([3.5 / 4, 2.5 / 6])
    outside = PointPrompts(points, torch.tensor([0, 3, 4]), torch.tensor([0, 0, 1, 1, 2]))
    share, _ = count_votes(masks, some, outside, (8, 12), CONFIG.vote_iou_min)
    assert share[0] == pytest.approx(2.5 / 3), "one of its points has its representative outside"
