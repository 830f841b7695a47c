"""YOLO segmentation text files, and every mask as a PNG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np

from saymask_backend.export.files import JsonList, to_json, to_png
from saymask_backend.export.model import (
    SPLITS,
    Categories,
    ExportImage,
    Split,
    describe,
    to_mask_id,
)
from saymask_backend.export.outlines import trace
from saymask_backend.export.plan import IMAGE_FOLDER, ExportSummary

_NOT_IN_YAML = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff]")


class YoloWriter:
    """Writes ``labels/<split>/<image>.txt``, masks, ``data.yaml`` and ``expressions.json``.

    A line is a class and one outline, corners as shares of width and height. An object in several
    parts takes several lines, and holes are lost in the text, because YOLO has neither. The masks,
    ``masks/<split>/<image>-<id>.png``, are exact; ``expressions.json`` has the expressions of each.
    """

    image_folder: str | None = "images/{split}"

    def __init__(self, folder: Path, info: dict[str, Any], categories: Categories) -> None:
        self._folder = folder
        self._info = info
        self._categories = categories
        self._used: set[Split] = set()
        for kind in (IMAGE_FOLDER, "labels", "masks"):
            for split in SPLITS:
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
        self._expressions = JsonList(folder / "expressions.json")

    def add(self, image: ExportImage, data: bytes | None) -> None:  # noqa: ARG002
        """Write the outlines and masks of an image's referents."""
        self._used.add(image.split)
        stem = Path(image.file_name).stem
        height, width = image.size_hw
        lines = []
        for referent in image.referents:
            if referent.coco_rle is None:
                continue
            class_id = self._categories.number(referent.category)
            mask, _, _ = describe(referent.coco_rle)
            for polygon in trace(mask)[0]:
                points = np.array(polygon).reshape(-1, 2) / (width, height)
                lines.append(f"{class_id} " + " ".join(f"{value:.6f}" for value in points.ravel()))
            name = f"{stem}-{to_mask_id(image, referent.coco_rle):012x}.png"
            png = to_png(mask)
            (self._folder / "masks" / image.split / name).write_bytes(png)
            self._expressions.add(
                {
                    "mask": f"masks/{image.split}/{name}",
                    "class": class_id,
                    "expressions": [sentence.raw for sentence in referent.sentences],
                }
            )
        if lines:
            text = "\n".join(lines) + "\n"
            path = self._folder / "labels" / image.split / f"{stem}.txt"
            path.write_text(text, encoding="utf-8", newline="\n")

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all files."""
        self._expressions.close()
        names = enumerate(self._categories.names)
        lines = [
            f"# {to_json(self._info)}",
            # Readers resolve `path` against folders of their own; without it, against this file's.
            "# Paths are relative to this file.",
            *_describe_splits(self._used),
            "names:",
            *(f"  {number}: {to_json(name)}" for number, name in names),
        ]
        # JSON is YAML, but for a few characters that only JSON allows unescaped.
        text = _NOT_IN_YAML.sub(lambda m: f"\\u{ord(m[0]):04x}", "\n".join(lines)) + "\n"
        (self._folder / "data.yaml").write_text(text, encoding="utf-8", newline="\n")


def _describe_splits(used: Set[Split]) -> Iterator[str]:
    """Lines that name the photos of each split.

    YOLO needs train and val, with photos in both: where no photo fell into one of them, it names
    those of another split and says so.
    """
    for split in SPLITS:
        if split in used:
            yield f"{split}: {IMAGE_FOLDER}/{split}"
        elif split != "test" and used:
            other = next(s for s in ("val", "test", "train") if s in used)
            yield f"{split}: {IMAGE_FOLDER}/{other}  # no photo fell into {split}"
