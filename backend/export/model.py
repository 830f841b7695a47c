"""What every format writes: photos with their referents, one photo at a time."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from backend.masks import Mask, compute_area, compute_box_xywh, decode_coco_rle

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# 48 bits: exact in every JSON reader, and two of 100,000 meet with a chance of 1 in 50,000.
_ID_DIGITS = 12


@dataclass(frozen=True)
class Sentence:
    """One expression of a referent, with where it comes from.

    Attributes:
        raw: as the annotator left it.
        record_ids, annotators: everyone who said it of this referent.
        outcome, rank, iou, seconds, decided_at, model_version: of the record that was taken.
    """

    raw: str
    record_ids: tuple[int, ...]
    annotators: tuple[str, ...]
    outcome: str
    rank: int | None
    iou: float | None
    seconds: float | None
    decided_at: datetime
    model_version: str | None


@dataclass(frozen=True)
class Referent:
    """One object, or several, or none, that sentences of a photo mean.

    Attributes:
        coco_rle: the whole mask; None means the expressions have no referent in the photo.
        parts: the objects one by one, where there are several; else empty.
        category: head noun, or what a mapping makes of it.
    """

    coco_rle: dict[str, Any] | None
    parts: tuple[dict[str, Any], ...]
    category: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class ExportPhoto:
    """A photo and everything said about it.

    Attributes:
        sha256: of the file's bytes.
        file_name: below ``images/``; from the hash, so that equal photos are one file.
        size_hw: pixels after EXIF orientation.
        source: the reference Label Studio's tasks hold.
        licence: where known, else None.
    """

    sha256: str
    file_name: str
    size_hw: tuple[int, int]
    source: str
    licence: str | None
    split: Split
    referents: tuple[Referent, ...]

    @property
    def image_id(self) -> int:
        return to_id(self.sha256)


def to_id(*parts: str) -> int:
    """A number that stays the same in every export: 48 bits of a hash of what is numbered."""
    joined = "\n".join(parts)
    return int(hashlib.sha256(joined.encode()).hexdigest()[:_ID_DIGITS], 16)


def to_mask_id(photo: ExportPhoto, coco_rle: dict[str, Any]) -> int:
    """Of one mask in one photo."""
    return to_id(photo.sha256, str(coco_rle["counts"]))


def to_category_id(name: str) -> int:
    """Of a category, the same in every export; positive, 31 bits."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % (2**31 - 1) + 1


def to_sentence(raw: str) -> str:
    """As the REFER toolkit's sentences are: small letters, no punctuation, single blanks."""
    plain = unicodedata.normalize("NFKC", raw).lower()
    plain = re.sub(r"['’`]", "", plain)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return " ".join(kept.split())


def describe(coco_rle: dict[str, Any]) -> tuple[Mask, int, tuple[int, int, int, int]]:
    """Mask, exact area in pixels and tight box."""
    mask = decode_coco_rle(coco_rle)
    return mask, compute_area(mask), compute_box_xywh(mask)
