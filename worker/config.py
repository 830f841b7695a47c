"""What the pipeline does, as data, and the worker's settings.

The fingerprint of a configuration is part of every cache key and every model version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.contract import Queues
from backend.errors import ConfigError

# Raised when the same configuration comes to prepare photos differently: what is kept and named
# under the old number is not mixed with the new.
_REVISION = 2

Generator = Literal["mobile-sam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "given"]
Method = Literal["corrected", "faithful"]
TokenMask = Literal["area", "point"]
TokenMasking = Literal["multiply", "attention"]
Crop = Literal["square", "published"]
Statistics = Literal["clip", "imagenet"]
NounPhrase = Literal["own", "published"]


@dataclass(frozen=True)
class ProposalsConfig:
    """How class-agnostic masks are made.

    Attributes:
        generator: which segment-anything model.
        points_per_side: side of the regular grid of point prompts.
        predicted_iou_min, stability_min: a mask below either is dropped.
        duplicate_iou_max: of two masks that overlap more than this, the better one stays.
        min_area_share: masks smaller than this share of the photo are dropped.
        max_count: at most so many proposals; beyond that the smallest go.
        box_rounds: how often the boxes of found masks are fed back as prompts, which finds
            wholes where points found parts.
        exact: make the masks of the stock generator, pixel for pixel; then duplicates go by box,
            and ``duplicate_iou_max``, ``min_area_share`` and ``box_rounds`` do not count.
    """

    generator: Generator = "mobile-sam"
    points_per_side: int = 20
    predicted_iou_min: float = 0.75
    stability_min: float = 0.85
    duplicate_iou_max: float = 0.85
    min_area_share: float = 0.0005
    max_count: int = 100
    box_rounds: int = 1
    exact: bool = False


@dataclass(frozen=True)
class FeaturesConfig:
    """How proposals become features: what the published code does, or what repairs it
    (``docs/method.md``). The defaults are the repairs.

    Attributes:
        token_mask: ``area``: the share of each token that is covered; ``point``: one sample per
            token, which misses most small objects.
        token_floor: with ``area``, weight of the best covered token of a small mask.
        token_masking: how the proposal enters the ViT; see ``ClipVisual.encode_global``.
        crop: ``square`` around the mask's extent, antialiased; ``published``: centre of mass plus
            and minus half the counts of rows and columns, squashed.
        crop_margin: with ``square``, surroundings, share of the longer side.
        statistics: ``clip``'s mean and deviation, filled with the mean; or ``imagenet``'s.
    """

    token_mask: TokenMask = "area"
    token_floor: float = 0.5
    token_masking: TokenMasking = "attention"
    crop: Crop = "square"
    crop_margin: float = 0.1
    statistics: Statistics = "clip"


@dataclass(frozen=True)
class ScoringConfig:
    """How features become scores. All weights are in units of cosine similarity.

    Attributes:
        visual_global_weight: the paper's alpha, share of the global-context visual feature.
        text_global_weight: the paper's beta, share of the sentence; the rest is the noun phrase.
        normalise_first: features reach unit length before they are mixed; published: after.
        area_weight: prior for large masks, per factor of ten in area.
        consensus_weight: prior for masks that most points inside them yield: objects, not heaps.
        level_weight: prior for wholes over parts, per level of segment-anything's three.
        person_part_margin: where the noun names a person, a mask inside another that scores this
            nearly as well steps back behind it.
        place_weight: prior for absolute words of place (left, top, middle).
        instance_margin: proposals this close to the best are taken as objects of the same noun.
        instance_softness: how fast the say of an instance falls with its distance to the best.
        side_weight, ordinal_weight, size_weight, relation_weight: how much being the leftmost,
            the second from the left, the largest, the nearest to the anchor counts among them.
        thing_weight, thing_softness, unnamed_area_weight: without a noun, how much looking like
            a thing rather than a part or a background counts, and how much its size does.
    """

    visual_global_weight: float = 0.4
    text_global_weight: float = 0.5
    normalise_first: bool = True
    area_weight: float = 0.005
    consensus_weight: float = 0.06
    level_weight: float = 0.01
    person_part_margin: float = 0.01
    place_weight: float = 0.04
    instance_margin: float = 0.08
    instance_softness: float = 0.1
    side_weight: float = 0.05
    ordinal_weight: float = 0.10
    size_weight: float = 0.04
    relation_weight: float = 0.05
    thing_weight: float = 1.0
    thing_softness: float = 0.02
    unnamed_area_weight: float = 0.04

    def scaled(self, factor: float) -> ScoringConfig:
        """The same balance for an encoder whose cosines spread ``factor`` times as far."""
        changed = {name: getattr(self, name) * factor for name in _IN_COSINES}
        return replace(self, **changed)


_IN_COSINES = (
    "area_weight", "consensus_weight", "level_weight", "person_part_margin", "place_weight",
    "instance_margin", "instance_softness", "side_weight", "ordinal_weight", "size_weight",
    "relation_weight", "thing_softness", "unnamed_area_weight",
)  # fmt: skip


STARTER_SCORING = ScoringConfig()
# The published weight for RefCOCOg; 0.95 is theirs for RefCOCO and RefCOCO+.
FAITHFUL_SCORING = ScoringConfig(visual_global_weight=0.85)
# Genuine CLIP text lies closer together: cosines spread over about a quarter of the range.
GENUINE_SCORING = ScoringConfig(visual_global_weight=0.5).scaled(0.25)


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that changes a result.

    Attributes:
        method: ``corrected``, or ``faithful``: the published code step by step, in which only
            ``visual_global_weight`` of the scoring counts.
        noun_phrase: our rule for the head noun phrase, or the published one.
        language_model: the spaCy model.
    """

    method: Method = "corrected"
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    noun_phrase: NounPhrase = "own"
    language_model: str = "en_core_web_sm"

    def fingerprint(self) -> str:
        return _fingerprint(asdict(self))

    def preparation_fingerprint(self) -> str:
        """Of what a prepared photo depends on: not the weights of the scoring terms."""
        values = {"proposals": asdict(self.proposals), "method": self.method}
        if self.method == "corrected":
            values["features"] = asdict(self.features)
        return _fingerprint(values)


def _fingerprint(values: object) -> str:
    body = json.dumps([_REVISION, values], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:10]


class WorkerSettings(BaseSettings):
    """Settings of the worker; each is the environment variable ``SAYMASK_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix="SAYMASK_",
        env_ignore_empty=True,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SAYMASK_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey that carries the queue. REDIS_URL is read too.",
    )
    queues: Queues = Field(
        "all",
        description="What a worker takes: `interactive` (typed expressions), `background` (photos"
        " to prepare, at low priority) or `all`.",
    )
    cache_dir: Path | None = Field(
        None, description="Weights and prepared photos; empty means the user's cache directory."
    )
    prepared_dir: Path | None = Field(
        None,
        description="Prepared photos, if elsewhere than in the cache directory. Machines that"
        " mount one directory share what each has prepared.",
    )
    cache_max_mb: float = Field(
        1000.0, gt=0, description="Room for prepared photos, megabytes; the oldest go first."
    )
    encoder: str = Field(
        "auto",
        description="`auto`, `starter`, an open_clip pair such as `ViT-B-16/openai`, or a model"
        " and a file of yours, `ViT-B-16//path/to/weights.pt`.",
    )
    method: Method = Field(
        "corrected",
        description="`corrected`, or `faithful`: the published method step by step.",
    )
    proposals: Generator = Field(
        "mobile-sam",
        description="Proposal generator: `mobile-sam`, `sam-vit-b`, `sam-vit-l`, `sam-vit-h`, or"
        " `given`.",
    )
    proposals_dir: Path | None = Field(
        None,
        description="With `given`: folder of `<photo's sha256>.json`, each a list of COCO RLE"
        " masks.",
    )
    proposals_exact: bool = Field(
        False,
        description="The masks of segment-anything's own generator, pixel for pixel, at the"
        " photo's size; slower, and fewer wholes.",
    )
    points_per_side: int = Field(
        20, ge=2, le=64, description="Grid of point prompts; more finds smaller things, slower."
    )
    max_proposals: int = Field(100, ge=1, le=1000, description="Proposals kept per photo.")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:<n>`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the networks; `auto` takes bfloat16 where it gains."
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="CPU threads of torch; 0 leaves torch's default.",
        validation_alias="SAYMASK_WORKER_THREADS",
    )
    photo_max_megapixels: float = Field(
        120.0, gt=0, description="Largest photo that is decoded, megapixels."
    )
    spacy_model: str = Field("en_core_web_sm", description="`en_core_web_sm` or `en_core_web_lg`.")

    def pipeline_config(self, scoring: ScoringConfig) -> PipelineConfig:
        """``scoring`` is the encoder's own; the faithful method has its own instead."""
        return PipelineConfig(
            method=self.method,
            proposals=ProposalsConfig(
                generator=self.proposals,
                points_per_side=self.points_per_side,
                max_count=self.max_proposals,
                exact=self.proposals_exact,
            ),
            scoring=scoring if self.method == "corrected" else FAITHFUL_SCORING,
            language_model=self.spacy_model,
        )


def load_worker_settings(**overrides: object) -> WorkerSettings:
    """Read the environment.

    Raises:
        ConfigError: a value is wrong; names the setting.
    """
    try:
        return WorkerSettings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigError(
            f"Some settings of the worker are wrong: {lines}.", "Correct SAYMASK_... variables."
        ) from error
