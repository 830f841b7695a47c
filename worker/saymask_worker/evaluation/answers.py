"""The answers of an evaluation: one line of JSON per image, in a file it is resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from saymask.errors import DatasetError
from saymask_worker.evaluation.metrics import ErrorKind
from saymask_worker.images.jsonl_log import ResumableLog, read_provenance

ANSWERS_FILE = "outcomes.jsonl"
TOP = 5
"""Number of a variant's best masks that are measured."""


class _Line(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )


class Answer(_Line):
    """What one variant answered to one expression.

    Attributes:
        top: intersection and union in pixels of its best masks, best first, at most ``TOP``.
        kind: why the first is wrong, or ``right``.
        same_category: whether the first lies on an object of the target's category; None when
            the dataset does not say.
        score: of the first mask.
        gap: how far the first is ahead of the next that is another object.
        masks: COCO RLE of the first and of that next one; only the run's first variant keeps them.
    """

    top: tuple[tuple[int, int], ...]
    kind: ErrorKind
    same_category: bool | None
    score: float
    gap: float
    masks: tuple[dict[str, Any], ...] = ()


class ExpressionAnswers(_Line):
    """One expression and every variant's answer to it.

    Attributes:
        id: of the expression in its image.
        kind: of the expression, where the dataset says.
        target_px: area of the target, pixels.
        oracle_iou: the best IoU that any proposal reaches.
        answers: by the variant's name.
    """

    id: str
    text: str
    kind: str | None
    target_px: int
    oracle_iou: float
    answers: dict[str, Answer]


class ImageAnswers(_Line):
    """One image.

    Attributes:
        image: its file name.
        proposals: how many there were.
        expressions: in the order of the dataset.
        failure: why there are none; empty where all went well.
    """

    image: str = Field(alias="photo")
    proposals: int
    expressions: tuple[ExpressionAnswers, ...]
    failure: str = Field("", exclude=True)


def open_answers(out: Path, provenance: dict[str, Any]) -> ResumableLog[ImageAnswers]:
    """Open the log of an evaluation in a folder; see ``ResumableLog``."""
    return ResumableLog(out / ANSWERS_FILE, ImageAnswers, provenance)


def load_answers(out: Path) -> tuple[dict[str, Any], list[ImageAnswers]]:
    """Return provenance and answers of a finished run, sorted by file name.

    Raises:
        DatasetError: there is none, it is damaged or not finished.
    """
    path = out / ANSWERS_FILE
    provenance = read_provenance(path)
    if provenance is None:
        raise DatasetError(f"{path} holds no evaluation.", "Give the --out of an earlier run.")
    images = open_answers(out, provenance).read()
    if len(images) < provenance["photos"]:
        raise DatasetError(
            f"{path} is not finished: {len(images)} of {provenance['photos']} photos.",
            "Run that evaluation again; it continues where it stopped.",
        )
    return provenance, sorted(images, key=lambda image: image.image)
