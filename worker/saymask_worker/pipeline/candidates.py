"""From scores, and what other sources offer, to the candidates of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from saymask.contract import CLICKS_SOURCE, PROPOSALS_SOURCE, Candidate, CocoRle, ProposedPair
from saymask.masks import Mask, compute_box_xywh, compute_iou, encode_coco_rle
from saymask_worker.config.pipeline import SourcesConfig, SuggestionsConfig
from saymask_worker.images.resize import to_original_size
from saymask_worker.images.types import Floats, Proposals, Scores
from saymask_worker.masks.clicks import ClickedMask
from saymask_worker.masks.sources.offers import Offer
from saymask_worker.masks.sources.ranking import Contender, rank_together
from saymask_worker.pipeline.generation.propose import ProposedExpression
from saymask_worker.pipeline.suggestions import are_marks_together, find_mark, select_distinct

_LARGEST_LOGIT = 20.0


@dataclass(frozen=True)
class Ranking:
    """Candidates, best first, and the probability that the first is right; None where unknown."""

    candidates: tuple[Candidate, ...]
    confidence: float | None


def build_clicked(answers: Sequence[ClickedMask]) -> tuple[Candidate, ...]:
    """Offer the masks of clicks in their order, scored with the decoder's own estimate."""
    return tuple(
        build_candidate(
            answer.mask, rank, answer.predicted_iou, answer.predicted_iou, answer.stability,
            CLICKS_SOURCE,
        )
        for rank, answer in enumerate(answers, start=1)
    )  # fmt: skip


def rank_proposals(
    proposals: Proposals,
    scores: Scores,
    probabilities: Floats | None,
    chosen: Sequence[int],
) -> Ranking:
    """Offer the proposals that were chosen, best first."""
    candidates = tuple(
        build_proposal(proposals, index, rank, float(scores.total[index]))
        for rank, index in enumerate(chosen, start=1)
    )
    if probabilities is None or len(probabilities) == 0:
        return Ranking(candidates, None)
    return Ranking(candidates, float(probabilities[0]))


def rank_with_offers(
    proposals: Proposals,
    chosen: Sequence[int],
    probabilities: Floats,
    offers: Sequence[Offer],
    k: int,
    config: SourcesConfig,
    suggestions: SuggestionsConfig,
) -> Ranking:
    """Rank the best proposals and the masks of other sources by probability; take the k best.

    Of masks that are the same answer to a person, only the better one.

    Args:
        proposals: of the image.
        chosen: indices of n proposals that compete, best first.
        probabilities: (n,) of these.
        offers: masks of other sources.
        k: how many candidates.
        config: how they become one list.
        suggestions: which are the same answer.
    """
    contenders = [
        Contender(PROPOSALS_SOURCE, index, proposals.masks[index], float(probability))
        for index, probability in zip(chosen, probabilities, strict=True)
    ]
    size_hw = (proposals.masks.shape[1], proposals.masks.shape[2])
    contenders += [
        Contender(offer.source, index, _shrink(offer.mask.mask, size_hw), offer.mask.probability)
        for index, offer in enumerate(offers)
    ]
    ranked = rank_together(contenders, config.same_object_iou)
    marks = [find_mark(contender.mask) for contender in ranked]

    def is_same(first: int, second: int) -> bool:
        iou = compute_iou(ranked[first].mask, ranked[second].mask)
        return iou >= suggestions.same_answer_iou or are_marks_together(
            marks[first], marks[second], suggestions
        )

    candidates = []
    offered_places = select_distinct(range(len(ranked)), is_same, k)
    for rank, contender in enumerate((ranked[place] for place in offered_places), start=1):
        score = _to_logit(contender.probability)
        if contender.source == PROPOSALS_SOURCE:
            candidates.append(build_proposal(proposals, contender.index, rank, score))
        else:
            offered, own = offers[contender.index].mask, contender.source
            quality = offered.probability
            candidates.append(build_candidate(offered.mask, rank, score, quality, quality, own))
    return Ranking(tuple(candidates), ranked[0].probability if ranked else None)


def build_pair(item: ProposedExpression, proposals: Proposals, rank: int) -> ProposedPair:
    """Build the message about an object for which expressions were proposed."""
    return ProposedPair(
        expressions=item.expressions,
        noun=item.object.noun,
        confidence=round(item.confidence, 4),
        candidate=build_proposal(proposals, item.object.index, rank, _to_logit(item.confidence)),
    )


def build_proposal(proposals: Proposals, index: int, rank: int, score: float) -> Candidate:
    """Build the candidate of a proposal, at the image's size."""
    return build_candidate(
        to_original_size(proposals.masks[index], proposals.size_hw),
        rank,
        score,
        float(proposals.predicted_iou[index]),
        float(proposals.stability_score[index]),
        PROPOSALS_SOURCE,
    )


def build_candidate(
    mask: Mask, rank: int, score: float, predicted_iou: float, stability_score: float, source: str
) -> Candidate:
    """Build a candidate of a mask (H, W) at the image's size."""
    return Candidate(
        rank=rank,
        score=round(score, 6),
        mask=CocoRle.model_validate(encode_coco_rle(mask)),
        box_xywh=compute_box_xywh(mask),
        predicted_iou=round(predicted_iou, 4),
        stability_score=round(stability_score, 4),
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
