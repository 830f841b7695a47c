"""Masks as runs: the same pixels and numbers as decoded masks have, and pycocotools."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from saymask.errors import InvalidMask
from saymask.masks import (
    compute_area,
    compute_box_xywh,
    compute_iou,
    decode_brush_rle,
    encode_brush_rle,
    encode_coco_rle,
)
from saymask.runs import MAX_RUNS, find_agreed, read_brush_runs, read_coco_runs, unite
from tests.saymask.test_masks import GOLDEN, masks, special_masks


@given(masks)
def test_runs_are_the_masks_pixels_whichever_way_they_come(mask: np.ndarray) -> None:
    runs = read_coco_runs(encode_coco_rle(mask))
    assert read_brush_runs(encode_brush_rle(mask), mask.shape).equals(runs)
    assert np.array_equal(runs.to_mask(), mask)
    assert runs.to_coco_rle() == encode_coco_rle(mask)
    assert runs.to_brush_rle() == encode_brush_rle(mask)
    assert (runs.starts[1:] > runs.ends[:-1]).all()
    assert bool(runs) == mask.any()


@given(masks)
def test_area_box_and_pixels_are_those_of_the_mask(mask: np.ndarray) -> None:
    runs = read_coco_runs(encode_coco_rle(mask))
    assert runs.area == compute_area(mask) == coco.area(coco.encode(np.asfortranarray(mask)))
    assert runs.box_xywh == compute_box_xywh(mask)
    height, width = mask.shape
    held = [[runs.holds(x, y) for x in range(width)] for y in range(height)]
    assert np.array_equal(held, mask)


@given(masks, st.data())
def test_comparing_and_uniting_equals_pycocotools(mask: np.ndarray, data: st.DataObject) -> None:
    others = data.draw(st.lists(arrays(np.bool_, mask.shape), min_size=1, max_size=4))
    every = [mask, *others]
    runs = [read_coco_runs(encode_coco_rle(m)) for m in every]
    encoded = [coco.encode(np.asfortranarray(m)) for m in every]
    united = unite(runs).to_coco_rle()
    assert united["counts"].encode() == coco.merge(encoded)["counts"]
    common = find_agreed(runs, len(runs)).to_coco_rle()
    assert common["counts"].encode() == coco.merge(encoded, intersect=1)["counts"]
    for least in range(1, len(every) + 1):
        agreed = np.sum(every, axis=0) >= least
        assert np.array_equal(find_agreed(runs, least).to_mask(), agreed)
    for first, second in pairwise(runs):
        expected = compute_iou(first.to_mask(), second.to_mask())
        assert first.compute_iou(second) == pytest.approx(expected)
        assert first.equals(second) == np.array_equal(first.to_mask(), second.to_mask())


@pytest.mark.parametrize("name", special_masks())
def test_special_masks(name: str) -> None:
    mask = special_masks()[name]
    runs = read_brush_runs(encode_brush_rle(mask), mask.shape)
    assert runs.to_coco_rle() == encode_coco_rle(mask)
    assert runs.to_brush_rle() == encode_brush_rle(mask)


@pytest.mark.parametrize("row", GOLDEN["frontend_captures"], ids=lambda row: row["id"])
def test_brush_results_of_the_editor(row: dict) -> None:
    size = (row["height"], row["width"])
    runs = read_brush_runs(row["brush_rle"], size)
    assert np.array_equal(runs.to_mask(), decode_brush_rle(row["brush_rle"], size))


def test_runs_of_no_pixels_are_left_out() -> None:
    runs = read_coco_runs({"size": [2, 3], "counts": [1, 0, 1, 1, 0, 2, 1, 0, 0]})
    assert (runs.starts.tolist(), runs.ends.tolist()) == ([2], [5])


def test_masks_of_two_sizes_have_nothing_in_common() -> None:
    first, second = (read_coco_runs({"size": size, "counts": [6]}) for size in ([2, 3], [3, 2]))
    assert not first.equals(second)
    with pytest.raises(InvalidMask, match="different sizes"):
        first.compute_iou(second)


def test_stripes_are_refused_before_they_take_memory() -> None:
    """A few kilobytes, which column by column would be 67 million runs."""
    side = 11_585
    stripes = np.zeros((side, side), bool)
    stripes[::2] = True
    with pytest.raises(InvalidMask, match=f"the limit is {MAX_RUNS:,}"):
        read_brush_runs(encode_brush_rle(stripes), stripes.shape)


def test_memory_is_that_of_the_runs() -> None:
    """A child process compares two masks of 100 megapixels; one, decoded, has 100 MB."""
    code = """
import resource
import numpy as np
from saymask.masks import pack_brush_rle
from saymask.runs import read_brush_runs
side = 10_000
counts = np.full(18_001, 5_000)
counts[0], counts[-1] = 1_000 * side + 2_000, 3_000
rle = pack_brush_rle((side, side), counts)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first, second = (read_brush_runs(rle, (side, side)) for _ in range(2))
assert first.equals(second) and first.compute_iou(second) == 1.0
assert first.box_xywh == (2_000, 1_000, 5_000, 9_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(finished.stdout) < 40_000
