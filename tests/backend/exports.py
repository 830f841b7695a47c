"""Records to export, and readers of what was exported by the tools people use."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from saymask.masks import Mask, compute_area, decode_coco_rle, encode_coco_rle
from saymask_backend.export.merge import merge_records
from saymask_backend.export.model import SPLITS
from saymask_backend.export.plan import ExportPlan, parse_split
from saymask_backend.export.run import run_export
from saymask_backend.records.types import RecordView

HEIGHT = 40


WIDTH = 56


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def image_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (number % 256, number // 256, 60)).save(buffer, "PNG")
    return buffer.getvalue()


def record(
    number: int, image: int, expression: str, mask: Mask | None, **fields: Any
) -> RecordView:
    data = image_bytes(image)
    values: dict[str, Any] = {
        "id": number, "annotation_id": number, "project_id": 1, "project_created": 0,
        "task_id": image,
        "decided_at": NOW + timedelta(minutes=number), "image": f"/data/upload/{image}.png",
        "image_sha256": hashlib.sha256(data).hexdigest(), "height_px": HEIGHT, "width_px": WIDTH,
        "expression": expression, "typed_expression": expression,
        "outcome": "accepted" if mask is not None else "no_referent", "request_id": 1,
        "candidate_id": 1, "offered": 3, "rank": 1, "score": 0.5, "iou": 1.0, "first_iou": 1.0,
        "coco_rle": encode_coco_rle(mask) if mask is not None else None,
        "area_px": compute_area(mask) if mask is not None else None, "parts": [],
        "head_noun_phrase": "the cat", "region_ids": ["r"], "dabs": 0, "clicks": 0,
        "annotator": "1",
        "seconds": 9.0, "model_version": "saymask-test", "latency_ms": 40.0,
        "source": "proposals", "notes": [],
    }  # fmt: skip
    return RecordView(**{**values, **fields})


def groups(records: list[RecordView]) -> Iterator[list[RecordView]]:
    """As ``RecordStore.iterate_by_image`` gives them."""
    by_image: dict[str, list[RecordView]] = {}
    for view in records:
        by_image.setdefault(str(view.image_sha256), []).append(view)
    for sha256 in sorted(by_image):
        yield by_image[sha256]


def read_image(view: RecordView) -> bytes:
    return image_bytes(view.task_id)


def plan(format_: str, out: Path, **fields: Any) -> ExportPlan:
    values: dict[str, Any] = {
        "query": {"split": "50/25/25"}, "split": parse_split("50/25/25", 0), "images": "copy",
        "merge": "latest",
    }  # fmt: skip
    return ExportPlan(format=format_, out=out, **{**values, **fields})  # type: ignore[arg-type]


def export(records: list[RecordView], asked: ExportPlan) -> Any:
    store = asked.out.parent / "photos"
    return run_export(asked, groups(records), read_image, store, lambda _n: None)


def ring() -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:30, 8:40] = True
    mask[10:20, 15:30] = False
    return mask


def box(x: int, y: int = 5, w: int = 10, h: int = 8) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + h, x : x + w] = True
    return mask


odd_masks = st.one_of(
    arrays(np.bool_, (HEIGHT, WIDTH)),
    st.just(ring()),
    st.just(np.ones((HEIGHT, WIDTH), bool)),
    st.just(box(0, 0, 1, 1)),
    st.just(box(WIDTH - 1, HEIGHT - 1, 1, 1)),
    st.just(box(2) | box(30)),
).filter(lambda mask: bool(mask.any()))


odd_expressions = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40
)


odd_records = st.lists(
    st.tuples(st.integers(0, 3), odd_expressions, odd_masks), min_size=1, max_size=5
)


def to_records(items: list[tuple[int, str, Mask]]) -> list[RecordView]:
    return [record(n, image, text, mask) for n, (image, text, mask) in enumerate(items, 1)]


def truth(records: list[RecordView]) -> dict[tuple[str, str], Mask]:
    """What every export must give back: photo and expression to mask."""
    found = {}
    for group in groups(records):
        referents, _ = merge_records(group, "latest", {})
        for referent in referents:
            for sentence in referent.sentences:
                if referent.coco_rle is not None:
                    key = (str(group[0].image_sha256), sentence.raw)
                    found[key] = decode_coco_rle(referent.coco_rle)
    return found


def read_coco(folder: Path) -> dict[tuple[str, str], Mask]:
    found = {}
    for split in SPLITS:
        path = folder / "annotations" / f"instances_{split}.json"
        reader = COCO(str(path))
        for annotation in reader.loadAnns(reader.getAnnIds()):
            image = reader.loadImgs(annotation["image_id"])[0]
            mask = reader.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            box_xywh = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
            assert annotation["bbox"] == box_xywh.tolist()
            assert (folder / "images" / image["file_name"]).is_file()
            for expression in annotation["expressions"]:
                found[image["sha256"], expression["raw"]] = mask
    return found


def read_refer(folder: Path) -> dict[tuple[str, str], Mask]:
    """What the REFER toolkit does, in its own order of steps."""
    with (folder / "refs(saymask).p").open("rb") as file:
        refs = pickle.load(file)
    instances = json.loads((folder / "instances.json").read_text("utf-8"))
    annotations = {a["id"]: a for a in instances["annotations"]}
    images = {i["id"]: i for i in instances["images"]}
    categories = {c["id"]: c["name"] for c in instances["categories"]}
    found = {}
    for ref in refs:
        image, annotation = images[ref["image_id"]], annotations[ref["ann_id"]]
        assert ref["category_id"] in categories
        assert ref["split"] in SPLITS
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
        if isinstance(annotation["segmentation"][0], list):
            rle = coco_mask.frPyObjects(annotation["segmentation"], image["height"], image["width"])
        else:
            rle = annotation["segmentation"]
        mask = np.sum(coco_mask.decode(rle), axis=2).astype(np.uint8)
        for sentence in ref["sentences"]:
            assert sentence["tokens"] == sentence["sent"].split()
            found[image["sha256"], sentence["raw"]] = mask.astype(bool)
    return found


def read_huggingface(folder: Path, cache: Path) -> dict[tuple[str, str], Mask]:
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(cache))
    found = {}
    for rows in loaded.values():
        for row in rows:
            mask = np.asarray(row["mask"]) > 127
            assert row["image"].size == (WIDTH, HEIGHT)
            assert row["area"] == mask.sum()
            for text in row["expressions"]:
                if row["has_referent"]:
                    found[row["sha256"], text] = mask
    return found


def check_yolo_labels(folder: Path) -> None:
    """What ultralytics demands of a label file before it trains on its photo."""
    classes = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))["names"]
    for path in (folder / "labels").rglob("*.txt"):
        assert list((folder / "images" / path.parent.name).glob(f"{path.stem}.*")), "no photo"
        rows = [line.split(" ") for line in path.read_text("ascii").splitlines()]
        assert rows
        for class_id, *values in rows:
            assert int(class_id) in classes
            # Five numbers in all would be a box; an outline has three corners or more.
            corners = np.array(values, np.float32).reshape(-1, 2)
            assert len(corners) > 2
            assert 0 <= corners.min() <= corners.max() <= 1
            assert (np.ptp(corners, axis=0) > 0).all()


def read_yolo(folder: Path) -> dict[tuple[str, str], Mask]:
    check_yolo_labels(folder)
    found = {}
    for entry in json.loads((folder / "expressions.json").read_text("utf-8")):
        path = folder / entry["mask"]
        photo = path.name.split("-")[0]
        (image,) = (folder / "images" / path.parent.name).glob(f"{photo}*")
        sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
        for text in entry["expressions"]:
            found[sha256, text] = np.asarray(Image.open(path)) > 127
    return found


def assert_same(got: dict[tuple[str, str], Mask], wanted: dict[tuple[str, str], Mask]) -> None:
    assert got.keys() == wanted.keys()
    for key, mask in wanted.items():
        assert np.array_equal(got[key], mask), key


CATS = [
    record(1, 1, "the cat", box(2)),
    record(2, 1, "The black cat!", box(2), annotator="2"),
    record(3, 1, "the dog", box(30), head_noun_phrase="the Big Dog"),
    record(4, 2, "the bird", ring(), head_noun_phrase=None),
    record(5, 2, "a unicorn", None),
    record(6, 3, "both cats", box(2) | box(30),
           parts=[encode_coco_rle(box(2)), encode_coco_rle(box(30))]),
    record(7, 3, "the left cat", box(2)),
]  # fmt: skip


READERS: dict[str, Callable[[Path], dict]] = {
    "coco": read_coco, "refcoco": read_refer, "yolo": read_yolo,
}  # fmt: skip
