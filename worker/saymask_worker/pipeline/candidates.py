"""From scores, and what other sources offer, to the candidates of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from saymask.contract import PROPOSALS_SOURCE, Candidate, CocoRle, ProposedPair
from saymask.masks import Mask, compute_box_xywh, compute_iou, encode_coco_rle
from saymask_worker.config.pipeline import SourcesConfig, SuggestionsConfig
from saymask_worker.images.resize import to_original_size
from saymask_worker.images.types import Floats, Proposals, Scores
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.masks.sources.offers import clean_mask
from saymask_worker.pipeline.generation.propose import ProposedExpression
from saymask_worker.pipeline.suggestions import compare_masks, select_distinct

_LARGEST_LOGIT = 20.0


def rank_proposals(
    proposals: Proposals,
    scores: Scores,
    probabilities: Floats | None,
    chosen: Sequence[int],
    config: SourcesConfig,
) -> tuple[Candidate, ...]:
    """Offer the proposals that were chosen, best first; ``probabilities`` are of these first."""
    known = [None] * len(chosen) if probabilities is None else [float(p) for p in probabilities]
    return tuple(
        build_proposal(proposals, index, rank, float(scores.total[index]), known[rank - 1], config)
        for rank, index in enumerate(chosen, start=1)
    )


def rank_with_offers(
    proposals: Proposals,
    chosen: Sequence[int],
    probabilities: Floats,
    offers: Sequence[SourceMask],
    k: int,
    config: SourcesConfig,
    suggestions: SuggestionsConfig,
) -> tuple[Candidate, ...]:
    """Rank the best proposals and the masks of other sources by probability; take the k best.

    Of masks that are the same answer to a person, only the better one is taken.

    Args:
        proposals: of the image.
        chosen: indices of n proposals that compete, best first.
        probabilities: (n,) of these.
        offers: masks of other sources.
        k: number of candidates.
        config: how they become one list.
        suggestions: which are the same answer.
    """
    work_hw = (proposals.masks.shape[1], proposals.masks.shape[2])
    contenders = [
        SourceMask(proposals.masks[index], float(probability), source=PROPOSALS_SOURCE)
        for index, probability in zip(chosen, probabilities, strict=True)
    ]
    contenders += [replace(offer, mask=_shrink(offer.mask, work_hw)) for offer in offers]
    ranked = rank_together(contenders, config.same_object_iou)
    masks = [contenders[index].mask for index, _ in ranked]
    is_same = compare_masks(masks, lambda a, b: compute_iou(masks[a], masks[b]), suggestions)
    candidates = []
    for rank, position in enumerate(select_distinct(range(len(ranked)), is_same, k), start=1):
        index, probability = ranked[position]
        score = _to_logit(probability)
        if index < len(chosen):
            candidates.append(
                build_proposal(proposals, chosen[index], rank, score, probability, config)
            )
        else:
            offer = offers[index - len(chosen)]
            candidates.append(build_offered(offer, rank, score, probability))
    return tuple(candidates)


def rank_together(masks: Sequence[SourceMask], same_object_iou: float) -> list[tuple[int, float]]:
    """Rank masks of one size by probability; an object that several sources found counts once.

    Of such an object the most probable mask stays. Sources that agree support each other: its
    probability becomes that of not all of them being wrong, ``1 - (1 - p) (1 - q)``. Masks of one
    source are never taken together; ties keep the order given.

    Returns:
        Index and probability of the masks that stay, best first.
    """
    ranked: list[tuple[int, float]] = []
    found_by: list[set[str]] = []
    for index in sorted(range(len(masks)), key=lambda index: -masks[index].probability):
        mask = masks[index]
        for position, (earlier, probability) in enumerate(ranked):
            is_other = mask.source not in found_by[position]
            if is_other and compute_iou(masks[earlier].mask, mask.mask) >= same_object_iou:
                ranked[position] = earlier, 1 - (1 - probability) * (1 - mask.probability)
                found_by[position].add(mask.source)
                break
        else:
            ranked.append((index, mask.probability))
            found_by.append({mask.source})
    return sorted(ranked, key=lambda item: -item[1])


def build_pair(
    item: ProposedExpression,
    proposals: Proposals,
    rank: int,
    described_by: str,
    config: SourcesConfig,
) -> ProposedPair:
    """Build the message about an object for which expressions were proposed."""
    score = _to_logit(item.confidence)
    return ProposedPair(
        expressions=item.expressions,
        noun=item.object.noun,
        confidence=round(item.confidence, 4),
        candidate=build_proposal(
            proposals, item.object.index, rank, score, item.confidence, config
        ),
        described_by=described_by,
    )


def build_proposal(
    proposals: Proposals,
    index: int,
    rank: int,
    score: float,
    confidence: float | None,
    config: SourcesConfig,
) -> Candidate:
    """Build the candidate of a proposal, cleaned, at the image's size."""
    return _build_candidate(
        to_original_size(clean_mask(proposals.masks[index], config), proposals.size_hw),
        rank,
        score,
        float(proposals.predicted_iou[index]),
        float(proposals.stability_score[index]),
        confidence,
        PROPOSALS_SOURCE,
    )


def build_offered(
    offer: SourceMask, rank: int, score: float, confidence: float | None
) -> Candidate:
    """Build the candidate of a source's mask (H, W) at the image's size."""
    quality = offer.probability
    stability = quality if offer.stability is None else offer.stability
    return _build_candidate(offer.mask, rank, score, quality, stability, confidence, offer.source)


def _build_candidate(
    mask: Mask,
    rank: int,
    score: float,
    predicted_iou: float,
    stability_score: float,
    confidence: float | None,
    source: str,
) -> Candidate:
    return Candidate(
        rank=rank,
        score=round(score, 6),
        mask=CocoRle.model_validate(encode_coco_rle(mask)),
        box_xywh=compute_box_xywh(mask),
        predicted_iou=round(predicted_iou, 4),
        stability_score=round(stability_score, 4),
        confidence=None if confidence is None else round(confidence, 4),
        source=source,
    )


def _shrink(mask: Mask, size_hw: tuple[int, int]) -> Mask:
    """Bring a mask (H, W) to the proposals' working size."""
    if mask.shape == size_hw:
        return mask
    height, width = size_hw
    image = Image.fromarray(mask).convert("L").resize((width, height), Image.Resampling.BOX)
    return np.asarray(image) >= 128


def _to_logit(probability: float) -> float:
    if probability <= 0 or probability >= 1:
        return math.copysign(_LARGEST_LOGIT, probability - 0.5)
    logit = math.log(probability / (1 - probability))
    return min(max(logit, -_LARGEST_LOGIT), _LARGEST_LOGIT)
