"""Recorded decisions and how the pipeline ranks them: what tuning learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from saymask.datasets import Dataset
from saymask.datasets.model import DatasetImage
from saymask.errors import DatasetError, InvalidExpression
from saymask.left_out import LeftOut, OnProgress
from saymask.masks import compute_iou, decode_coco_rle
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.resize import to_original_size
from saymask_worker.images.types import Floats, PreparedImage, Scores
from saymask_worker.pipeline.pipeline import Pipeline, open_image
from saymask_worker.ranking.confidence import compute_lead

MIN_EXPRESSIONS = 40
MIN_IMAGES = 10


@dataclass(frozen=True)
class Decision:
    """One expression and what was decided about it.

    Attributes:
        image: which photo it is about.
        prepared: the same, prepared; without its masks, which would not fit into memory.
        ious: (N,) of each proposal with the mask; None where nothing was meant.
    """

    image: int
    prepared: PreparedImage
    text: str
    ious: Floats | None


@dataclass(frozen=True)
class Ranked:
    """How one decision comes out under some weights.

    Attributes:
        scores: of all proposals.
        lead: of rank 1 over another object, nats.
        iou: of rank 1 with the mask; 0 where nothing was meant.
    """

    scores: Scores
    lead: float
    iou: float


def read_decisions(
    pipeline: Pipeline,
    dataset: Dataset,
    progress: OnProgress,
    left_out: LeftOut,
) -> list[Decision]:
    """Prepare every photo, or find it prepared, and compare its proposals with the masks.

    Raises:
        DatasetError: there are too few decisions.
    """
    expressions = sum(bool(e.parts) for image in dataset.images for e in image.expressions)
    if expressions < MIN_EXPRESSIONS or len(dataset.images) < MIN_IMAGES:
        raise DatasetError(
            f"There are only {expressions} decisions with a mask, on"
            f" {len(dataset.images)} photos; tuning needs at least"
            f" {MIN_EXPRESSIONS} on {MIN_IMAGES}.",
            "The weights in use are kept. Accept more suggestions, export again, and tune then.",
        )
    decisions: list[Decision] = []
    for index, image in enumerate(dataset.images):
        with left_out.guard(image.path.name):
            decisions += _read_image(pipeline, image, index)
        progress(index + 1, len(dataset.images))
    return [decision for decision in decisions if len(decision.prepared.proposals)]


def _read_image(pipeline: Pipeline, image: DatasetImage, index: int) -> list[Decision]:
    """The decisions about one photo.

    Raises:
        DatasetError, ImageError: it cannot be used.
    """
    try:
        data = image.path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{image.path} cannot be read: {error}.") from error
    prepared, _ = open_image(pipeline, data, image.path.stem)
    masks = [to_original_size(mask, image.size_hw) for mask in prepared.proposals.masks]
    slim = _drop_masks(prepared)
    decisions = []
    for expression in image.expressions:
        target = decode_coco_rle(expression.target)
        ious = np.array([compute_iou(target, mask) for mask in masks], dtype=np.float32)
        decisions.append(Decision(index, slim, expression.text, ious if expression.parts else None))
    return decisions


def _drop_masks(prepared: PreparedImage) -> PreparedImage:
    """Return what scoring needs of an image: everything but the masks' pixels."""
    proposals = prepared.proposals
    dots = np.ones((len(proposals), 1, 1), dtype=bool)
    return replace(prepared, proposals=replace(proposals, masks=dots))


def rank_decisions(
    pipeline: Pipeline, decisions: Sequence[Decision], scoring: ScoringConfig
) -> list[Ranked | None]:
    """Rank the proposals of every decision; None where the expression cannot be scored."""
    tuned = replace(pipeline, config=replace(pipeline.config, scoring=scoring))
    ranked: list[Ranked | None] = []
    for decision in decisions:
        try:
            _, scores = tuned.rank(decision.prepared, decision.text)
        except InvalidExpression:
            ranked.append(None)
            continue
        first = int(scores.order[0])
        lead = compute_lead(scores, decision.prepared.geometry, scoring, first)
        iou = 0.0 if decision.ious is None else float(decision.ious[first])
        ranked.append(Ranked(scores, lead, iou))
    return ranked
