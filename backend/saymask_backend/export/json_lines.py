"""One JSON a line: chats for tuning multimodal models, and the records of NVIDIA TAO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saymask_backend.export.model import (
    SPLITS,
    ExportImage,
    Referent,
    describe,
    to_id,
    to_mask_id,
    to_prompt,
)
from saymask_backend.export.outlines import simplify, trace
from saymask_backend.export.plan import IMAGE_FOLDER, Coordinates, ExportSummary


class _LinesPerSplit:
    """JSON lines for each split; in ASCII, because trainers read their system's encoding."""

    def __init__(self, folder: Path, name: str) -> None:
        paths = {split: folder / name.format(split=split) for split in SPLITS}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        self._files = {
            split: path.open("w", encoding="ascii", newline="\n") for split, path in paths.items()
        }

    def add(self, image: ExportImage, value: dict[str, Any]) -> None:
        self._files[image.split].write(json.dumps(value) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class GroundingWriter:
    """Writes ``<split>.jsonl``: for each expression a question and the boxes of its objects.

    Args:
        folder: of the export.
        coordinates: pixels of the photo, or thousandths of its width and height.
        polygons: simplified outlines without holes in addition to the boxes.
    """

    image_folder: str | None = IMAGE_FOLDER

    def __init__(self, folder: Path, coordinates: Coordinates, *, polygons: bool) -> None:
        self._lines = _LinesPerSplit(folder, "{split}.jsonl")
        self._coordinates = coordinates
        self._polygons = polygons

    def add(self, image: ExportImage, data: bytes | None) -> None:  # noqa: ARG002
        """Write a sample for each expression."""
        height, width = image.size_hw
        for referent in image.referents:
            found = [self._describe(image, coco_rle) for coco_rle in referent.objects]
            for sentence in referent.sentences:
                text = to_prompt(sentence.raw)
                answer = json.dumps([{**one, "label": text} for one in found], ensure_ascii=False)
                wanted = "bbox and polygon" if self._polygons else "bbox"
                question = (
                    f"<image>\nLocate {text}, output its {wanted} coordinates in JSON format."
                )
                self._lines.add(
                    image,
                    {
                        "id": f"{to_id(image.sha256, sentence.raw, answer):012x}",
                        "image": f"{IMAGE_FOLDER}/{image.file_name}",
                        "height": height,
                        "width": width,
                        "conversations": [
                            {"from": "human", "value": question},
                            {"from": "gpt", "value": answer},
                        ],
                    },
                )

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all files."""
        self._lines.close()

    def _describe(self, image: ExportImage, coco_rle: dict[str, Any]) -> dict[str, Any]:
        mask, _, (x, y, box_width, box_height) = describe(coco_rle)
        box = self._scale(image, [x, y, x + box_width, y + box_height])
        if not self._polygons:
            return {"bbox_2d": box}
        polygons = [self._scale(image, simplify(outline)) for outline in trace(mask)[0]]
        return {"bbox_2d": box, "polygons_2d": polygons}

    def _scale(self, image: ExportImage, xyxy: list[float] | list[int]) -> list[int]:
        """Convert x, y, x, y, ... in pixels."""
        if self._coordinates == "pixels":
            return [int(value) for value in xyxy]
        sides = (image.size_hw[1], image.size_hw[0])
        return [round(value * 1000 / sides[n % 2]) for n, value in enumerate(xyxy)]


class TaoWriter:
    """Writes ``<split>/annotations.jsonl``, a record for each photo as TAO's auto-label has it."""

    image_folder: str | None = IMAGE_FOLDER

    def __init__(self, folder: Path) -> None:
        self._lines = _LinesPerSplit(folder, "{split}/annotations.jsonl")

    def add(self, image: ExportImage, data: bytes | None) -> None:  # noqa: ARG002
        """Write the record of a photo."""
        height, width = image.size_hw
        regions: dict[int, dict[str, Any]] = {}
        expressions: list[dict[str, Any]] = []
        # A region takes its description from the expression that means it alone, if there is one.
        for referent in sorted(image.referents, key=lambda r: len(r.objects)):
            boxes = {to_mask_id(image, mask): _to_xyxy(mask) for mask in referent.objects}
            for mask_id, box in boxes.items():
                regions.setdefault(mask_id, _build_region(box, referent))
            instances = [
                {"bbox_id": f"box_{mask_id:012x}", "bbox": box, "bbox_score": 1.0}
                for mask_id, box in boxes.items()
            ]
            for sentence in referent.sentences:
                number = to_id(image.sha256, sentence.raw, *map(str, boxes))
                expression = {"expression_id": f"expr_{number:012x}", "text": sentence.raw}
                expressions.append({**expression, "instances": instances})
        record = {
            "image_id": Path(image.file_name).stem,
            "image_path": f"{IMAGE_FOLDER}/{image.file_name}",
            "width": width,
            "height": height,
            "caption": None,
            "cleaned_caption": None,
            "regions": list(regions.values()),
            "expressions": expressions,
            "source": "saymask",
            "pipeline_steps": [],
        }
        self._lines.add(image, record)

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all files."""
        self._lines.close()


def _build_region(box_xyxy: list[int], referent: Referent) -> dict[str, Any]:
    # Several objects together have no description of each.
    description = "" if len(referent.objects) > 1 else referent.sentences[0].raw
    return {"bbox": box_xyxy, "type": referent.category, "color": "", "description": description}


def _to_xyxy(coco_rle: dict[str, Any]) -> list[int]:
    _, _, (x, y, width, height) = describe(coco_rle)
    return [x, y, x + width, y + height]
