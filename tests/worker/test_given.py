"""Proposals from files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from saymask.errors import ConfigError
from saymask.masks import encode_coco_rle
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.base import LastImageProposer
from saymask_worker.masks.given import GivenProposer

IMAGE = DecodedImage(np.zeros((40, 60, 3), np.uint8), "a" * 64, name="cat")


def mask_at(x: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[5:20, x : x + 10] = True
    return mask


def write(folder: Path, name: str, rows: object) -> GivenProposer:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return GivenProposer(folder, 2)


@pytest.mark.parametrize("name", ["cat", "a" * 64])
def test_masks_come_back_exactly_by_name_or_hash(name: str, tmp_path: Path) -> None:
    rows = [encode_coco_rle(mask_at(3)) | {"predicted_iou": 0.5}, encode_coco_rle(mask_at(30))]
    proposals = write(tmp_path / "masks", name, rows).propose(IMAGE)
    np.testing.assert_array_equal(proposals.masks, [mask_at(3), mask_at(30)])
    assert proposals.predicted_iou.tolist() == [0.5, 1.0]
    assert proposals.size_hw == (40, 60)


def test_an_empty_list_is_no_proposal_and_large_images_shrink(tmp_path: Path) -> None:
    assert len(write(tmp_path / "a", "cat", []).propose(IMAGE)) == 0
    large = np.zeros((2048, 1024), bool)
    large[:1024, :512] = True
    given = write(tmp_path / "b", "cat", [encode_coco_rle(large)])
    proposals = given.propose(
        DecodedImage(np.zeros((2048, 1024, 3), np.uint8), "b" * 64, name="cat")
    )
    assert proposals.masks.shape == (1, 1024, 512)
    assert proposals.masks.sum() == 512 * 256


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    first = write(tmp_path, "cat", [encode_coco_rle(mask_at(3))])
    assert write(tmp_path, "cat", [encode_coco_rle(mask_at(3))]).fingerprint == first.fingerprint
    assert write(tmp_path, "cat", [encode_coco_rle(mask_at(4))]).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ({"size": 1}, "not a list"),
        ([{"size": [40, 60], "counts": "#"}], "not a list"),
        ([encode_coco_rle(np.ones((4, 6), bool))], r"not a list.*a mask of \[4, 6\]"),
        ([{"size": [10**6, 10**6], "counts": [10**12]}], "not a list.*the photo is"),
        (
            [encode_coco_rle(mask_at(3)) | {"predicted_iou": float("nan")}],
            "not a list.*a finite number",
        ),
    ],
)
def test_a_damaged_file_is_named(rows: object, match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"cat\.json .*{match}"):
        write(tmp_path, "cat", rows).propose(IMAGE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    rows = json.dumps([encode_coco_rle(mask_at(3))])
    (tmp_path / "cat.json").write_text(rows, encoding=encoding)
    assert len(GivenProposer(tmp_path, 2).propose(IMAGE)) == 1


def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.json", "w") as file:
        file.write("[]")
    image = DecodedImage(np.zeros((40, 60, 3), np.uint8), "a" * 64, name=os.fsdecode(b"caf\xe9"))
    assert len(GivenProposer(tmp_path, 2).propose(image)) == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        GivenProposer(tmp_path, 2)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no proposals"):
        GivenProposer(tmp_path / "nowhere", 2)
    with pytest.raises(ConfigError, match=f"{'a' * 64} or cat"):
        write(tmp_path, "dog", []).propose(IMAGE)


def test_beyond_the_budget_the_first_stay(tmp_path: Path) -> None:
    rows = [encode_coco_rle(mask_at(x)) for x in (3, 20, 40)]
    assert len(write(tmp_path, "cat", rows).propose(IMAGE)) == 2


def test_the_last_image_is_remembered(tmp_path: Path) -> None:
    given = write(tmp_path, "cat", [encode_coco_rle(mask_at(3))])
    once = LastImageProposer(given)
    assert once.propose(IMAGE) is once.propose(IMAGE)
    assert (once.name, once.fingerprint) == ("given", given.fingerprint)
