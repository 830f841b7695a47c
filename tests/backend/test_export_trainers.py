"""Exports for trainers, read by the steps of each trainer's own reader, written anew."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from saymask.masks import Mask, compute_box_xywh, compute_iou
from saymask_backend.export.model import SPLITS, Split
from saymask_backend.export.outlines import simplify, trace, trace_centres
from saymask_backend.export.plan import parse_split
from saymask_backend.export.run import run_export
from saymask_backend.records.types import RecordView
from tests.backend.exports import (
    CATS,
    HEIGHT,
    NOW,
    WIDTH,
    box,
    export,
    groups,
    odd_records,
    plan,
    read_image,
    record,
    ring,
    to_records,
    truth,
)

Key = tuple[str, str]
PHOTO_CHARS = 32


def target() -> Mask:
    """Two pieces; one has a hole with an island, which has a hole itself."""
    mask = ring()
    mask[12:18, 18:26] = True
    mask[14:16, 20:22] = False
    return mask | box(46, 30, 5, 5)


RECORDS = [
    *CATS,
    *(
        replace(record(number, photo, text, target()), image="/data/upload/same.png")
        for number, photo, text in (
            (8, 4, "Größtes Tier 🦒 <image>"),
            (9, 5, "das größte Tier"),
            (10, 5, "Das Tier <|im_end|>  links"),
        )
    ),
]


def clean(text: str) -> str:
    """What a chat may hold of an expression."""
    return re.sub(r"<(?=image>|video>|\|)", "< ", " ".join(text.split()))


def find_wanted(records: list[RecordView]) -> dict[Key, Mask]:
    return {(sha[:PHOTO_CHARS], clean(text)): mask for (sha, text), mask in truth(records).items()}


def assert_equal_masks(found: dict[Key, Mask], wanted: dict[Key, Mask]) -> None:
    assert found.keys() == wanted.keys()
    for key, mask in wanted.items():
        np.testing.assert_array_equal(found[key], mask, str(key))


def draw(polygons: list[Any], size_hw: tuple[int, int]) -> Mask:
    """Each polygon with its line, by the even-odd rule."""
    canvas = np.zeros(size_hw, np.uint8)
    for polygon in polygons:
        points = np.array([polygon], np.int32)
        cv2.polylines(canvas, points, isClosed=True, color=1, thickness=1)
        cv2.fillPoly(canvas, points, 1)
    return canvas.astype(bool)


def read_lisa(folder: Path, split: Split, encoding: str) -> dict[Key, Mask]:
    """LISA's training and validation sets: JPEGs by name, the JSON next to each."""
    found = {}
    root = folder / "reason_seg" / "saymask"
    assert json.loads((root / "explanatory" / "train.json").read_text(encoding)) == []
    for path in (root / split).glob("*.jpg"):
        photo = cv2.imread(str(path))
        assert photo is not None
        content = json.loads(Path(str(path).replace(".jpg", ".json")).read_text(encoding))
        assert content["is_sentence"] is False
        for shape in content["shapes"]:
            assert not re.search("ignore|flag", shape["label"].lower())
        mask = draw([shape["points"] for shape in content["shapes"]], photo.shape[:2])
        # Of each file training samples among all texts, validation takes the first.
        for text in content["text"] if split == "train" else content["text"][:1]:
            assert text == clean(text)
            key = (path.name.split("-")[0], text)
            assert key not in found
            found[key] = mask
    return found


def read_all_for_lisa(folder: Path, encoding: str = "utf-8") -> dict[Key, Mask]:
    return {k: m for split in SPLITS for k, m in read_lisa(folder, split, encoding).items()}


def read_sa2va(folder: Path) -> dict[Key, Mask]:
    """Sa2VA's fine-tuning: photos by list, for each text the sum of what pycocotools draws."""
    found = {}
    root = folder / "reason_seg" / "saymask"
    for split in SPLITS:
        listed = json.loads((root / f"annotations_{split}.json").read_text("utf-8"))
        for item in listed:
            with Image.open(root / split / item["image"]) as photo:
                width, height = photo.size
            for segments, text in zip(item["mask"], item["text"], strict=True):
                canvas = np.zeros((height, width), np.uint8)
                for segment in segments:
                    drawn = coco_mask.decode(coco_mask.frPyObjects([segment], height, width))
                    canvas += drawn.squeeze()
                key = (item["image"].split("-")[0], text)
                assert key not in found
                found[key] = canvas.astype(bool)
    return found


@settings(max_examples=300, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
@example(target())
def test_outlines_through_pixel_centres_are_drawn_as_the_mask(mask: Mask) -> None:
    np.testing.assert_array_equal(draw(trace_centres(mask), mask.shape), mask)


@pytest.mark.parametrize(
    ("split", "encoding"), [("1/0/0", "utf-8"), ("0/1/0", "cp1252"), ("0/0/1", "ascii")]
)
def test_lisa_and_sa2va_read_exact_masks_and_texts_in_any_encoding(
    split: str, encoding: str, tmp_path: Path
) -> None:
    asked = plan("reasonseg", tmp_path / "out", split=parse_split(split, 0))
    summary = export(RECORDS, asked)
    found = read_all_for_lisa(tmp_path / "out", encoding)
    wanted = find_wanted(RECORDS)
    assert_equal_masks(read_sa2va(tmp_path / "out"), found)
    nothing = {key: found.pop(key) for key in found.keys() - wanted.keys()}
    assert {text for _, text in nothing} == {"a unicorn"}
    assert not any(mask.any() for mask in nothing.values())
    assert_equal_masks(found, wanted)
    assert (summary.converted, summary.no_referent) == (5, 1)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["photos_converted_to_jpeg"] == {"count": 5, "jpeg_quality": 95}


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items=odd_records)
def test_lisa_gets_every_record(items: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("x") / "out"
    export(to_records(items), plan("reasonseg", out))
    assert_equal_masks(read_all_for_lisa(out), find_wanted(to_records(items)))
    assert_equal_masks(read_sa2va(out), find_wanted(to_records(items)))


def test_photos_for_lisa_look_the_same(tmp_path: Path) -> None:
    asked = plan("reasonseg", tmp_path / "out", split=parse_split("1/0/0", 0))
    export(CATS[:1], asked)
    (path,) = (tmp_path / "out" / "reason_seg" / "saymask" / "train").glob("*.jpg")
    original = np.asarray(Image.open(io.BytesIO(read_image(CATS[0]))), int)
    assert np.abs(np.asarray(Image.open(path), int) - original).max() <= 2
    export(CATS[:1], plan("reasonseg", tmp_path / "none", images="none"))
    assert not list((tmp_path / "none").rglob("*.jpg"))


def test_a_photo_that_cannot_become_a_jpeg_is_left_out_and_named(tmp_path: Path) -> None:
    odd = b"no photo"
    views = [
        *CATS,
        replace(CATS[0], id=99, task_id=99, image_sha256=hashlib.sha256(odd).hexdigest()),
    ]
    asked = plan("reasonseg", tmp_path / "out", skip_missing=True)

    def read(view: RecordView) -> bytes:
        return odd if view.id == 99 else read_image(view)

    summary = run_export(asked, groups(views), read, tmp_path / "photos", lambda _: None)
    assert summary.photos == 3
    assert summary.failed == ("record 99: The file is not an image that saymask can read.",)


def read_qwen(folder: Path) -> dict[Key, list[dict[str, Any]]]:
    """Qwen's fine-tuning: each ``<image>`` of a question takes a photo below ``data_path``."""
    found = {}
    ids = set()
    for split in SPLITS:
        for line in (folder / f"{split}.jsonl").read_text("cp1252").splitlines():
            sample = json.loads(line)
            human, answer = sample["conversations"]
            assert (human["from"], answer["from"]) == ("human", "gpt")
            before, question = human["value"].split("<image>")
            assert before == ""
            assert not re.search(r"<image>|<video>|<\|", question + answer["value"])
            with Image.open((folder / sample["image"]).resolve()) as photo:
                assert photo.size == (sample["width"], sample["height"])
            wanted = "\nLocate (.*), output its bbox (?:and polygon )?coordinates in JSON format."
            text = re.fullmatch(wanted, question)
            assert text
            objects = json.loads(answer["value"])
            assert all(one["label"] == text[1] for one in objects)
            found[Path(sample["image"]).stem, text[1]] = objects
            ids.add(sample["id"])
    assert len(ids) == len(found)
    return found


def find_boxes(records: list[RecordView]) -> dict[Key, list[list[int]]]:
    """Photo and expression to boxes xyxy of the objects, of the records as they are."""
    parts = {"both cats": [box(2), box(30)]}
    found: dict[Key, list[list[int]]] = {}
    for (photo, text), mask in find_wanted(records).items():
        boxes = [compute_box_xywh(one) for one in parts.get(text, [mask])]
        found[photo, text] = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    for view in records:
        if view.coco_rle is None:
            found[str(view.image_sha256)[:PHOTO_CHARS], clean(view.expression)] = []
    return found


def test_qwen_reads_boxes_in_pixels(tmp_path: Path) -> None:
    export(RECORDS, plan("grounding", tmp_path / "out"))
    found = read_qwen(tmp_path / "out")
    boxes = {key: [one["bbox_2d"] for one in objects] for key, objects in found.items()}
    assert boxes == find_boxes(RECORDS)
    assert {len(some) for some in boxes.values()} == {0, 1, 2}


def test_qwen_reads_boxes_in_thousandths(tmp_path: Path) -> None:
    export(RECORDS, plan("grounding", tmp_path / "out", coordinates="thousandths"))
    wanted = find_boxes(RECORDS)
    found = read_qwen(tmp_path / "out")
    assert found.keys() == wanted.keys()
    for key, objects in found.items():
        for one, xyxy in zip(objects, wanted[key], strict=True):
            assert all(0 <= value <= 1000 for value in one["bbox_2d"])
            back = np.array(one["bbox_2d"]) / 1000 * (WIDTH, HEIGHT, WIDTH, HEIGHT)
            np.testing.assert_allclose(back, xyxy, atol=0.0005 * WIDTH)


@pytest.mark.parametrize("coordinates", ["pixels", "thousandths"])
def test_qwen_reads_outlines_without_holes(coordinates: str, tmp_path: Path) -> None:
    views = [record(1, 1, "the ring", ring()), record(2, 1, "two boxes", box(2) | box(42))]
    asked = plan("grounding", tmp_path / "out", coordinates=coordinates, polygons=True)
    export(views, asked)
    scale = 1 if coordinates == "pixels" else np.array([WIDTH, HEIGHT]) / 1000
    found = {}
    for (_, text), (one,) in read_qwen(tmp_path / "out").items():
        canvas = np.zeros((HEIGHT, WIDTH), bool)
        for polygon in one["polygons_2d"]:
            corners = np.array(polygon).reshape(-1, 2) * scale
            # Outlines run along the edges of pixels.
            inside = [
                (x, y)
                for y in range(HEIGHT)
                for x in range(WIDTH)
                if cv2.pointPolygonTest(corners.astype(np.float32), (x + 0.5, y + 0.5), False) > 0
            ]
            canvas[tuple(np.array(inside)[:, ::-1].T)] = True
        found[text] = canvas
    filled = ring()
    filled[10:20, 15:30] = True
    np.testing.assert_array_equal(found["the ring"], filled)
    np.testing.assert_array_equal(found["two boxes"], box(2) | box(42))


def test_outlines_of_large_objects_have_few_corners() -> None:
    y, x = np.mgrid[:400, :600]
    disc = ((x - 300) / 250) ** 2 + ((y - 200) / 150) ** 2 < 1
    (outline,), _ = trace(disc)
    simple = simplify(outline)
    assert len(simple) < len(outline) / 10
    drawn = draw([np.round(np.array(simple).reshape(-1, 2) - 0.5)], disc.shape)
    assert compute_iou(drawn, disc) > 0.97
    square = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert simplify(square) == square, "a single pixel stays one"


def read_tao(folder: Path) -> dict[str, dict[str, Any]]:
    """TAO's auto-label: records of all files joined by ``image_id``, boxes cut to the photo."""
    joined: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        path = folder / split / "annotations.jsonl"
        for line in path.read_text("utf-8").splitlines():
            entry = json.loads(line)
            assert entry["image_id"] == Path(entry["image_path"]).stem
            assert entry["image_id"] not in joined, "the later one would replace it"
            with Image.open(folder / entry["image_path"]) as photo:
                assert photo.size == (entry["width"], entry["height"])
            instances = (one for e in entry["expressions"] for one in e["instances"])
            for one in (*entry["regions"], *instances):
                left, top, right, bottom = one["bbox"]
                assert 0 <= left < right <= entry["width"]
                assert 0 <= top < bottom <= entry["height"]
            joined[entry["image_id"]] = entry
    return joined


@pytest.mark.parametrize("order", [1, -1])
def test_tao_reads_expressions_and_regions(order: int, tmp_path: Path) -> None:
    views = [replace(v, decided_at=NOW + order * timedelta(minutes=v.id)) for v in RECORDS]
    export(views, plan("tao", tmp_path / "out"))
    entries = read_tao(tmp_path / "out")
    assert len(entries) == 5
    found, ids = {}, []
    for photo, entry in entries.items():
        regions = [region["bbox"] for region in entry["regions"]]
        for expression in entry["expressions"]:
            boxes = [one["bbox"] for one in expression["instances"]]
            assert all(xyxy in regions for xyxy in boxes)
            found[photo, clean(expression["text"])] = boxes
            ids.append(expression["expression_id"])
    assert found == find_boxes(RECORDS)
    assert len(set(ids)) == len(ids)
    (photo,) = (p for p, text in found if text == "both cats")
    # "the left cat" is one of "both cats": one region, with its own description.
    described = {tuple(r["bbox"]): r["description"] for r in entries[photo]["regions"]}
    assert described == {(2, 5, 12, 13): "the left cat", (30, 5, 40, 13): ""}
    texts = {e["text"] for entry in entries.values() for e in entry["expressions"]}
    assert "Größtes Tier 🦒 <image>" in texts, "TAO puts nothing in the place of marks"


def test_an_expression_with_two_answers_gives_two_samples(tmp_path: Path) -> None:
    views = [
        record(1, 1, "the cat", box(2), annotator="1"),
        record(2, 1, "the cat", box(30), annotator="2"),
    ]
    for format_, name in (("grounding", "{}.jsonl"), ("tao", "{}/annotations.jsonl")):
        out = tmp_path / format_
        export(views, plan(format_, out, merge="all"))
        text = "".join((out / name.format(split)).read_text("ascii") for split in SPLITS)
        ids = re.findall(r'"(?:id|expression_id)": "(?:expr_)?([0-9a-f]{12})"', text)
        assert len(set(ids)) == 2
