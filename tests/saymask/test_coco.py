"""COCO instances files as other tools write them; what is odd is left out and named."""

from __future__ import annotations

import codecs
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as coco

from saymask.datasets import load_coco, load_dataset
from saymask.errors import DatasetError
from saymask.masks import decode_coco_rle, encode_coco_rle
from tests.refcoco import SIZE_HW, square, write_refcoco

HEIGHT, WIDTH = SIZE_HW
TRIANGLE = [10, 10, 40, 10, 10, 40]


def build_image(number: Any, file_name: str) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH}


def build_annotation(number: int, image: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": 0,
        "segmentation": [TRIANGLE], **changes,
    }  # fmt: skip


def write(root: Path, images: list[Any], annotations: list[Any], *names: str) -> Path:
    """Write an instances file, and an image of each name below ``images``."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    categories = [
        {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": None},
        {"id": 4, "name": " "},
    ]  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = root / "annotations" / "instances_default.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    for shade, name in enumerate(names):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0)).save(root / "images" / name)
    return path


def read_masks(root: Path) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Masks by expression, by the image's path below ``images``."""
    return {
        image.path.relative_to(root / "images").as_posix(): {
            expression.text: decode_coco_rle(expression.target) for expression in image.expressions
        }
        for image in load_coco(root).images
    }


def draw(polygon: list[float]) -> NDArray[np.bool_]:
    rle = coco.merge(coco.frPyObjects([polygon], HEIGHT, WIDTH))
    return np.asarray(coco.decode(rle)).astype(bool)


def test_names_have_folders_however_they_are_separated(tmp_path: Path) -> None:
    """Also with folders in front that the dataset does not have; equal names do not meet."""
    names = ["cam1\\0001.png", "cam2/0001.png", "C:\\data\\images\\cam3\\0001.png", "./0002.png"]
    images = [build_image(n, name) for n, name in enumerate(names)]
    masks = [square(n, n, 20) for n in range(len(names))]
    annotations = [
        build_annotation(n, n, segmentation=encode_coco_rle(mask)) for n, mask in enumerate(masks)
    ]
    files = ["cam1/0001.png", "cam2/0001.png", "cam3/0001.png", "0002.png"]
    write(tmp_path, images, annotations, *files, "0001.png")
    read = read_masks(tmp_path)
    assert sorted(read) == sorted(files)
    for name, mask in zip(files, masks, strict=True):
        np.testing.assert_array_equal(read[name]["cat"], mask)


def test_a_name_does_not_lead_out_of_the_dataset(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = ["../secret.png", "..\\..\\secret.png", "images/../../secret.png", "a.png"]
    images = [build_image(n, name) for n, name in enumerate(names)]
    write(root, images, [build_annotation(n, n) for n in range(4)], "a.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "secret.png")
    dataset = load_coco(root)
    assert [image.path.name for image in dataset.images] == ["a.png"]
    assert len(dataset.left_out) == 3
    assert all("secret.png is missing" in line for line in dataset.left_out)


def test_accents_are_found_however_they_are_stored(tmp_path: Path) -> None:
    name = "café.png"
    stored = unicodedata.normalize("NFD", name)
    write(tmp_path, [build_image(1, unicodedata.normalize("NFC", name))], [], stored)
    write(tmp_path, [build_image(1, unicodedata.normalize("NFC", name))], [build_annotation(1, 1)])
    assert len(load_coco(tmp_path).images) == 1


@pytest.mark.parametrize(
    ("of_image", "of_annotation"), [(7, "7"), ("7", 7), (7, 7.0), ("img-7", "img-7"), (" 7", "7")]
)
def test_ids_are_numbers_or_text(of_image: Any, of_annotation: Any, tmp_path: Path) -> None:
    annotation = build_annotation(1, of_annotation, category_id="1")
    write(tmp_path, [build_image(of_image, "a.png")], [annotation], "a.png")
    np.testing.assert_array_equal(read_masks(tmp_path)["a.png"]["cat"], draw(TRIANGLE))


@pytest.mark.parametrize("second", [7, "7"])
def test_two_images_with_one_id_are_refused(second: Any, tmp_path: Path) -> None:
    images = [build_image(7, "a.png"), build_image(second, "b.png")]
    write(tmp_path, images, [build_annotation(1, 7)], "a.png", "b.png")
    with pytest.raises(DatasetError, match=r"Two images in .*default\.json have the id 7"):
        load_coco(tmp_path)


def test_two_categories_with_one_id_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [build_image(7, "a.png")], [build_annotation(1, 7)], "a.png")
    content = json.loads(path.read_text())
    content["categories"].append({"id": 1, "name": "car"})
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"Two categories in .* have the id 1"):
        load_coco(tmp_path)


def test_masks_drawn_with_a_brush_are_no_crowds(tmp_path: Path) -> None:
    """CVAT writes ``iscrowd: 1`` for every mask, and ``attributes`` for every annotation."""
    left, right = (encode_coco_rle(square(x, 5, 20)) for x in (2, 30))
    counts = {"counts": [5 * HEIGHT, 3, HEIGHT * WIDTH - 5 * HEIGHT - 3], "size": [HEIGHT, WIDTH]}
    brush = {"attributes": {"occluded": False}, "iscrowd": 1}
    annotations = [
        build_annotation(1, 1, segmentation=left, iscrowd=1),
        build_annotation(2, 2, segmentation=left, attributes={"occluded": False}),
        build_annotation(3, 2, segmentation=right, **brush),
        build_annotation(4, 2, segmentation=counts, category_id=2, **brush),
    ]
    images = [build_image(1, "a.png"), build_image(2, "b.png")]
    write(tmp_path, images, annotations, "a.png", "b.png")
    dataset = load_coco(tmp_path)
    assert dataset.left_out == ()
    found = {(i.path.name, e.text): len(e.parts) for i in dataset.images for e in i.expressions}
    assert found == {("a.png", "cat"): 1, ("b.png", "cat"): 2, ("b.png", "dog"): 1}


def test_a_crowd_is_left_out_where_single_objects_are_annotated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crowd = build_annotation(2, 1, segmentation=encode_coco_rle(square(0, 0, 40)), iscrowd=1)
    write(tmp_path, [build_image(1, "a.png")], [build_annotation(1, 1), crowd], "a.png")
    np.testing.assert_array_equal(read_masks(tmp_path)["a.png"]["cat"], draw(TRIANGLE))
    assert "1 crowds left out" in caplog.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"segmentation": []}, "it has no mask"),
        ({"segmentation": None}, "it has no mask"),
        ({"segmentation": [[]]}, "no polygon of three points"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon of three points"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "is empty"),
        ({"segmentation": {"size": [9, 9], "counts": [0, 81]}}, "broken"),
        ({"segmentation": [["a", "b"]]}, "broken"),
        ({"segmentation": "x"}, "broken"),
        ({"category_id": None}, "there is no category None"),
        ({"category_id": 99}, "there is no category 99"),
        ({"image_id": 99}, "there is no image 99"),
        ({"image_id": None}, "there is no image None"),
        ({"expressions": [{"text": "cat"}]}, "KeyError 'raw'"),
        ({"expressions": [{"raw": None}]}, "one of its expressions has no text"),
        ({"expressions": [{"raw": " "}]}, "one of its expressions has no text"),
        ({"category_id": 3}, "its category 3 has no name"),
        ({"category_id": 4}, "its category 4 has no name"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_left_out_alone(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    images = [build_image(1, "a.png")]
    annotations = [build_annotation(1, 1), build_annotation(2, 1, **change)]
    write(tmp_path, images, annotations, "a.png")
    np.testing.assert_array_equal(read_masks(tmp_path)["a.png"]["cat"], draw(TRIANGLE))
    (line,) = load_coco(tmp_path).left_out
    assert "annotation 2 in" in line
    assert why in line
    write(tmp_path, images, annotations[1:])
    with pytest.raises(DatasetError, match=r"no annotated object.*annotation 2"):
        load_coco(tmp_path)


def test_missing_keys_and_entries_that_are_no_objects(tmp_path: Path) -> None:
    whole = build_annotation(1, 1)
    partial = [{k: v for k, v in whole.items() if k != key} for key in whole]
    write(tmp_path, [build_image(1, "a.png")], [*partial, None, 3], "a.png")
    dataset = load_coco(tmp_path)
    (expression,) = dataset.images[0].expressions
    assert len(expression.parts) == 2, "neither id nor iscrowd is needed"
    assert len(dataset.left_out) == 5


@pytest.mark.parametrize("folder", ["data", "images", "train", "images/train", "."])
def test_images_lie_where_other_tools_put_them(folder: str, tmp_path: Path) -> None:
    path = write(tmp_path, [build_image(1, "a.png")], [build_annotation(1, 1)], "a.png")
    path.rename(path.with_name("instances_train.json"))
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "images" / "a.png").rename(tmp_path / folder / "a.png")
    (image,) = load_coco(tmp_path).images
    assert image.path == tmp_path / folder / "a.png"


def test_entries_without_an_id_are_left_out_alone(tmp_path: Path) -> None:
    image = build_image(1, "a.png")
    images = [None, {"file_name": "b.png"}, {**image, "id": None}, image]
    path = write(tmp_path, images, [build_annotation(1, 1)], "a.png")
    content = json.loads(path.read_text())
    content["categories"] += [{"name": "bird"}, "bird"]
    path.write_text(json.dumps(content))
    dataset = load_coco(tmp_path)
    assert [image.path.name for image in dataset.images] == ["a.png"]
    assert len(dataset.left_out) == 5
    assert all("has no id" in line for line in dataset.left_out)


def test_an_image_that_cannot_be_used_is_left_out_alone(tmp_path: Path) -> None:
    names = ["a.png", "missing.png", "text.png", "small.png", "x" * 300 + ".png", "caf\udce9.png"]
    images = [build_image(n, name) for n, name in enumerate(names)]
    images += [{"id": 6, "file_name": "a.png"}, {**build_image(7, "a.png"), "height": 0}]
    write(tmp_path, images, [build_annotation(n, n) for n in range(8)], "a.png")
    (tmp_path / "images" / "text.png").write_text("no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "small.png")
    dataset = load_coco(tmp_path)
    assert [image.path.name for image in dataset.images] == ["a.png"]
    assert len(dataset.left_out) == 7
    told = "\n".join(dataset.left_out)
    for part in ("missing.png is missing", "text.png is not an image", "small.png is (9, 9)",
                 "a name of 304 characters", "caf\\xe9.png: its name is not UTF-8",
                 "Image 6 in", "has no height and no width", "size of 0 x 64"):  # fmt: skip
        assert part in told


@pytest.mark.parametrize(
    "segmentation",
    [
        TRIANGLE,
        [TRIANGLE],
        [[10, 10], [40, 10], [10, 40]],
        [[[10, 10], [40, 10], [10, 40]]],
    ],
)
def test_a_polygon_may_be_written_in_four_ways(segmentation: Any, tmp_path: Path) -> None:
    annotation = build_annotation(1, 1, segmentation=segmentation)
    write(tmp_path, [build_image(1, "a.png")], [annotation], "a.png")
    np.testing.assert_array_equal(read_masks(tmp_path)["a.png"]["cat"], draw(TRIANGLE))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", [build_image(1, "a.png")], [build_annotation(1, 1)], "a.png")
    path.write_text(path.read_text("utf-8"), encoding=encoding)
    assert load_coco(tmp_path / "a").count == 1
    root = write_refcoco(tmp_path / "b")
    instances = root / "refcoco" / "instances.json"
    instances.write_bytes(codecs.BOM_UTF8 + instances.read_bytes())
    assert load_dataset("refcoco", root, "val").count == 4


def turn(path: Path, orientation: int) -> None:
    """Say in EXIF how an image is to be turned."""
    with Image.open(path) as image:
        image.load()
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_lie_on_the_upright_photo(
    orientation: int, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether they were drawn on it or on the stored one, as their size tells."""
    caplog.set_level(logging.WARNING)
    drawn = square(4, 30, 10)
    annotation = build_annotation(1, 1, segmentation=encode_coco_rle(drawn))
    name = f"a.{suffix}"
    path = write(tmp_path, [build_image(1, name)], [annotation], name)
    turn(tmp_path / "images" / name, orientation)
    stored = Image.fromarray(drawn)
    stored.getexif()[0x0112] = orientation
    is_quarter = orientation >= 5
    expected = np.array(ImageOps.exif_transpose(stored)) if is_quarter else drawn
    (image,) = load_coco(tmp_path).images
    (expression,) = image.expressions
    assert image.size_hw == expected.shape
    np.testing.assert_array_equal(decode_coco_rle(expression.target), expected)
    np.testing.assert_array_equal(decode_coco_rle(expression.parts[0]), expected)
    assert ("turned upright" in caplog.text) == is_quarter
    assert ("sizes cannot tell" in caplog.text) == (orientation in (2, 3, 4))
    if is_quarter:
        content = json.loads(path.read_text())
        content["images"][0].update(height=WIDTH, width=HEIGHT)
        content["annotations"][0]["segmentation"] = encode_coco_rle(expected)
        path.write_text(json.dumps(content))
        np.testing.assert_array_equal(read_masks(tmp_path)[name]["cat"], expected)


def test_the_masks_of_refcoco_lie_on_the_upright_photo_too(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    before = load_dataset("refcoco", root, "val").images[0]
    turn(root / "images/mscoco/images/train2014/p0.jpg", 6)
    after = load_dataset("refcoco", root, "val").images[0]
    assert after.size_hw == (WIDTH, HEIGHT)
    for masks in (
        [(b.target, a.target) for b, a in zip(before.expressions, after.expressions, strict=True)],
        [(b.mask, a.mask) for b, a in zip(before.instances, after.instances, strict=True)],
    ):
        for stored, upright in masks:
            expected = np.rot90(decode_coco_rle(stored), -1)
            np.testing.assert_array_equal(decode_coco_rle(upright), expected)


def test_images_without_annotations_come_on_request(tmp_path: Path) -> None:
    images = [build_image(1, "a.png"), build_image(2, "b.png"), build_image(3, "missing.png")]
    write(tmp_path, images, [build_annotation(1, 1)], "a.png", "b.png")
    assert [image.path.name for image in load_coco(tmp_path).images] == ["a.png"]
    dataset = load_coco(tmp_path, with_unannotated=True)
    assert [(i.path.name, len(i.expressions)) for i in dataset.images] == [
        ("a.png", 1),
        ("b.png", 0),
    ]
    assert len(dataset.left_out) == 1


def test_tables_of_refcoco_with_ids_of_both_kinds(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    before = load_dataset("refcoco", root, "val")
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry.update(image_id=str(entry["image_id"]), id=str(entry["id"]))
    content["annotations"].append({"id": 98, "image_id": 0, "category_id": None})
    path.write_text(json.dumps(content))
    assert load_dataset("refcoco", root, "val") == before
    content["images"].append({**content["images"][0], "file_name": "other.jpg"})
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"Two images in .* have the id 0"):
        load_dataset("refcoco", root, "val")
    content["images"].pop()
    content["annotations"].append({**content["annotations"][0], "segmentation": [TRIANGLE]})
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"Two annotations in .* have the id 0"):
        load_dataset("refcoco", root, "val")
