"""What an export is asked for, and the counts of what it wrote."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from saymask.errors import InvalidRequest, SaymaskError
from saymask_backend.export.merge import NO_REFERENT, Conflicts, MergeRule
from saymask_backend.export.model import SPLITS, ExportImage, Split
from saymask_backend.records.verifications import VerificationSummary

Format = Literal[
    "coco", "refcoco", "grefcoco", "huggingface", "yolo", "reasonseg", "grounding", "tao"
]
IMAGE_FOLDER = "images"
Images = Literal["copy", "link", "none"]
Coordinates = Literal["pixels", "thousandths"]

OUTCOMES_WITH_MASK = ("accepted", "edited", "relabelled", "drawn_after_rejection", "drawn")
# Formats that can hold an expression without a referent.
FORMATS_WITH_NO_REFERENT: tuple[Format, ...] = (
    "grefcoco", "huggingface", "reasonseg", "grounding", "tao",
)  # fmt: skip


class ExportError(SaymaskError):
    """The export cannot be made as asked; nothing incomplete is left under its name."""


@dataclass(frozen=True)
class SplitRule:
    """Shares of train, val and test, adding up to 1; another seed assigns images anew."""

    shares: tuple[float, float, float]
    seed: int

    def choose(self, sha256: str) -> Split:
        """Return the split of an image, from its content hash."""
        digest = hashlib.sha256(f"{self.seed}:{sha256}".encode()).hexdigest()
        position = int(digest[:13], 16) / 16**13
        for split, share in zip(SPLITS, self.shares, strict=True):
            position -= share
            if position < 0:
                return split
        # Rounding at the very end of the last share.
        return next(
            s for s, share in reversed(list(zip(SPLITS, self.shares, strict=True))) if share
        )


def parse_split(text: str, seed: int) -> SplitRule:
    """Parse ``80/10/10`` (train, val, test), any numbers that are not negative.

    Raises:
        InvalidRequest: not three numbers, one is negative, or all are zero.
    """
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    total = sum(parts)
    if len(parts) != len(SPLITS) or min(parts) < 0 or not 0 < total < float("inf"):
        raise InvalidRequest(
            f"{text!r} is not a split.", "Write shares of train, val and test: --split 80/10/10."
        )
    return SplitRule((parts[0] / total, parts[1] / total, parts[2] / total), seed)


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
        polygons: instead of run lengths, where they reproduce the mask exactly; in ``grounding``
            simplified outlines in addition to the boxes.
        coordinates: of ``grounding``: pixels, or thousandths of width and height.
        categories: head noun to category.
        licence: of all images, where known.
        skip_missing: leave out images that cannot be read, instead of stopping.
        replace: an earlier export at ``out``, whose categories keep their ids.
        verification: the verdicts of second annotators, if there are any.
    """

    format: Format
    out: Path
    query: dict[str, Any]
    split: SplitRule
    images: Images
    merge: MergeRule
    polygons: bool = False
    coordinates: Coordinates = "pixels"
    categories: Mapping[str, str] | None = None
    licence: str | None = None
    skip_missing: bool = False
    replace: bool = False
    verification: VerificationSummary | None = None

    @property
    def holds_no_referent(self) -> bool:
        """Whether the format can hold an expression without a referent."""
        return self.format in FORMATS_WITH_NO_REFERENT


@dataclass(frozen=True)
class ExportSummary:
    """What was written, or would be.

    ``turned`` photos were written anew with upright pixels, ``converted`` ones as JPEG;
    ``inexact`` masks kept run lengths although polygons were asked for. A dry run reads no photo
    and traces no mask.
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
    converted: int
    failed: tuple[str, ...]
    model_versions: tuple[str, ...]
    inexact: int = 0


class Tally:
    """Counts of one export; ``failed`` names the photos that are left out."""

    def __init__(self, failed: Sequence[str] = ()) -> None:
        self.failed = list(failed)
        self._images = self._referents = self._expressions = self._no_referent = 0
        self._turned = self._converted = 0
        self._splits: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._versions: set[str] = set()
        self._shared = self._contradictions = self._compared = 0
        self._iou_sum = 0.0

    def add_conflicts(self, conflicts: Conflicts) -> None:
        """Count how annotators agreed on one image."""
        self._shared += conflicts.shared
        self._contradictions += conflicts.contradictions
        self._compared += len(conflicts.ious)
        self._iou_sum += sum(conflicts.ious)

    def add(self, image: ExportImage) -> None:
        """Count an image and its referents."""
        if not image.referents:
            return
        self._images += 1
        self._turned += image.is_turned
        self._converted += image.is_converted
        self._splits[image.split] += 1
        for referent in image.referents:
            self._referents += 1
            self._no_referent += referent.coco_rle is None
            for sentence in referent.sentences:
                self._expressions += 1
                self._outcomes[sentence.outcome] += 1
                if sentence.model_version:
                    self._versions.add(sentence.model_version)

    def summarise(self) -> ExportSummary:
        """Return the counts so far."""
        mean = round(self._iou_sum / self._compared, 4) if self._compared else None
        return ExportSummary(
            photos=self._images,
            referents=self._referents,
            expressions=self._expressions,
            no_referent=self._no_referent,
            per_split=dict(sorted(self._splits.items())),
            per_outcome=dict(sorted(self._outcomes.items())),
            shared=self._shared,
            contradictions=self._contradictions,
            agreement_iou=mean,
            turned=self._turned,
            converted=self._converted,
            failed=tuple(self.failed),
            model_versions=tuple(sorted(self._versions)),
        )


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
    if format_ in FORMATS_WITH_NO_REFERENT:
        able = (*OUTCOMES_WITH_MASK, NO_REFERENT)
    return tuple(name for name in able if not outcomes or name in outcomes)
