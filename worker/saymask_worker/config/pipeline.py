"""The pipeline's configuration as data.

Every number that changes a score or a mask is a field here. The fingerprint of a configuration is
part of every cache key and every model version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from saymask_worker.config.generation import GenerationConfig
from saymask_worker.config.scoring import FAITHFUL_SCORING, ScoringConfig

# Raised when the same configuration prepares images differently, because of other code or other
# nouns in ``data/nouns.txt``, so that old and new results are not mixed.
_REVISION = 3

Generator = Literal["mobile-sam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "sam3", "given"]
MethodName = Literal["corrected", "faithful"]


@dataclass(frozen=True)
class ProposalsConfig:
    """How class-agnostic masks are generated.

    Chosen on 25 development images, unless a source is named.

    Attributes:
        generator: which segment-anything model.
        points_per_side: side of the regular grid of points.
        points_share: share of these points that become prompts, those that differ most; see
            ``saymask_worker.masks.point_prompts``.
        points_place_weight: weight of position relative to the embedding when points are compared.
        predicted_iou_min: a mask whose predicted IoU is lower is dropped.
        stability_min: a mask whose stability score is lower is dropped.
        duplicate_iou_max: of two masks that overlap more than this, the better one stays.
        min_area_share: masks smaller than this share of the image are dropped.
        max_count: at most this many proposals; beyond that the smallest are dropped.
        box_rounds: how often the boxes of masks are used as prompts, which finds wholes where
            points found parts.
        stability_offset: logit by which the threshold is shifted for the stability score; as in
            segment-anything.
        voter_predicted_iou_min: masks of point prompts whose predicted IoU is higher count for
            the consensus, whether or not they become proposals.
        vote_iou_min: a mask counts for another one when their IoU is higher.
        coarse_duplicate_iou: of masks whose coarse versions overlap more than this only the best
            is upscaled; 0.98 loses none of 509 masks on 12 images.
        coarse_min_shared_px: coarse masks that share no more pixels than this are never taken for
            duplicates.
        coarse_quality_tolerance: a duplicate is upscaled all the same when its quality exceeds
            the earlier mask's by more than this.
        outline_logit: a coarse pixel is upscaled when it or a neighbour lies within this logit of
            the mask's edge.
        padding_step: of the padding to a square the decoder sees every n-th token in both
            directions; see ``saymask_worker.masks.frame``.
    """

    generator: Generator = "mobile-sam"
    points_per_side: int = 20
    points_share: float = 0.9
    points_place_weight: float = 6.0
    predicted_iou_min: float = 0.75
    stability_min: float = 0.85
    duplicate_iou_max: float = 0.85
    min_area_share: float = 0.0005
    max_count: int = 100
    box_rounds: int = 1
    stability_offset: float = 1.0
    voter_predicted_iou_min: float = 0.5
    vote_iou_min: float = 0.8
    coarse_duplicate_iou: float = 0.98
    coarse_min_shared_px: int = 40
    coarse_quality_tolerance: float = 0.02
    outline_logit: float = 2.0
    padding_step: int = 4


@dataclass(frozen=True)
class SuggestionsConfig:
    """Which masks are offered together; chosen on 25 development images.

    Attributes:
        same_answer_iou: of two masks that overlap at least this much, the better one is offered.
        marks_apart_x: of two masks whose accept marks in Label Studio's editor lie closer than
            this share of the image's width, and ...
        marks_apart_y: ... closer than this share of its height, the better one is offered: the
            marks would lie on top of each other.
    """

    same_answer_iou: float = 0.8
    marks_apart_x: float = 0.02
    marks_apart_y: float = 0.02


@dataclass(frozen=True)
class SourcesConfig:
    """How masks of several sources become one list.

    Attributes:
        considered: number of best proposals that compete with the masks of other sources.
        same_object_iou: masks of two sources that overlap at least this much are one answer.
        piece_share: connected pieces and holes smaller than this share of a mask are removed from
            what is offered, proposals included; their scores are of the whole mask.
        min_area_share: masks smaller than this share of the image are dropped.
    """

    considered: int = 10
    same_object_iou: float = 0.7
    piece_share: float = 0.01
    min_area_share: float = 0.0005


# As published: the best masks, however much alike, and as they were generated.
NO_DEDUPLICATION = SuggestionsConfig(same_answer_iou=2.0, marks_apart_x=0.0, marks_apart_y=0.0)
_PRESCRIBED: dict[MethodName, dict[str, Any]] = {
    "corrected": {},
    "faithful": {
        "scoring": FAITHFUL_SCORING,
        "suggestions": NO_DEDUPLICATION,
        "sources": SourcesConfig(piece_share=0.0),
    },
}


@dataclass(frozen=True)
class ClicksConfig:
    """How clicks and boxes become masks.

    Chosen on the sample images, by eye.

    Attributes:
        start_logit: magnitude of the logits of a mask to start from.
        beside_share: a click outside the box by up to this share of its sides still concerns the
            mask.
        duplicate_iou: of two answers that overlap at least this much, the first stays.
        stability_offset: as in ``ProposalsConfig``.
    """

    start_logit: float = 20.0
    beside_share: float = 0.1
    duplicate_iou: float = 0.9
    stability_offset: float = 1.0


@dataclass(frozen=True)
class FeaturesConfig:
    """How proposals become features (``docs/method.md``).

    Attributes:
        token_floor: weight of the best covered token of a small mask.
        crop_margin: surroundings of a crop, as a share of the mask's longer side.
        region_tiles: scales of the region token, as numbers of tiles per side of the image; a third
             scale costs as much as two and decides nothing.
        crops_max: at most this many proposals are cropped; for the others the feature of the crop
            is predicted, see ``saymask_worker.ranking.crop_budget``. With 0 the region token
            replaces all views of a proposal: one pass over the image and none over its proposals.
        crop_area_weight: weight, in the choice of what is cropped, of a proposal's area, per factor
            of ten, ...
        crop_consensus_weight: ... its consensus, ...
        crop_level_weight: ... its level and ...
        crop_thing_weight: ... its log-probability of showing a thing, by its region token.
        crop_ridge: strength of the penalty of that regression, above 0.
    """

    token_floor: float = 0.5
    crop_margin: float = 0.1
    region_tiles: tuple[int, ...] = (1, 2)
    crops_max: int = 26
    crop_area_weight: float = 0.75
    crop_consensus_weight: float = 3.0
    crop_level_weight: float = 0.5
    crop_thing_weight: float = 1.0
    crop_ridge: float = 0.25


@dataclass(frozen=True)
class FirstLookConfig:
    """The quick answer about an image that is not prepared; chosen on 25 development images.

    Attributes:
        points_per_side: side of the regular grid of points.
        points_share: as in ``ProposalsConfig``.
        initial_crops: number of an expression's best proposals that are cropped at once.
        total_crops: number that are cropped in all; the features of other crops are predicted.
    """

    points_per_side: int = 20
    points_share: float = 0.4
    initial_crops: int = 8
    total_crops: int = 12


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that changes a result.

    Attributes:
        method: ``corrected``, or ``faithful``: the published code step by step, which uses only
            ``visual_global_weight`` and ``text_global_weight`` of the scoring.
        nouns: fingerprint of a custom open vocabulary; empty for the worker's.
        first_look: the quick answer about an image that is not prepared.
    """

    method: MethodName = "corrected"
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    clicks: ClicksConfig = field(default_factory=ClicksConfig)
    nouns: str = ""
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    suggestions: SuggestionsConfig = field(default_factory=SuggestionsConfig)
    first_look: FirstLookConfig = field(default_factory=FirstLookConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    def fingerprint(self) -> str:
        """Return a short hash of everything that changes a result."""
        return _hash(asdict(self))

    def preparation_fingerprint(self) -> str:
        """Return a short hash of what a prepared image depends on.

        It does not depend on the weights of the score, so that these can be tuned.
        """
        scoring = self.scoring
        return _hash(
            {
                "proposals": asdict(self.proposals),
                "method": self.method,
                "features": asdict(self.features),
                # By these it is decided which proposals are cropped.
                "thing": [
                    scoring.temperature, scoring.thing_temperature, scoring.thing_floor, self.nouns
                ],
            }
        )  # fmt: skip


def to_method(config: PipelineConfig, method: MethodName) -> PipelineConfig:
    """Return the configuration of a method, with what that method prescribes."""
    return replace(config, method=method, **_PRESCRIBED[method])


def to_first_look(config: PipelineConfig) -> PipelineConfig:
    """Return the configuration of a first look: fewer points, and no view of single proposals."""
    full, look = config.proposals, config.first_look
    return replace(
        config,
        proposals=replace(
            full,
            points_per_side=min(full.points_per_side, look.points_per_side),
            points_share=min(full.points_share, look.points_share),
        ),
        features=replace(config.features, crops_max=0),
    )


def _hash(values: object) -> str:
    """Hash canonical JSON: sorted keys."""
    body = json.dumps([_REVISION, values], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:10]
