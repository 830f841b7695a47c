"""What an export is asked for, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from saymask.errors import SaymaskError
from saymask_backend.export.merge import NO_REFERENT, MergeRule
from saymask_backend.export.model import ExportImage
from saymask_backend.export.splits import SplitRule
from saymask_backend.records.verifications import VerificationSummary

Format = Literal["coco", "refcoco", "grefcoco", "huggingface", "yolo"]
FORMATS: tuple[Format, ...] = ("coco", "refcoco", "grefcoco", "huggingface", "yolo")
IMAGE_FOLDER = "images"
Images = Literal["copy", "link", "none"]

OUTCOMES_WITH_MASK = ("accepted", "edited", "relabelled", "drawn_after_rejection", "drawn")
# Formats that can hold an expression without a referent.
_FORMATS_WITH_NO_REFERENT = ("grefcoco", "huggingface")


class ExportError(SaymaskError):
    """The export cannot be made as asked; nothing incomplete is left under its name."""


@dataclass(frozen=True)
class ExportPlan:
    """What is asked for.

    Attributes:
        format: of the files.
        out: directory; it must not exist, or be an export that is to be replaced.
        query: what was selected, for the manifest.
        split: which image goes to which split.
        images: copied into the export, linked from one store for all exports, or left out.
        merge: rule for expressions that several annotators decided.
        polygons: instead of run lengths, where they reproduce the mask exactly.
        categories: head noun to category.
        licence: of all images, where known.
        skip_missing: leave out images that cannot be read, instead of stopping.
        replace: an earlier export at ``out``, whose categories keep their ids.
        verification: what second persons say about the records, where any did.
    """

    format: Format
    out: Path
    query: dict[str, Any]
    split: SplitRule
    images: Images
    merge: MergeRule
    polygons: bool = False
    categories: Mapping[str, str] | None = None
    licence: str | None = None
    skip_missing: bool = False
    replace: bool = False
    verification: VerificationSummary | None = None

    @property
    def holds_no_referent(self) -> bool:
        """Whether the format can hold an expression without a referent."""
        return self.format in _FORMATS_WITH_NO_REFERENT


@dataclass(frozen=True)
class ExportSummary:
    """What was written, or would be.

    ``turned`` photos were written anew with upright pixels; ``inexact`` masks kept run lengths
    although polygons were asked for. A dry run reads no photo and traces no mask.
    """

    photos: int
    referents: int
    expressions: int
    no_referent: int
    per_split: dict[str, int]
    per_outcome: dict[str, int]
    shared: int
    contradictions: int
    agreement_iou: float | None
    turned: int
    left_out: tuple[str, ...]
    model_versions: tuple[str, ...]
    inexact: int = 0


class Writer(Protocol):
    """Writes one format.

    ``image_folder`` is where its images lie, None when they are inside its files.
    """

    image_folder: str | None

    def add(self, image: ExportImage, data: bytes | None) -> None:
        """Write an image with its referents; ``data`` are the image's bytes, where copied."""

    def close(self, summary: ExportSummary | None) -> None:
        """Finish all files; the summary is None when the export failed."""


def select_outcomes(format_: Format, outcomes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the outcomes that a format can hold, restricted to the given ones, if any."""
    able: tuple[str, ...] = OUTCOMES_WITH_MASK
    if format_ in _FORMATS_WITH_NO_REFERENT:
        able = (*OUTCOMES_WITH_MASK, NO_REFERENT)
    return tuple(name for name in able if not outcomes or name in outcomes)
