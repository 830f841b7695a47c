"""ReasonSeg's layout, as LISA reads it: a JPEG and a JSON of polygons for each referent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saymask.masks import decode_coco_rle
from saymask_backend.export.model import SPLITS, ExportImage, Referent, to_id, to_prompt
from saymask_backend.export.outlines import trace_centres
from saymask_backend.export.plan import ExportSummary

# LISA finds the data at this path below its --dataset_dir.
DATA_FOLDER = Path("reason_seg", "saymask")
# Labels with "ignore" or "flag" mean something else.
_LABEL = "target"


class ReasonSegWriter:
    """Writes ``reason_seg/saymask/<split>/<image>-<id>.jpg`` and ``.json``.

    All texts of a JSON have its one mask, so each referent has a copy of its photo. Polygons run
    through pixel centres, because their reader draws them with the line; they give exact masks.
    """

    # Photos lie next to their JSON.
    image_folder: str | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder / DATA_FOLDER
        for name in (*SPLITS, "explanatory"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        # LISA reads this list of answers in words whether there are any or not.
        (self._folder / "explanatory" / "train.json").write_text("[]\n", encoding="ascii")

    def add(self, image: ExportImage, data: bytes | None) -> None:
        """Write photo and JSON of each referent."""
        for referent in image.referents:
            shapes = _build_shapes(referent)
            texts = [to_prompt(sentence.raw) for sentence in referent.sentences]
            # Of val and test LISA reads only the first text of a file.
            for some in [texts] if image.split == "train" else [[text] for text in texts]:
                self._write(image, data, {"text": some, "is_sentence": False, "shapes": shapes})

    def _write(self, image: ExportImage, data: bytes | None, content: dict[str, Any]) -> None:
        # In ASCII, because LISA reads it in the encoding of its system.
        text = json.dumps(content) + "\n"
        stem = f"{Path(image.file_name).stem}-{to_id(text):012x}"
        folder = self._folder / image.split
        (folder / f"{stem}.json").write_text(text, encoding="ascii", newline="\n")
        if data is not None:
            (folder / f"{stem}.jpg").write_bytes(data)

    def close(self, summary: ExportSummary | None) -> None:
        """Nothing is left to be finished."""


def _build_shapes(referent: Referent) -> list[dict[str, Any]]:
    """Build a polygon for each piece; none where there is no referent."""
    if referent.coco_rle is None:
        return []
    pieces = trace_centres(decode_coco_rle(referent.coco_rle))
    return [{"label": _LABEL, "points": points} for points in pieces]
