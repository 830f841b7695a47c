"""Codecs against pycocotools, label_studio_sdk, the recorded examples and themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter import brush
from pycocotools import mask as coco

from saymask.errors import InvalidMask
from saymask.masks import (
    compute_area,
    compute_box_xywh,
    compute_iou,
    decode_brush_alpha,
    decode_brush_rle,
    decode_coco_rle,
    encode_brush_rle,
    encode_coco_rle,
)
from tests.conftest import DATA

GOLDEN = json.loads((DATA / "brush_rle.json").read_text("utf-8"))

masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.bool_, shape)
)


def special_masks() -> dict[str, np.ndarray]:
    hole = np.zeros((50, 60), bool)
    hole[5:45, 5:55] = True
    hole[20:30, 20:30] = False
    rng = np.random.default_rng(0)
    big = np.zeros((3000, 4000), bool)
    big[100:2900, 200:3900] = rng.random((2800, 3700)) > 0.0005
    return {
        "one pixel": np.ones((1, 1), bool),
        "one empty pixel": np.zeros((1, 1), bool),
        "full": np.ones((33, 17), bool),
        "empty": np.zeros((33, 17), bool),
        "hole": hole,
        "noise": rng.random((101, 67)) > 0.5,
        "4000 x 3000": big,
        "long runs": np.ones((700, 900), bool),
    }


@pytest.mark.parametrize("name", special_masks())
def test_coco_rle_equals_pycocotools(name: str) -> None:
    mask = special_masks()[name]
    expected = coco.encode(np.asfortranarray(mask))
    encoded = encode_coco_rle(mask)
    assert encoded == {"size": list(mask.shape), "counts": expected["counts"].decode()}
    assert np.array_equal(decode_coco_rle(encoded), mask)
    assert compute_area(mask) == coco.area(expected)
    if mask.any():
        assert list(compute_box_xywh(mask)) == coco.toBbox(expected).astype(int).tolist()


@given(masks)
def test_coco_rle_round_trip_and_pycocotools_reads_it(mask: np.ndarray) -> None:
    encoded = encode_coco_rle(mask)
    assert np.array_equal(decode_coco_rle(encoded), mask)
    theirs = coco.decode({"size": encoded["size"], "counts": encoded["counts"].encode()})
    assert np.array_equal(theirs.astype(bool), mask)


@given(masks)
@settings(max_examples=50)
def test_brush_rle_equals_label_studio_sdk(mask: np.ndarray) -> None:
    encoded = encode_brush_rle(mask)
    assert encoded == brush.mask2rle(mask.astype(np.uint8) * 255)
    assert np.array_equal(decode_brush_rle(encoded, mask.shape), mask)


@pytest.mark.parametrize("name", special_masks())
def test_brush_rle_round_trip_of_special_masks(name: str) -> None:
    mask = special_masks()[name]
    assert np.array_equal(decode_brush_rle(encode_brush_rle(mask), mask.shape), mask)


@pytest.mark.parametrize("row", GOLDEN["masks"], ids=lambda row: row["name"])
def test_recorded_masks(row: dict) -> None:
    mask = decode_coco_rle(row["coco_rle"])
    assert compute_area(mask) == row["area"]
    assert encode_brush_rle(mask) == row["brush_rle"]
    if "coco_counts_uncompressed" in row:
        plain = {"size": row["coco_rle"]["size"], "counts": row["coco_counts_uncompressed"]}
        assert np.array_equal(decode_coco_rle(plain), mask)


@pytest.mark.parametrize("row", GOLDEN["frontend_captures"], ids=lambda row: row["id"])
def test_brush_results_of_the_editor(row: dict) -> None:
    size = (row["height"], row["width"])
    alpha = decode_brush_alpha(row["brush_rle"], size)
    assert int((alpha > 0).sum()) == row["area_alpha_gt0"]
    expected = {"size": list(size), "counts": row["coco_counts_alpha_ge128"]}
    assert np.array_equal(decode_brush_rle(row["brush_rle"], size), decode_coco_rle(expected))


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [3, 3], "counts": "~~~"},
        {"size": [3, 3], "counts": ""},
        {"size": [3, 3], "counts": [4, 4]},
        {"size": [3, 3], "counts": [-1, 10]},
        {"size": [3, 3], "counts": ["a"]},
        {"size": [0, 3], "counts": [0]},
        {"size": [3], "counts": [9]},
        {"counts": [9]},
        {"size": [3, 3], "counts": 9},
        {"size": [3, 3], "counts": "0" * 30 + "oooooooooooooooo0"},
    ],
)
def test_broken_coco_rle_is_refused(broken: dict) -> None:
    with pytest.raises(InvalidMask):
        decode_coco_rle(broken)


def test_broken_brush_rle_is_refused() -> None:
    good = encode_brush_rle(np.eye(9, dtype=bool))
    for broken in ([], [1, 2], good[:-4], ["x"], [300, *good[1:]]):
        with pytest.raises(InvalidMask):
            decode_brush_rle(broken, (9, 9))
    with pytest.raises(InvalidMask, match="original_width"):
        decode_brush_rle(good, (9, 10))


@given(st.lists(st.integers(0, 255), min_size=7, max_size=60))
def test_random_bytes_never_escape_as_other_errors(data: list[int]) -> None:
    try:
        decode_brush_rle(data, (5, 5))
    except InvalidMask:
        return
    assert int.from_bytes(bytes(data[:4]), "big") == 100


@given(masks, st.data())
def test_iou_equals_pycocotools(mask: np.ndarray, data: st.DataObject) -> None:
    other = data.draw(arrays(np.bool_, mask.shape))
    a, b = (coco.encode(np.asfortranarray(m)) for m in (mask, other))
    expected = coco.iou([a], [b], [0])[0, 0] if (mask | other).any() else 0.0
    assert compute_iou(mask, other) == pytest.approx(expected)


def test_masks_that_are_none_are_refused() -> None:
    for wrong in (np.zeros((3, 3)), np.zeros(3, bool), np.zeros((0, 3), bool)):
        with pytest.raises(InvalidMask):
            encode_coco_rle(wrong)
