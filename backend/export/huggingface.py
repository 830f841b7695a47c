"""A Hugging Face dataset: parquet shards per split with image and mask features, and a card."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ConfigError
from backend.export.files import Table, to_png
from backend.export.model import SPLITS, ExportPhoto, Referent, describe, to_id, to_mask_id
from backend.records.outcomes import OUTCOME_WORDS

_ROWS_A_SHARD = 20_000


def _features(*, with_images: bool) -> dict[str, Any]:
    """Columns as ``datasets`` names them; parquet carries this as metadata."""

    def value(kind: str) -> dict[str, str]:
        return {"dtype": kind, "_type": "Value"}

    def sequence(kind: str) -> dict[str, Any]:
        return {"feature": value(kind), "_type": "Sequence"}

    image = {"image": {"_type": "Image"}} if with_images else {}
    return {
        **image,
        "mask": {"_type": "Image"},
        "expressions": sequence("string"),
        "has_referent": value("bool"),
        "category": value("string"),
        "bbox": sequence("int64"),
        "area": value("int64"),
        "image_id": value("int64"),
        "referent_id": value("int64"),
        "file_name": value("string"),
        "sha256": value("string"),
        "height": value("int64"),
        "width": value("int64"),
        "source": value("string"),
        "outcomes": sequence("string"),
        "ranks": sequence("int64"),
        "ious": sequence("float64"),
        "seconds": sequence("float64"),
        "annotators": sequence("string"),
        "model_versions": sequence("string"),
    }


def _schema(features: dict[str, Any]) -> Any:
    import pyarrow as pa

    kinds = {
        "string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64(),
    }  # fmt: skip
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def to_arrow(feature: dict[str, Any]) -> Any:
        if feature["_type"] == "Image":
            return picture
        if feature["_type"] == "Sequence":
            return pa.list_(kinds[feature["feature"]["dtype"]])
        return kinds[feature["dtype"]]

    columns = [(name, to_arrow(feature)) for name, feature in features.items()]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(columns, metadata=metadata)


@dataclass
class _Counts:
    """For the card."""

    rows: Counter[str] = field(default_factory=Counter)
    photos: Counter[str] = field(default_factory=Counter)
    expressions: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    tenths: Counter[int] = field(default_factory=Counter)

    def add(self, photo: ExportPhoto) -> None:
        self.photos[photo.split] += 1
        for referent in photo.referents:
            self.rows[photo.split] += 1
            for sentence in referent.sentences:
                self.expressions[photo.split] += 1
                self.words[len(sentence.raw.split())] += 1
                self.outcomes[sentence.outcome] += 1
                if sentence.seconds is not None:
                    self.tenths[round(sentence.seconds * 10)] += 1


class HuggingFaceWriter:
    """``data/<split>-<n>.parquet`` and ``README.md``; one row per referent.

    Args:
        with_images: photos go into the rows.
        shard_rows: rows per file.
    """

    image_folder: str | None = None

    def __init__(
        self, folder: Path, info: dict[str, Any], *, with_images: bool,
        shard_rows: int = _ROWS_A_SHARD,
    ) -> None:  # fmt: skip
        try:
            self._schema = _schema(_features(with_images=with_images))
        except ModuleNotFoundError as error:
            raise ConfigError(
                "Parquet files need pyarrow.", "Install it: pip install 'saymask[export]'"
            ) from error
        self._folder = folder
        self._info = info
        self._with_images = with_images
        self._shard_rows = shard_rows
        self._tables: dict[str, Table] = {}
        self._shards: Counter[str] = Counter()
        self._counts = _Counts()
        self.agreement: tuple[int, int, float | None] = (0, 0, None)

    def add(self, photo: ExportPhoto, data: bytes | None) -> None:
        if not photo.referents:
            return
        self._counts.add(photo)
        for referent in photo.referents:
            row, size = self._build_row(photo, referent, data)
            table = self._table(photo.split)
            table.add(row, size)
            if table.count >= self._shard_rows:
                self._tables.pop(photo.split).close()

    def _table(self, split: str) -> Table:
        if split not in self._tables:
            path = self._folder / "data" / f"{split}-{self._shards[split]:05d}.parquet"
            self._shards[split] += 1
            self._tables[split] = Table(path, self._schema)
        return self._tables[split]

    def _build_row(
        self, photo: ExportPhoto, referent: Referent, data: bytes | None
    ) -> tuple[dict[str, Any], int]:
        height, width = photo.size_hw
        if referent.coco_rle is not None:
            mask, area, box_xywh = describe(referent.coco_rle)
            number = to_mask_id(photo, referent.coco_rle)
        else:
            mask, area, box_xywh = np.zeros((height, width), dtype=bool), 0, (0, 0, 0, 0)
            number = to_id(photo.sha256, *(s.raw for s in referent.sentences))
        png = to_png(mask.astype(np.uint8) * 255)
        said = referent.sentences
        row: dict[str, Any] = {
            "mask": {"bytes": png, "path": None},
            "expressions": [s.raw for s in said],
            "has_referent": referent.coco_rle is not None,
            "category": referent.category,
            "bbox": list(box_xywh),
            "area": area,
            "image_id": photo.image_id,
            "referent_id": number,
            "file_name": photo.file_name,
            "sha256": photo.sha256,
            "height": height,
            "width": width,
            "source": photo.source,
            "outcomes": [s.outcome for s in said],
            "ranks": [s.rank for s in said],
            "ious": [s.iou for s in said],
            "seconds": [s.seconds for s in said],
            "annotators": [", ".join(s.annotators) for s in said],
            "model_versions": [s.model_version for s in said],
        }
        if self._with_images:
            row["image"] = {"bytes": data, "path": photo.file_name}
        return row, len(png) + (len(data) if data and self._with_images else 0)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
        card = _write_card(self._info, self._counts, self.agreement, self._shards)
        (self._folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _write_card(
    info: dict[str, Any],
    counts: _Counts,
    agreement: tuple[int, int, float | None],
    shards: Counter[str],
) -> str:
    splits = [split for split in SPLITS if shards[split]]
    files = [
        line
        for split in splits
        for line in (f"  - split: {split}", f"    path: data/{split}-*.parquet")
    ]
    said = sum(counts.outcomes.values())
    shared, contradictions, iou = agreement
    lines = [
        "---",
        "task_categories:",
        "- image-segmentation",
        "language:",
        "- en",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *files,
        "---",
        "",
        "# Referring image segmentation",
        "",
        f"Made with {info['description']}. One row per referent: `image`, `mask` (255 inside), the"
        " `expressions` that mean it,",
        "and where they come from. Rows with `has_referent` false hold expressions that mean"
        " nothing in the photo.",
        "",
        "| split | photos | referents | expressions |",
        "|---|---|---|---|",
        *(
            f"| {split} | {counts.photos[split]} | {counts.rows[split]} |"
            f" {counts.expressions[split]} |"
            for split in splits
        ),
        "",
        f"Words per expression: median {_median(counts.words)}."
        f" Seconds per expression: median {_median(counts.tenths, 10)}.",
        "",
        "| outcome | share |",
        "|---|---|",
        *(
            f"| {OUTCOME_WORDS[name]} | {100 * counts.outcomes[name] / said:.1f} % |"
            for name in OUTCOME_WORDS
            if counts.outcomes[name]
        ),
        "",
        f"Decided by several annotators: {shared} expressions; on {contradictions} one found a"
        " referent and another none"
        + (f"; mean IoU of their masks {iou:.3f}." if iou is not None else "."),
    ]
    return "\n".join(lines) + "\n"


def _median(counts: Counter[int], unit: int = 1) -> str:
    total = sum(counts.values())
    if not total:
        return "unknown"
    passed = 0
    for value in sorted(counts):
        passed += counts[value]
        if 2 * passed >= total:
            break
    return f"{value / unit:g}"
