"""COCO instances: one file per split, one annotation per referent mask."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.export.files import InstancesFile
from backend.export.model import (
    SPLITS,
    ExportPhoto,
    Referent,
    describe,
    to_category_id,
    to_mask_id,
    to_sentence,
)
from backend.export.outlines import to_exact_polygons


def build_image(photo: ExportPhoto) -> dict[str, Any]:
    """The image entry, with where the photo comes from."""
    height, width = photo.size_hw
    return {
        "id": photo.image_id,
        "file_name": photo.file_name,
        "height": height,
        "width": width,
        "sha256": photo.sha256,
        "source": photo.source,
        "license": photo.licence,
    }


def build_annotation(
    photo: ExportPhoto, coco_rle: dict[str, Any], category: str, *, polygons: bool
) -> dict[str, Any]:
    """The annotation of one mask: exact area, tight box, RLE or polygons that give it back."""
    mask, area, box_xywh = describe(coco_rle)
    outlines = to_exact_polygons(mask) if polygons else None
    return {
        "id": to_mask_id(photo, coco_rle),
        "image_id": photo.image_id,
        "category_id": to_category_id(category),
        "segmentation": outlines or {"size": coco_rle["size"], "counts": coco_rle["counts"]},
        "area": area,
        "bbox": list(box_xywh),
        "iscrowd": 0,
    }


def build_expressions(referent: Referent) -> list[dict[str, Any]]:
    """Sentences with their provenance."""
    return [
        {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(sentence).items()},
            "sent": to_sentence(sentence.raw),
            "decided_at": sentence.decided_at.isoformat(),
        }
        for sentence in referent.sentences
    ]


class CocoWriter:
    """``annotations/instances_<split>.json``."""

    image_folder: str | None = "images"

    def __init__(self, folder: Path, info: dict[str, Any], *, polygons: bool) -> None:
        self._polygons = polygons
        self._files = {
            split: InstancesFile(folder / "annotations" / f"instances_{split}.json", info)
            for split in SPLITS
        }

    def add(self, photo: ExportPhoto, _data: bytes | None) -> None:
        file = self._files[photo.split]
        file.images.add(build_image(photo))
        for referent in photo.referents:
            if referent.coco_rle is None:
                continue
            annotation = build_annotation(
                photo, referent.coco_rle, referent.category, polygons=self._polygons
            )
            file.name_category(annotation["category_id"], referent.category)
            file.annotations.add({**annotation, "expressions": build_expressions(referent)})

    def close(self) -> None:
        for file in self._files.values():
            file.close()
