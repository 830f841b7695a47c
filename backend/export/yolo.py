"""YOLO segmentation text files, and every mask as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from backend.export.files import JsonList, to_json, to_png
from backend.export.model import SPLITS, ExportPhoto, describe, to_mask_id
from backend.export.outlines import trace


class YoloWriter:
    """``labels/<split>/<photo>.txt``, ``masks/<split>/<photo>-<id>.png``, ``data.yaml`` and
    ``expressions.json``, which says what every mask was called.

    A line is a class and one outline, corners as shares of width and height. An object in several
    parts takes several lines, and holes are lost in the text: YOLO knows neither. The PNGs are
    exact.
    """

    image_folder: str | None = "images/{split}"

    def __init__(self, folder: Path, info: dict[str, Any], *, polygons: bool) -> None:
        del polygons  # outlines are all that YOLO reads
        self._folder = folder
        self._info = info
        self._names: dict[str, int] = {}
        for kind in ("labels", "masks"):
            for split in SPLITS:
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
        self._expressions = JsonList(folder / "expressions.json")

    def add(self, photo: ExportPhoto, _data: bytes | None) -> None:
        stem = Path(photo.file_name).stem
        height, width = photo.size_hw
        lines = []
        for referent in photo.referents:
            if referent.coco_rle is None:
                continue
            number = self._names.setdefault(referent.category, len(self._names))
            mask, _, _ = describe(referent.coco_rle)
            for polygon in trace(mask)[0]:
                points = np.array(polygon).reshape(-1, 2) / (width, height)
                lines.append(f"{number} " + " ".join(f"{value:.6f}" for value in points.ravel()))
            name = f"{stem}-{to_mask_id(photo, referent.coco_rle):012x}.png"
            png = to_png(mask.astype(np.uint8) * 255)
            (self._folder / "masks" / photo.split / name).write_bytes(png)
            self._expressions.add(
                {
                    "mask": f"masks/{photo.split}/{name}",
                    "class": number,
                    "expressions": [sentence.raw for sentence in referent.sentences],
                }
            )
        if lines:
            text = "\n".join(lines) + "\n"
            path = self._folder / "labels" / photo.split / f"{stem}.txt"
            path.write_text(text, encoding="utf-8", newline="\n")

    def close(self) -> None:
        self._expressions.close()
        lines = [f"# {to_json(self._info)}", "path: .", *(f"{s}: images/{s}" for s in SPLITS)]
        lines += ["names:", *(f"  {n}: {to_json(name)}" for name, n in self._names.items())]
        text = "\n".join(lines) + "\n"
        (self._folder / "data.yaml").write_text(text, encoding="utf-8", newline="\n")
