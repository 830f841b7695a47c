"""The pipeline's configuration as data.

Every number that changes a score or a mask is a field here. The fingerprint of a configuration is
part of every cache key and every model version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from worker.proposing_config import ProposingConfig

# Raised when the same configuration comes to prepare images differently, by other code or by other
# nouns in ``worker/data/nouns.txt``, so that results of the old and of the new are not mixed.
_REVISION = 3

Generator = Literal["mobile-sam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "sam3", "given"]
MethodName = Literal["corrected", "faithful"]
TokenMask = Literal["area", "point"]
TokenMasking = Literal["multiply", "attention"]
Crop = Literal["square", "published"]
PixelStatistics = Literal["clip", "imagenet"]
NounPhrase = Literal["own", "published"]
Views = Literal["all", "regions"]

Value = TypeVar("Value")
_OMIT_DEFAULT = "omit_default"


def _constant(default: Value) -> Value:
    """Declare a field that is left out of the fingerprint while it has its default.

    These were constants before they became fields: images that were prepared then are still found.
    """
    value: Value = field(default=default, metadata={_OMIT_DEFAULT: True})
    return value


@dataclass(frozen=True)
class ProposalsConfig:
    """How class-agnostic masks are generated.

    Chosen on 25 development images, unless a source is named.

    Attributes:
        generator: which segment-anything model.
        points_per_side: side of the regular grid of points.
        points_share: share of these points that become prompts, those that differ most; see
            ``worker.proposals.point_prompts``.
        points_place_weight: of their place, beside the embedding, when points are compared.
        predicted_iou_min: a mask whose predicted IoU is lower is dropped.
        stability_min: a mask whose stability score is lower is dropped.
        duplicate_iou_max: of two masks that overlap more than this, the better one stays.
        min_area_share: masks smaller than this share of the image are dropped.
        max_count: at most this many proposals; beyond that the smallest are dropped.
        box_rounds: how often the boxes of masks are used as prompts, which finds wholes where
            points found parts.
        exact: generate the masks of the stock generator, pixel for pixel; then duplicates are
            dropped by box, and ``points_share``, ``points_place_weight``, ``duplicate_iou_max``,
            ``min_area_share``, ``box_rounds`` and ``padding_step`` are not used.
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
        padding_step: of what pads the image to a square the decoder sees one token in so many,
            each way; see ``worker.proposals.image_tokens``.
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
    exact: bool = False
    stability_offset: float = _constant(1.0)
    voter_predicted_iou_min: float = _constant(0.5)
    vote_iou_min: float = _constant(0.8)
    coarse_duplicate_iou: float = _constant(0.98)
    coarse_min_shared_px: int = _constant(40)
    coarse_quality_tolerance: float = _constant(0.02)
    outline_logit: float = _constant(2.0)
    padding_step: int = 4


@dataclass(frozen=True)
class SuggestionsConfig:
    """Which masks are offered beside each other; chosen on 25 development images.

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


# As published: the best masks, however much alike.
OFFER_ALL = SuggestionsConfig(same_answer_iou=2.0, marks_apart_x=0.0, marks_apart_y=0.0)


@dataclass(frozen=True)
class SourcesConfig:
    """How masks of several sources become one list.

    Attributes:
        considered: so many of the best proposals compete with the masks of other sources.
        same_object_iou: masks of two sources that overlap at least this much are one answer.
        piece_share: connected pieces and holes smaller than this share of a mask are removed.
        min_area_share: masks smaller than this share of the image are dropped.
    """

    considered: int = 10
    same_object_iou: float = 0.7
    piece_share: float = 0.02
    min_area_share: float = 0.0005


@dataclass(frozen=True)
class ClicksConfig:
    """How clicks and boxes become masks.

    Chosen on the sample images, by eye.

    Attributes:
        start_logit: magnitude of the logits of a mask to start from.
        beside_share: a click this share of the box's sides beside it still concerns the mask.
        duplicate_iou: of two answers that overlap at least this much, the first stays.
        stability_offset: as in ``ProposalsConfig``.
    """

    start_logit: float = 20.0
    beside_share: float = 0.1
    duplicate_iou: float = 0.9
    stability_offset: float = 1.0


@dataclass(frozen=True)
class FeaturesConfig:
    """How proposals become features: as published, or as corrected (``docs/method.md``).

    The defaults are the corrections.

    Attributes:
        token_mask: ``area``: the share of each token that is covered; ``point``: one sample per
            token, which misses most small objects.
        token_floor: with ``area``, weight of the best covered token of a small mask.
        token_masking: how the proposal enters the ViT; see ``ClipVisual.encode_global``.
        crop: ``square`` around the mask's extent, antialiased; ``published``: centre of mass plus
            and minus half the counts of rows and columns, squashed.
        crop_margin: with ``square``, surroundings as a share of the longer side.
        places: encode the places of the image too, for heat maps and region tokens.
        region_tiles: scales of the region token, by the image's division into so many tiles a side;
            a third scale costs as much as two and decides nothing.
        views: ``all``; or ``regions``: the region token stands for all views of a proposal, which
            costs one pass over the image and none over its proposals.
        crops_max: at most this many proposals, one or more, are cropped, and without ``places``
            all; for the others the feature of the crop is predicted, see
            ``worker.methods.crop_budget``.
        crop_area_weight: of a proposal's area, per factor of ten, where it is decided which are
            cropped, beside ...
        crop_consensus_weight: ... its consensus, ...
        crop_level_weight: ... its level and ...
        crop_thing_weight: ... its log-probability of showing a thing, by its region's token.
        crop_ridge: strength of the penalty of that regression, above 0.
        statistics: mean and deviation of ``clip``, filled with the mean; or of ``imagenet``.
    """

    token_mask: TokenMask = "area"
    token_floor: float = 0.5
    token_masking: TokenMasking = "attention"
    crop: Crop = "square"
    crop_margin: float = 0.1
    statistics: PixelStatistics = "clip"
    places: bool = True
    region_tiles: tuple[int, ...] = (1, 2)
    views: Views = field(default="all", metadata={_OMIT_DEFAULT: True})
    crops_max: int = 26
    crop_area_weight: float = 0.75
    crop_consensus_weight: float = 3.0
    crop_level_weight: float = 0.5
    crop_thing_weight: float = 1.0
    crop_ridge: float = 0.25


@dataclass(frozen=True)
class ScoringConfig:
    """How features become scores.

    A score is a log-odds: cosines are divided by the encoder's temperature, and all weights are
    in the same units (nats), so that they mean the same for any encoder. Chosen on 25 development
    images with the starter encoder, unless a source is named.

    Attributes:
        temperature: of the encoder, in cosine similarity: what makes one nat. For open_clip pairs
            it is measured on the sample images, see ``worker.encoders.calibration``.
        visual_global_weight: alpha of the paper, share of the global-context visual feature.
        text_global_weight: beta of the paper, share of the sentence; the rest is the noun phrase.
        normalise_first: features reach unit length before they are mixed; published: after.
        region_weight: share of the region's token in the visual feature, beside the other two.
        negatives_weight: how much the log-likelihood of all other nouns counts against a proposal;
            1 would make the appearance a log-probability.
        negatives_cosine_max: nouns whose text lies this close to the asked one do not compete.
        negatives_min: at least this many nouns compete, the most distant ones.
        coherence_weight: weight of the heat map of the expression inside a proposal.
        coherence_outside: share of the heat outside that counts against it.
        thing_weight: weight of the log-probability that a proposal shows a thing, not stuff or a
            part, unless the expression names stuff or a part.
        thing_temperature: of that probability, as a share of ``temperature``.
        thing_floor: smallest probability that counts.
        area_weight: prior for large masks, per factor of ten in area.
        consensus_weight: prior for masks that most points inside them yield: single objects.
        level_weight: prior for wholes over parts, per level of segment-anything's three.
        person_part_margin: where the noun names a person, a mask inside another that scores this
            nearly as well is ranked behind it.
        place_weight: prior for absolute words of place (left, top, middle).
        instance_margin: proposals this close to the best are taken as objects of the same noun.
        instance_softness: how fast the weight of an instance falls with its distance to the best.
        side_weight: weight of being the leftmost among them.
        row_weight: weight of being in the row that is named.
        other_row_share: how much an object of another row counts in comparisons within a row.
        ordinal_weight: weight of being the second from the left.
        size_weight: weight of being the largest.
        relation_weight: weight of being the nearest to the anchor.
        pair_weight: weight of what the referent holds or wears, looked for in and at it.
        excluded_weight: how much the same counts against it where the expression denies it.
        unnamed_weight: without a noun, weight of looking like a thing and not like a part or a
            background.
        unnamed_area_weight: without a noun, prior for large masks, per factor of ten in area.
        instance_area_max: no mask that covers more of the image is one of several objects.
        instance_overlap_max: an instance of which more than this share lies in another, or holds
            it, is the same object.
        same_object_iou: masks that overlap more than this are the same object.
        background_area_min: without a noun, masks that cover more of the image are background.
        part_inside_min: share of a part that must lie inside the person's mask.
        part_area_max: largest area of a part, as a share of the person's.
        lead_offset: offset of the logistic curve from rank 1's lead to the confidence; fitted
            with ``lead_slope`` to 213 expressions on 49 images.
        lead_slope: slope of that curve, per nat.
        lead_max: larger leads give no more confidence.
        presence_offset: offset of the logistic curve from a noun's log-odds against others to the
            probability that the image shows it, and ...
        presence_slope: ... its slope, per nat; fitted to 120 expressions.
        no_referent_below: with a lower probability people are told so; 0 never tells.
        noun_template: a noun is encoded bare and in this sentence, averaged.
    """

    temperature: float = 0.02
    visual_global_weight: float = 0.4
    text_global_weight: float = 0.35
    normalise_first: bool = True
    region_weight: float = 0.4
    negatives_weight: float = 0.5
    negatives_cosine_max: float = 0.7
    negatives_min: int = 30
    coherence_weight: float = 0.5
    coherence_outside: float = 0.8
    thing_weight: float = 0.5
    thing_temperature: float = 0.5
    thing_floor: float = 0.05
    area_weight: float = 0.25
    consensus_weight: float = 3.0
    level_weight: float = 0.5
    person_part_margin: float = 0.5
    place_weight: float = 2.0
    instance_margin: float = 4.0
    instance_softness: float = 5.0
    side_weight: float = 2.5
    row_weight: float = 2.5
    other_row_share: float = 0.1
    ordinal_weight: float = 5.0
    size_weight: float = 2.0
    relation_weight: float = 2.5
    pair_weight: float = 0.5
    excluded_weight: float = 0.5
    unnamed_weight: float = 2.0
    unnamed_area_weight: float = 2.0
    instance_area_max: float = 0.6
    instance_overlap_max: float = _constant(0.6)
    same_object_iou: float = _constant(0.5)
    background_area_min: float = _constant(0.75)
    part_inside_min: float = _constant(0.85)
    part_area_max: float = _constant(0.9)
    lead_offset: float = _constant(-0.51)
    lead_slope: float = _constant(1.32)
    lead_max: float = _constant(7.5)
    presence_offset: float = 4.08
    presence_slope: float = 1.2
    no_referent_below: float = 0.5
    noun_template: str = _constant("a photo of a {}")


@dataclass(frozen=True)
class FirstLookConfig:
    """How an image is looked at before it is prepared; chosen on 25 development images.

    Attributes:
        points_per_side: side of the regular grid of points.
        points_share: as in ``ProposalsConfig``.
        max_count: at most this many proposals.
        closer_first: so many of an expression's best proposals are cropped at once, and ...
        closer_count: ... so many in all, when the features of the other crops are predicted.
    """

    points_per_side: int = 20
    points_share: float = 0.4
    max_count: int = 100
    closer_first: int = 8
    closer_count: int = 12


STARTER_SCORING = ScoringConfig()
# The published weight for RefCOCOg; for RefCOCO and RefCOCO+ it is 0.95.
FAITHFUL_SCORING = ScoringConfig(visual_global_weight=0.85)
# Of pairs whose temperature is not measured yet.
GENUINE_SCORING = ScoringConfig(visual_global_weight=0.5)


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that changes a result.

    Attributes:
        method: ``corrected``, or ``faithful``: the published code step by step, which uses only
            ``visual_global_weight`` and ``text_global_weight`` of the scoring.
        proposals: how masks are generated.
        features: how proposals are encoded.
        scoring: how features become scores.
        noun_phrase: saymask's rule for the head noun phrase, or the published one.
        language_model: the spaCy model.
        clicks: how clicks and boxes become masks.
        nouns: fingerprint of an open vocabulary of one's own; empty for the worker's.
        sources: how masks of several sources become one list.
        suggestions: which masks are offered beside each other.
        first_look: how an image is looked at before it is prepared.
        proposing: how expressions are proposed.
    """

    method: MethodName = "corrected"
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    noun_phrase: NounPhrase = "own"
    language_model: str = "en_core_web_sm"
    clicks: ClicksConfig = field(default_factory=ClicksConfig, metadata={_OMIT_DEFAULT: True})
    nouns: str = _constant("")
    sources: SourcesConfig = field(default_factory=SourcesConfig, metadata={_OMIT_DEFAULT: True})
    suggestions: SuggestionsConfig = field(default_factory=SuggestionsConfig)
    first_look: FirstLookConfig = field(
        default_factory=FirstLookConfig, metadata={_OMIT_DEFAULT: True}
    )
    proposing: ProposingConfig = field(
        default_factory=ProposingConfig, metadata={_OMIT_DEFAULT: True}
    )

    def fingerprint(self) -> str:
        """Return a short hash of everything that changes a result."""
        return _hash(to_values(self))

    def preparation_fingerprint(self) -> str:
        """Return a short hash of what a prepared image depends on.

        It does not depend on the weights of the score, so that these can be tuned.
        """
        values: dict[str, Any] = {"proposals": to_values(self.proposals), "method": self.method}
        if self.method == "corrected":
            values["features"] = to_values(self.features)
            # By these it is decided which proposals are cropped.
            scoring = self.scoring
            values["thing"] = [
                scoring.temperature, scoring.thing_temperature, scoring.thing_floor, self.nouns
            ]  # fmt: skip
        return _hash(values)


def to_first_look(config: PipelineConfig) -> PipelineConfig:
    """Return the configuration of a first look: fewer points, and no view of single proposals."""
    full, quick = config.proposals, config.first_look
    return replace(
        config,
        proposals=replace(
            full,
            points_per_side=min(full.points_per_side, quick.points_per_side),
            points_share=min(full.points_share, quick.points_share),
            max_count=min(full.max_count, quick.max_count),
        ),
        features=replace(config.features, views="regions"),
    )


def to_values(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration, nested, without constants at their default."""
    values = {}
    for item in fields(config):
        value = getattr(config, item.name)
        factory = item.default_factory
        default = item.default if factory is MISSING else factory()
        if not (item.metadata.get(_OMIT_DEFAULT) and value == default):
            # Lists, as JSON has them: what was written is compared with what is read again.
            plain = list(value) if isinstance(value, tuple) else value
            values[item.name] = to_values(value) if is_dataclass(value) else plain
    return values


def _hash(values: object) -> str:
    body = json.dumps([_REVISION, values], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:10]
