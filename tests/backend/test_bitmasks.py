"""Masks as pictures: exact, whoever wrote them; what cannot be read is refused with a reason."""

from __future__ import annotations

import io
import zlib
from base64 import b64decode, b64encode
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from saymask.errors import InvalidMask
from saymask.masks import Mask, decode_coco_rle
from saymask.runs import MAX_RUNS
from saymask_backend.label_studio.label_config import default_label_config, load_label_config
from saymask_backend.label_studio.mask_values import MASK_TAGS, build_mask, read_mask
from saymask_backend.label_studio.schema import BitmaskValue, BrushValue
from saymask_backend.records.stores import Stores
from tests.backend.submissions import A, B, process
from tests.factories import annotation, brush, event, offer, square, to_runs, typed
from tests.saymask.test_masks import masks

ADDRESS = "data:image/png;base64,"
CONFIG = default_label_config("BitmaskLabels")


def to_address(picture: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, options.pop("format", "PNG"), **options)
    return ADDRESS + b64encode(buffer.getvalue()).decode()


def as_edited(mask: Mask) -> str:
    """As the editor writes it after an edit: black with an alpha channel."""
    picture = Image.new("RGBA", mask.shape[::-1])
    picture.putalpha(Image.fromarray(mask.astype(np.uint8) * 255))
    return to_address(picture)


def as_built(mask: Mask) -> str:
    """As saymask writes it."""
    address: str = build_mask("BitmaskLabels", to_runs(mask), "top-1")["value"]["imageDataURL"]
    return address


def read(address: str, size_hw: tuple[int, int]) -> Mask:
    return read_mask(BitmaskValue(imageDataURL=address), size_hw).to_mask()


@given(masks)
def test_the_codec_is_exact_and_others_read_its_pictures(mask: Mask) -> None:
    for tag in MASK_TAGS:
        built = build_mask(tag, to_runs(mask), "top-1")
        kind = tag.lower()
        assert (built["type"], built["value"][kind]) == (kind, ["top-1"])
        model = BrushValue if tag == "BrushLabels" else BitmaskValue
        assert np.array_equal(
            read_mask(model.model_validate(built["value"]), mask.shape).to_mask(), mask
        )
    data = b64decode(built["value"]["imageDataURL"].removeprefix(ADDRESS))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(pixels[..., 3], np.where(mask, 255, 0))
    assert not pixels[..., :3].any(), "black"
    assert np.array_equal(read(as_edited(mask), mask.shape), mask)


def test_only_what_is_opaque_by_half_is_inside() -> None:
    alpha = np.arange(256, dtype=np.uint8).reshape(8, 32)
    white = Image.fromarray(np.full((8, 32), 255, np.uint8))
    picture = Image.merge("LA", (white, Image.fromarray(alpha)))
    assert np.array_equal(read(to_address(picture), (8, 32)), alpha >= 128), "whatever its colour"


def test_a_mask_is_read_over_the_strips_of_its_picture() -> None:
    mask = np.random.default_rng(0).random((700, 30)) > 0.5
    assert np.array_equal(read(as_edited(mask), mask.shape), mask)


LABEL_ALONE = {"type": "bitmasklabels", "value": {"bitmasklabels": ["top-1"]}}
GREY = Image.new("L", (64, 48), 255)
PICTURE = as_edited(A)


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("http://user:secret@files/mask.png", "begins with 'http'"),
        ("/data/upload/1/mask.png", "not a PNG in a data address"),
        ("data:image/jpeg;base64,/9j/", "begins with 'data:image/jpeg'"),
        ("", "not a PNG in a data address"),
        (ADDRESS + "ü", "not base64"),
        (ADDRESS + "AAA", "not base64"),
        (ADDRESS, "not a PNG"),
        (ADDRESS + "AAAA", "not a PNG"),
        (to_address(GREY, format="GIF"), "not a PNG"),
        (PICTURE[: len(ADDRESS) + 100], "damaged"),
        (PICTURE[:80] + "AAAA" + PICTURE[84:], "damaged"),
        (to_address(Image.new("LA", (48, 64))), "64 x 48 pixels .* claims 48 x 64"),
        (to_address(GREY), "no transparent background"),
        (to_address(GREY.convert("RGB")), "no transparent background"),
        (to_address(GREY.convert("1")), "no transparent background"),
    ],
)
def test_what_is_no_bitmask_is_refused_with_its_reason(address: str, cause: str) -> None:
    with pytest.raises(InvalidMask, match=cause) as caught:
        read(address, (48, 64))
    assert caught.value.cure
    assert "secret" not in str(caught.value)


def test_a_picture_too_large_is_refused_before_it_is_decoded() -> None:
    data = bytearray(b64decode(PICTURE.removeprefix(ADDRESS)))
    side = 11_000
    # Width and height lie in the PNG's first chunk, whose checksum follows.
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(InvalidMask, match=r"the limit is 120,000,000"):
        read(ADDRESS + b64encode(data).decode(), (side, side))
    with pytest.raises(InvalidMask, match="11000 x 11000 pixels"):
        read(ADDRESS + b64encode(data).decode(), (48, 64))


@pytest.mark.parametrize("step", [(1, 2), (2, 1)], ids=["columns", "rows"])
def test_stripes_are_refused(step: tuple[int, int]) -> None:
    stripes = np.zeros((1500, 1500), bool)
    stripes[:: step[0], :: step[1]] = True
    with pytest.raises(InvalidMask, match=f"the limit is {MAX_RUNS:,}"):
        read(as_edited(stripes), stripes.shape)


def test_a_config_may_have_either_tag() -> None:
    found = {tag: load_label_config(default_label_config(tag)) for tag in MASK_TAGS}
    assert {tag: config.mask_tag for tag, config in found.items()} == {t: t for t in MASK_TAGS}


def bitmask(region_id: str, address: str | None, origin: str, expression: str) -> list[Any]:
    region, text = brush(region_id, A, "top-1", origin, expression)
    value = {"imageDataURL": address, "bitmasklabels": ["top-1"]}
    return [{**region, "type": "bitmasklabels", "value": value}, text]


def test_records_of_bitmasks(stores: Stores) -> None:
    """Accepted, edited and drawn masks; one odd region keeps no other annotation back."""
    (cat,), (dog,) = (offer(stores, n, text, [A]) for n, text in ((1, "the cat"), (2, "the dog")))
    smaller = square(4, side=6)
    results = {
        1: bitmask(cat, as_built(A), "prediction", "the cat"),
        2: bitmask(dog, as_edited(smaller), "prediction-changed", "the dog"),
        3: bitmask("own", as_edited(B), "manual", "the bird"),
        4: bitmask("odd", "http://files/mask.png", "manual", "the fish"),
        5: bitmask("none", None, "manual", "the cow"),
        6: [
            typed("the end"),
            bitmask("bare", as_edited(B), "manual", "x")[0] | {"type": "bitmask"},
        ],
        # The editor gives the selected label to fields too.
        7: [typed("a tree"), typed("a tree") | LABEL_ALONE],
    }
    bodies = [event(task, annotation(10 + task, result)) for task, result in results.items()]
    for body in bodies:
        body["project"] = {**body["project"], "label_config": CONFIG}
    records = {record.task_id: record for record in process(stores, *bodies)}
    outcomes = {task: record.outcome for task, record in records.items()}
    assert outcomes == {1: "accepted", 2: "edited", 3: "drawn", 6: "drawn", 7: "no_mask"}
    for task, mask in ((1, A), (2, smaller), (3, B), (6, B)):
        coco_rle = records[task].coco_rle
        assert coco_rle is not None
        assert np.array_equal(decode_coco_rle(coco_rle), mask)
    problems = [problem.problem for problem in stores.events.list_problems()]
    assert len(problems) == 2
    assert "Region odd: The mask is not a PNG in a data address" in problems[1]
    assert "Region none" in problems[0]
