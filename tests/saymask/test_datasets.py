"""Readers of published datasets: layouts, and files that are damaged or hostile."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pycocotools import mask as coco

from saymask.datasets import load_dataset
from saymask.errors import DatasetError, ImageUnreadable
from saymask.masks import decode_coco_rle
from saymask_backend.export.upright import read_upright
from tests.natural import EXPRESSIONS, write_set
from tests.refcoco import SIZE_HW, square, write_images, write_refcoco


def test_refcoco_layout(tmp_path: Path) -> None:
    dataset = load_dataset("refcoco", write_refcoco(tmp_path), "val")
    assert [image.path.name for image in dataset.images] == ["p0.jpg", "p1.jpg"]
    cat, dog = dataset.images[0].expressions
    assert (cat.text, cat.category, dog.text, dog.category) == ("THE CAT", "cat", "THE DOG", "dog")
    # Two polygons of one object overlap: the overlap belongs to it.
    polygons = [[2, 4, 18, 4, 18, 20, 2, 20], [10, 10, 26, 10, 26, 26, 10, 26]]
    parts = [coco.decode(coco.frPyObjects([p], *SIZE_HW))[..., 0].astype(bool) for p in polygons]
    np.testing.assert_array_equal(decode_coco_rle(cat.target), parts[0] | parts[1])
    np.testing.assert_array_equal(decode_coco_rle(dog.target), square(40, 8, 20))
    assert load_dataset("refcoco", tmp_path, "val", limit=1).count == 2


def test_grefcoco_layout(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path, "grefcoco")
    path = root / "grefcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    path.unlink()
    refs[0]["ann_id"] = [0, 1]
    refs[1]["ann_id"] = [-1]
    (root / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs), encoding="utf-8")
    both, none = load_dataset("grefcoco", root, "val").images[0].expressions
    instances = load_dataset("grefcoco", root, "val").images[0].instances
    union = decode_coco_rle(instances[0].mask) | decode_coco_rle(instances[1].mask)
    np.testing.assert_array_equal(decode_coco_rle(both.target), union)
    assert not decode_coco_rle(none.target).any()
    assert none.category is None


def test_phrasecut_layout(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["7.jpg"])
    task = {
        "task_id": "7__1", "image_id": 7, "ann_ids": [1, 2], "phrase": "white cups",
        "instance_boxes": [], "phrase_structure": {"name": "cups"},
        "Polygons": [[[[2, 2], [10, 2], [10, 10], [2, 10]]], [[[30, 30], [40, 30], [40, 40]]]],
    }  # fmt: skip
    (tmp_path / "refer_miniv.json").write_text(json.dumps([task]), encoding="utf-8")
    sizes = [{"image_id": 7, "height": 48, "width": 64}]
    (tmp_path / "image_data_split.json").write_text(json.dumps(sizes), encoding="utf-8")
    (expression,) = load_dataset("phrasecut", tmp_path, "miniv").images[0].expressions
    target = decode_coco_rle(expression.target)
    assert (expression.text, expression.category) == ("white cups", "cups")
    assert target[5, 5]
    assert target[31, 38]
    assert not target[20, 20]
    with pytest.raises(DatasetError, match="miniv"):
        load_dataset("phrasecut", tmp_path, "val")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    path = root / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps([Hostile(tmp_path / "owned")], protocol=2))
    with pytest.raises(DatasetError, match=r"refs\(unc\)\.p was refused.*mkdir"):
        load_dataset("refcoco", root, "val")
    assert not (tmp_path / "owned").exists()


def test_what_is_wrong_is_named_with_its_file(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    with pytest.raises(DatasetError, match=r"no split 'testC'.*train, val"):
        load_dataset("refcoco", root, "testC")
    with pytest.raises(DatasetError, match="Unknown dataset"):
        load_dataset("coco", root, "val")
    with pytest.raises(DatasetError, match="no folder"):
        load_dataset("refcoco", root / "nowhere", "val")
    with pytest.raises(DatasetError, match=r"refs\(umd\)\.p"):
        load_dataset("refcocog", root, "val")
    path = root / "refcoco" / "refs(unc).p"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"refs\(unc\)\.p was refused"):
        load_dataset("refcoco", root, "val")
    path.write_bytes(whole)
    for name in ("p0.jpg", "p1.jpg"):
        (root / "images/mscoco/images/train2014" / name).unlink()
    with pytest.raises(DatasetError, match=r"No image exists: 2 missing, first p0\.jpg"):
        load_dataset("refcoco", root, "val")


def check_left_out(root: Path, reason: str) -> None:
    """Of two photos, the first is left out and named, and the second can be used."""
    dataset = load_dataset("refcoco", root, "val")
    assert [image.path.name for image in dataset.images] == ["p1.jpg"]
    (line,) = dataset.left_out
    assert re.search(reason, line), line


def test_a_missing_photo_leaves_out_itself_alone(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    (root / "images/mscoco/images/train2014/p0.jpg").unlink()
    check_left_out(root, r"p0\.jpg is missing")


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [48, 64], "counts": "###"},
        {"size": [20, 20], "counts": [0, 400]},
        {"size": [48, 64], "counts": [0, 5]},
        [],
        [[1, 2]],
        None,
        {"size": [48, 64], "counts": [2**63 - 1, 2**63 - 1, 3074]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        [[0, 0, 4e8, 0, 0, 4e8]],
    ],
)
def test_a_broken_mask_leaves_out_its_photo_alone(broken: Any, tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"][1]["segmentation"] = broken
    path.write_text(json.dumps(content), encoding="utf-8")
    check_left_out(root, r"annotation 1 in .*instances\.json")


def test_a_broken_mask_nobody_speaks_of_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_refcoco(tmp_path)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"].append({**content["annotations"][0], "id": 99, "segmentation": [[1]]})
    content["annotations"][0]["segmentation"].append([5, 5, 6, 6])
    path.write_text(json.dumps(content), encoding="utf-8")
    image = load_dataset("refcoco", root, "val").images[0]
    assert len(image.instances) == 2
    assert "annotation 99" in caplog.text
    assert "1 polygons without area left out" in caplog.text


def change_tables(root: Path, change: Any) -> None:
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_two_photos_of_one_name_are_refused(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    change_tables(root, lambda c: c["images"][1].update(file_name="x/p0.jpg"))
    with pytest.raises(DatasetError, match=r"2 images are named p0\.jpg"):
        load_dataset("refcoco", root, "val")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["images"][0].update(height=10**6), "size of 1000000"),
        (lambda c: c["images"][0].update(height="x"), "Image 0 of .*ValueError"),
        (lambda c: c["annotations"].pop(0), "Image 0 of .*KeyError"),
        (lambda c: c["images"].pop(0), "Image 0 of .* is not in .*instances.json"),
    ],
)
def test_an_entry_that_does_not_fit_leaves_out_its_photo_alone(
    change: Any, reason: str, tmp_path: Path
) -> None:
    root = write_refcoco(tmp_path)
    change_tables(root, change)
    check_left_out(root, reason)


def test_a_photo_of_another_size_leaves_out_itself_alone(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    path = root / "images/mscoco/images/train2014/p0.jpg"
    Image.new("RGB", (32, 32)).save(path)
    check_left_out(root, r"p0\.jpg is \(32, 32\), annotated as \(48, 64\)")
    path.write_bytes(b"no image")
    check_left_out(root, r"p0\.jpg is not an image")


@pytest.mark.parametrize("error", [struct.error, TypeError, KeyError, SyntaxError])
def test_whatever_pillow_raises_about_a_photo_concerns_it_alone(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_refcoco(tmp_path)
    path = root / "images/mscoco/images/train2014/p0.jpg"
    original = Image.Image.getexif

    def getexif(image: Image.Image) -> Any:
        if image.filename in (str(path), ""):
            raise error("odd block")
        return original(image)

    monkeypatch.setattr(JpegImageFile, "getexif", getexif)
    check_left_out(root, r"p0\.jpg is not an image: The photo is damaged")
    with pytest.raises(ImageUnreadable, match="odd block"):
        read_upright(path.read_bytes())


def test_natural_expressions_become_a_set(tmp_path: Path) -> None:
    """The first of them, for a photo that stands in for COCO's."""
    item = json.loads(EXPRESSIONS.read_text("utf-8"))["expressions"][0]
    root = tmp_path / "root"
    (root / "refcoco").mkdir(parents=True)
    (root / "images").mkdir()
    Image.new("RGB", (40, 30)).save(root / "images" / "x.jpg")
    (root / "refcoco" / "instances.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": item["image_id"], "file_name": "x.jpg", "height": 30, "width": 40}
                ],
                "annotations": [
                    {
                        "id": item["ann_id"], "image_id": item["image_id"], "category_id": 1,
                        "segmentation": [[1, 1, 20, 1, 20, 20, 1, 20]],
                    }
                ],
                "categories": [{"id": 1, "name": "person"}],
            }
        )
    )  # fmt: skip
    assert write_set(root, tmp_path / "set") == 1
    (image,) = load_dataset("refcoco", tmp_path / "set", "val").images
    assert [(e.text, e.kind) for e in image.expressions] == [(item["sent"], item["kind"])]


def test_natural_expressions_are_of_four_kinds_and_none_twice() -> None:
    items = json.loads(EXPRESSIONS.read_text("utf-8"))["expressions"]
    assert len(items) == 60
    assert {item["kind"] for item in items} == {"clothing", "action", "relation", "indirect"}
    assert len({item["sent"] for item in items}) == len({item["sent_id"] for item in items}) == 60
