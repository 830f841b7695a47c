"""Compares a new model with the one in use, on photos that neither has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from saymask.errors import InvalidExpression
from saymask.intervals import bootstrap_difference
from saymask.masks import compute_iou, decode_coco_rle
from saymask.model_registry import Verdict
from saymask_worker.images.types import EncodedImage, PreparedImage
from saymask_worker.masks.sources.base import CandidateSource
from saymask_worker.pipeline.pipeline import Pipeline, open_image
from saymask_worker.training.samples import Sample


def compare_sources(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    old: Sequence[CandidateSource],
    new: Sequence[CandidateSource],
    against: str,
    between_sentences: Callable[[], None] = lambda: None,
) -> Verdict:
    """Compare the IoU of rank 1 with old and new sources, sentence by sentence.

    The interval is a paired bootstrap over photos. A source that fails ends the comparison,
    or it would count as a worse one.

    Args:
        pipeline: with the method and proposals in use.
        samples: neither model was trained on them, or its best epoch chosen by them.
        old: sources in use.
        new: sources that may replace them.
        against: name of the model in use; empty for none.
        between_sentences: called between sentences; may wait.
    """
    before, after = (replace(pipeline, sources=s, strict_sources=True) for s in (old, new))
    images = {path: index for index, path in enumerate(sorted({s.image for s in samples}))}
    rows: list[tuple[float, float, int]] = []
    for path, index in images.items():
        data = path.read_bytes()
        encoded = EncodedImage(path.read_bytes)
        prepared, _ = open_image(pipeline, data)
        for sample in samples:
            if sample.image == path:
                for sentence in sample.sentences:
                    between_sentences()
                    old_iou = _measure(before, prepared, encoded, sample, sentence)
                    new_iou = _measure(after, prepared, encoded, sample, sentence)
                    rows.append((old_iou, new_iou, index))
    old_ious, new_ious, groups = (np.array(column) for column in zip(*rows, strict=True))
    interval = bootstrap_difference(new_ious, old_ious, groups)
    return Verdict(against, interval.mean, interval.low, interval.high, len(rows), len(images))


def _measure(
    pipeline: Pipeline,
    prepared: PreparedImage,
    encoded: EncodedImage,
    sample: Sample,
    sentence: str,
) -> float:
    """The IoU of rank 1 with the target; 0 where nothing is answered."""
    try:
        result = pipeline.segment(prepared, sentence, 1, preparation=None, encoded=encoded)
    except InvalidExpression:
        return 0.0
    if not result.candidates:
        return 0.0
    mask = decode_coco_rle(result.candidates[0].mask.as_dict())
    return compute_iou(mask, decode_coco_rle(sample.target))
