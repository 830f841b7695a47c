"""ReasonSeg's layout, as LISA reads it, and the lists of masks and texts that Sa2VA reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saymask.masks import decode_coco_rle, read_coco_counts
from saymask_backend.export.files import JsonList
from saymask_backend.export.model import SPLITS, ExportImage, Referent, to_id, to_prompt
from saymask_backend.export.outlines import trace_centres
from saymask_backend.export.plan import ExportSummary

# LISA finds the data at this path below its --dataset_dir.
_DATA_FOLDER = Path("reason_seg", "saymask")
# Labels with "ignore" or "flag" mean something else.
_LABEL = "target"


class ReasonSegWriter:
    """Writes ``reason_seg/saymask/<split>/<image>-<id>.jpg`` and ``.json``, and their lists.

    All texts of a JSON have its one mask, so each referent has a copy of its photo. Polygons run
    through pixel centres, because LISA draws them with the line; they give exact masks, as the run
    lengths in Sa2VA's ``annotations_<split>.json`` do.
    """

    # Photos lie next to their JSON.
    image_folder: str | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _DATA_FOLDER
        for name in (*SPLITS, "explanatory"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._lists = {s: JsonList(self._folder / f"annotations_{s}.json") for s in SPLITS}
        # LISA reads this list of answers in words whether there are any or not.
        (self._folder / "explanatory" / "train.json").write_text("[]\n", encoding="ascii")

    def add(self, image: ExportImage, data: bytes | None) -> None:
        """Write photo and JSON of each referent."""
        for referent in image.referents:
            texts = [to_prompt(sentence.raw) for sentence in referent.sentences]
            # Of val and test LISA reads only the first text of a file.
            for some in [texts] if image.split == "train" else [[text] for text in texts]:
                name = self._write(image, data, referent, some)
                masks = [_build_runs(referent)] * len(some)
                self._lists[image.split].add({"image": name, "mask": masks, "text": some})

    def _write(
        self, image: ExportImage, data: bytes | None, referent: Referent, texts: list[str]
    ) -> str:
        content = {"text": texts, "is_sentence": False, "shapes": _build_shapes(referent)}
        # In ASCII, because LISA reads it in the encoding of its system.
        text = json.dumps(content) + "\n"
        stem = f"{Path(image.file_name).stem}-{to_id(text):012x}"
        folder = self._folder / image.split
        (folder / f"{stem}.json").write_text(text, encoding="ascii", newline="\n")
        if data is not None:
            (folder / f"{stem}.jpg").write_bytes(data)
        return f"{stem}.jpg"

    def close(self, summary: ExportSummary | None) -> None:  # noqa: ARG002
        """Finish all lists."""
        for some in self._lists.values():
            some.close()


def _build_shapes(referent: Referent) -> list[dict[str, Any]]:
    """Build a polygon for each piece; none where there is no referent."""
    if referent.coco_rle is None:
        return []
    pieces = trace_centres(decode_coco_rle(referent.coco_rle))
    return [{"label": _LABEL, "points": points} for points in pieces]


def _build_runs(referent: Referent) -> list[dict[str, Any]]:
    """Build run lengths of the mask, not compressed; none where there is no referent."""
    if referent.coco_rle is None:
        return []
    size_hw, counts = read_coco_counts(referent.coco_rle)
    return [{"size": list(size_hw), "counts": counts.tolist()}]
