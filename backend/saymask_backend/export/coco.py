"""COCO instances: one file per split, one annotation per referent mask."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saymask_backend.export.files import InstancesFile
from saymask_backend.export.model import (
    SPLITS,
    Categories,
    ExportImage,
    Referent,
    describe,
    to_mask_id,
    to_sentence,
)
from saymask_backend.export.outlines import to_exact_polygons
from saymask_backend.export.plan import ExportSummary


def build_image(image: ExportImage) -> dict[str, Any]:
    """Build the image entry, with the source of the image."""
    height, width = image.size_hw
    return {
        "id": image.image_id,
        "file_name": image.file_name,
        "height": height,
        "width": width,
        "sha256": image.sha256,
        "turned": image.is_turned,
        "source": image.source,
        "license": image.licence,
    }


class AnnotationBuilder:
    """Builds annotations, and counts how their masks are written.

    Args:
        categories: of the export.
        polygons: instead of run lengths, where they reproduce the mask exactly.

    Attributes:
        segmentations: number of masks written as ``polygons`` and as ``run_lengths``.
    """

    def __init__(self, categories: Categories, *, polygons: bool) -> None:
        self.segmentations: Counter[str] = Counter(polygons=0, run_lengths=0)
        self.categories = categories
        self._polygons = polygons

    def build(self, image: ExportImage, coco_rle: dict[str, Any], category: str) -> dict[str, Any]:
        """Build the annotation of one mask: exact area, tight box, RLE or exact polygons."""
        mask, area, box_xywh = describe(coco_rle)
        outlines = to_exact_polygons(mask) if self._polygons else None
        self.segmentations["polygons" if outlines else "run_lengths"] += 1
        return {
            "id": to_mask_id(image, coco_rle),
            "image_id": image.image_id,
            "category_id": self.find_category_id(category),
            "segmentation": outlines or {"size": coco_rle["size"], "counts": coco_rle["counts"]},
            "area": area,
            "bbox": list(box_xywh),
            "iscrowd": 0,
        }

    def find_category_id(self, category: str) -> int:
        """Return the id of a category: 1, 2, 3, ... as they appear."""
        return self.categories.number(category) + 1


def build_expressions(referent: Referent) -> list[dict[str, Any]]:
    """Build the sentences of a referent with their provenance."""
    return [
        {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(sentence).items()},
            "sent": to_sentence(sentence.raw),
            "decided_at": sentence.decided_at.isoformat(),
        }
        for sentence in referent.sentences
    ]


class CocoWriter:
    """Writes ``annotations/instances_<split>.json``."""

    image_folder: str | None = "images"

    def __init__(self, folder: Path, info: dict[str, Any], annotations: AnnotationBuilder) -> None:
        self._annotations = annotations
        self._files = {
            split: InstancesFile(
                folder / "annotations" / f"instances_{split}.json", info, annotations.categories
            )
            for split in SPLITS
        }

    def add(self, image: ExportImage, data: bytes | None) -> None:  # noqa: ARG002
        """Write an image and the annotations of its referents."""
        file = self._files[image.split]
        file.images.add(build_image(image))
        for referent in image.referents:
            if referent.coco_rle is None:
                continue
            annotation = self._annotations.build(image, referent.coco_rle, referent.category)
            file.annotations.add({**annotation, "expressions": build_expressions(referent)})

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all files."""
        for file in self._files.values():
            file.close()
