"""What every format writes: images with their referents, one image at a time."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from saymask.masks import Mask, compute_area, compute_box_xywh, decode_coco_rle

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# 48 bits: exact in every JSON reader, and two of 100,000 meet with a chance of 1 in 50,000.
_ID_DIGITS = 12
# Chat trainers put photos and the ends of turns in place of these, wherever they stand.
_CHAT_MARK = re.compile(r"<(?=(?:image|video)>|\|)")


@dataclass(frozen=True)
class Sentence:
    """One expression of a referent, with where it comes from.

    Attributes:
        raw: as the annotator left it.
        record_ids, annotators: all that gave it for this referent.
        outcome, rank, iou, seconds, decided_at, model_version, provenance: of the record that was
            taken.
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
    provenance: str


@dataclass(frozen=True)
class Referent:
    """One object, several, or none, to which sentences about an image refer.

    Attributes:
        coco_rle: the whole mask; None means that the expressions have no referent in the image.
        parts: the objects one by one, where there are several; else empty.
        category: head noun, or what a mapping makes of it.
    """

    coco_rle: dict[str, Any] | None
    parts: tuple[dict[str, Any], ...]
    category: str
    sentences: tuple[Sentence, ...]

    @property
    def objects(self) -> tuple[dict[str, Any], ...]:
        """The masks of its objects one by one; empty where there is no referent."""
        return self.parts or ((self.coco_rle,) if self.coco_rle else ())


@dataclass(frozen=True)
class ExportImage:
    """An image and all referents in it.

    Attributes:
        sha256: of the bytes of the photo that was annotated.
        file_name: below ``images/``; from the hash, so that equal images are one file.
        size_hw: pixels after EXIF orientation.
        source: the reference Label Studio's tasks hold.
        licence: where known, else None.
        is_turned, is_converted: whether its file was written anew with upright pixels, or as JPEG;
            then ``sha256`` is not the file's own.
    """

    sha256: str
    file_name: str
    size_hw: tuple[int, int]
    source: str
    licence: str | None
    split: Split
    referents: tuple[Referent, ...]
    is_turned: bool = False
    is_converted: bool = False

    @property
    def image_id(self) -> int:
        """Id of the image, the same in every export."""
        return to_id(self.sha256)


def to_id(*parts: str) -> int:
    """Return an id that is the same in every export: 48 bits of a hash of the parts."""
    joined = "\n".join(parts)
    return int(hashlib.sha256(joined.encode()).hexdigest()[:_ID_DIGITS], 16)


def to_mask_id(image: ExportImage, coco_rle: dict[str, Any]) -> int:
    """Return the id of one mask in one image."""
    return to_id(image.sha256, str(coco_rle["counts"]))


class Categories:
    """The categories of an export, numbered 0, 1, 2, ... as they appear.

    Args:
        names: those that come first; one that is repeated counts once.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        for name in names:
            self.number(name)

    @property
    def names(self) -> list[str]:
        """All names, in the order of their numbers."""
        return list(self._numbers)

    def number(self, name: str) -> int:
        """Return the number of a category; one that was not seen before gets the next."""
        return self._numbers.setdefault(name, len(self._numbers))


def to_sentence(raw: str) -> str:
    """Return a sentence as the REFER toolkit has it: lower case, no punctuation, single blanks."""
    plain = unicodedata.normalize("NFKC", raw).lower()
    plain = re.sub(r"['’`]", "", plain)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return " ".join(kept.split())


def to_prompt(raw: str) -> str:
    """Return an expression for a chat: single blanks, nothing that trainers take for a mark."""
    return _CHAT_MARK.sub("< ", " ".join(raw.split()))


def describe(coco_rle: dict[str, Any]) -> tuple[Mask, int, tuple[int, int, int, int]]:
    """Return mask (H, W), exact area in pixels and tight box xywh."""
    mask = decode_coco_rle(coco_rle)
    return mask, compute_area(mask), compute_box_xywh(mask)
