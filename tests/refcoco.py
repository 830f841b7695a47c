"""A small dataset of our own making in the published layout."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saymask.masks import encode_coco_rle

SIZE_HW = (48, 64)


def square(x: int, y: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE_HW, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_refcoco(root: Path, name: str = "refcoco", count: int = 3) -> Path:
    """A set of our own making in REFER's layout: two squares a photo, one sentence each."""
    write_images(root / "images/mscoco/images/train2014", [f"p{i}.jpg" for i in range(count)])
    folder = root / name
    folder.mkdir()
    images, annotations, refs = [], [], []
    for i in range(count):
        images.append({"id": i, "file_name": f"p{i}.jpg", "height": 48, "width": 64})
        left = [[2, 4, 18, 4, 18, 20, 2, 20], [10, 10, 26, 10, 26, 26, 10, 26]]
        right = encode_coco_rle(square(40, 8, 20))
        for side, segmentation in enumerate((left, right)):
            number = 10 * i + side
            annotations.append(
                {"id": number, "image_id": i, "category_id": 1 + side, "iscrowd": 0,
                 "segmentation": segmentation}
            )  # fmt: skip
            text = ("the cat", "the dog")[side]
            sentence = {
                "raw": text.upper(),
                "sent": text,
                "tokens": text.split(),
                "sent_id": number,
            }
            refs.append(
                {"ref_id": number, "ann_id": number, "image_id": i, "category_id": 1 + side,
                 "file_name": f"p{i}_{number}.jpg", "sent_ids": [number], "sentences": [sentence],
                 "split": "val" if i < 2 else "train"}
            )  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def write_export(root: Path, count: int) -> Path:
    """The same in the layout of ``saymask export refcoco``; val is two photos, four expressions."""
    write_refcoco(root, count=count)
    shutil.move(root / "refcoco" / "refs(unc).p", root / "refs(saymask).p")
    shutil.move(root / "refcoco" / "instances.json", root / "instances.json")
    for path in (root / "images/mscoco/images/train2014").iterdir():
        shutil.move(path, root / "images" / path.name)
    return root
