"""A Hugging Face dataset: parquet shards per split with image and mask features, and a card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saymask.errors import ConfigError, counted
from saymask.masks import Mask
from saymask_backend.export.files import Table, to_png
from saymask_backend.export.model import (
    SPLITS,
    ExportImage,
    Referent,
    Sentence,
    describe,
    to_id,
    to_mask_id,
)
from saymask_backend.export.plan import ExportSummary
from saymask_backend.export.upright import JPEG_QUALITY
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.types import PROVENANCE_LABELS
from saymask_backend.records.verifications import VerificationSummary

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
        "provenances": sequence("string"),
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
    """Counts for the dataset card; ``tenths`` are tenths of a second."""

    rows: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    expressions: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    tenths: Counter[int] = field(default_factory=Counter)
    provenances: Counter[str] = field(default_factory=Counter)

    def add(self, image: ExportImage) -> None:
        self.images[image.split] += 1
        for referent in image.referents:
            self.rows[image.split] += 1
            for sentence in referent.sentences:
                self.expressions[image.split] += 1
                self.words[len(sentence.raw.split())] += 1
                self.outcomes[sentence.outcome] += 1
                self.provenances[sentence.provenance] += 1
                if sentence.seconds is not None:
                    self.tenths[round(sentence.seconds * 10)] += 1


class HuggingFaceWriter:
    """Writes ``data/<split>-<n>.parquet`` and ``README.md``; one row per referent.

    Args:
        folder: of the export.
        info: description and split, for the card.
        with_images: images go into the rows.
        shard_rows: rows per file.
        verification: the verdicts of second annotators, for the card.
    """

    image_folder: str | None = None

    def __init__(
        self, folder: Path, info: dict[str, Any], *, with_images: bool,
        shard_rows: int = _ROWS_A_SHARD, verification: VerificationSummary | None = None,
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
        self._verification = verification
        self._shard_rows = shard_rows
        self._tables: dict[str, Table] = {}
        self._shards: Counter[str] = Counter()
        self._counts = _Counts()

    def add(self, image: ExportImage, data: bytes | None) -> None:
        """Write one row per referent; an image without any leaves no row."""
        if not image.referents:
            return
        self._counts.add(image)
        for referent in image.referents:
            row, size = self._build_row(image, referent, data)
            table = self._table(image.split)
            table.add(row, size)
            if table.count >= self._shard_rows:
                self._tables.pop(image.split).close()

    def _table(self, split: str) -> Table:
        if split not in self._tables:
            path = self._folder / "data" / f"{split}-{self._shards[split]:05d}.parquet"
            self._shards[split] += 1
            self._tables[split] = Table(path, self._schema)
        return self._tables[split]

    def _build_row(
        self, image: ExportImage, referent: Referent, data: bytes | None
    ) -> tuple[dict[str, Any], int]:
        """One row, and its size in bytes."""
        height, width = image.size_hw
        mask, columns = _describe_mask(image, referent)
        png = to_png(mask)
        row: dict[str, Any] = {
            "mask": {"bytes": png, "path": None},
            "has_referent": referent.coco_rle is not None,
            "category": referent.category,
            **columns,
            "image_id": image.image_id,
            "file_name": image.file_name,
            "sha256": image.sha256,
            "height": height,
            "width": width,
            "source": image.source,
            **_describe_sentences(referent.sentences),
        }
        if not self._with_images:
            return row, len(png)
        row["image"] = {"bytes": data, "path": image.file_name}
        return row, len(png) + len(data or b"")

    def close(self, summary: ExportSummary | None) -> None:
        """Finish all files and write the dataset card."""
        for table in self._tables.values():
            table.close()
        if summary is not None:
            card = _build_card(self._info, self._counts, summary, self._shards, self._verification)
            (self._folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _describe_mask(image: ExportImage, referent: Referent) -> tuple[Mask, dict[str, Any]]:
    """The mask, empty without a referent, and the columns that depend on it."""
    if referent.coco_rle is None:
        referent_id = to_id(image.sha256, *(s.raw for s in referent.sentences))
        empty: Mask = np.zeros(image.size_hw, dtype=bool)
        return empty, {"bbox": [0, 0, 0, 0], "area": 0, "referent_id": referent_id}
    mask, area, box_xywh = describe(referent.coco_rle)
    referent_id = to_mask_id(image, referent.coco_rle)
    return mask, {"bbox": list(box_xywh), "area": area, "referent_id": referent_id}


def _describe_sentences(sentences: Sequence[Sentence]) -> dict[str, Any]:
    return {
        "expressions": [s.raw for s in sentences],
        "outcomes": [s.outcome for s in sentences],
        "ranks": [s.rank for s in sentences],
        "ious": [s.iou for s in sentences],
        "seconds": [s.seconds for s in sentences],
        "annotators": [", ".join(s.annotators) for s in sentences],
        "model_versions": [s.model_version for s in sentences],
        "provenances": [s.provenance for s in sentences],
    }


def _build_card(
    info: dict[str, Any],
    counts: _Counts,
    summary: ExportSummary,
    shards: Counter[str],
    verification: VerificationSummary | None,
) -> str:
    splits = [split for split in SPLITS if shards[split]]
    files = [
        line
        for split in splits
        for line in (f"  - split: {split}", f"    path: data/{split}-*.parquet")
    ]
    iou = summary.agreement_iou
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
        " `expressions` that refer to it,",
        "and their provenance. Rows with `has_referent` false hold expressions that refer to"
        " nothing in the image.",
        "",
        "| split | photos | referents | expressions |",
        "|---|---|---|---|",
        *(
            f"| {split} | {counts.images[split]} | {counts.rows[split]} |"
            f" {counts.expressions[split]} |"
            for split in splits
        ),
        "",
        f"Words per expression: median {_median(counts.words)}."
        f" Seconds per expression: median {_median(counts.tenths, 10)}.",
        "",
        *_build_shares("outcome", counts.outcomes, OUTCOME_LABELS),
        *_build_shares("expressions", counts.provenances, PROVENANCE_LABELS),
        f"Decided by several annotators: {counted(summary.shared, 'expression')}; on"
        f" {summary.contradictions} one found a referent and another none"
        + (f"; mean IoU of their masks {iou:.3f}." if iou is not None else "."),
    ]
    if summary.turned:
        lines += [
            "",
            f"Turned upright: {counted(summary.turned, 'photo')} whose EXIF asks for that, written"
            f" anew without EXIF, JPEGs at quality {JPEG_QUALITY}; `sha256` is of the original.",
        ]
    if verification is not None:
        lines += ["", verification.describe()]
    return "\n".join(lines) + "\n"


def _build_shares(title: str, counts: Counter[str], labels: Mapping[Any, str]) -> list[str]:
    """A table of shares, and the empty line after it."""
    total = sum(counts.values())
    rows = [
        f"| {label} | {100 * counts[name] / total:.1f} % |"
        for name, label in labels.items()
        if counts[name]
    ]
    return [f"| {title} | share |", "|---|---|", *rows, ""]


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
