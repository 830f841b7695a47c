"""How features become scores, as data: the weights, and files of fitted ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from saymask.errors import ConfigError
from saymask.private_files import replace_shared_file

_CURE = "Fit the weights anew: saymask-worker tune --data EXPORT_DIR --out FILE"


@dataclass(frozen=True)
class ScoringConfig:
    """How features become scores.

    A score is a log-odds: cosines are divided by the encoder's temperature, and all weights are
    in the same units (nats), so that they mean the same for any encoder. Chosen on 25 development
    images with the starter encoder, unless a source is named.

    Attributes:
        temperature: of the encoder: the cosine similarity that equals one nat. For open_clip pairs
            it is measured on the sample images, see ``saymask_worker.encoders.calibration``.
        visual_global_weight: alpha of the paper, share of the global-context visual feature.
        text_global_weight: beta of the paper, share of the sentence; the rest is the noun phrase.
        region_weight: weight of the region token in the visual feature, relative to the other two.
        negatives_weight: how much the log-likelihood of all other nouns counts against a proposal;
            1 would make the appearance a log-probability.
        negatives_cosine_max: nouns this similar to the asked one do not compete.
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
        no_referent_below: with a lower probability a notice says so; 0 disables it.
    """

    temperature: float = 0.02
    visual_global_weight: float = 0.4
    text_global_weight: float = 0.35
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
    instance_overlap_max: float = 0.6
    same_object_iou: float = 0.5
    background_area_min: float = 0.75
    part_inside_min: float = 0.85
    part_area_max: float = 0.9
    lead_offset: float = -0.51
    lead_slope: float = 1.32
    lead_max: float = 7.5
    presence_offset: float = 4.08
    presence_slope: float = 1.2
    no_referent_below: float = 0.5


STARTER_SCORING = ScoringConfig()
# The published weight for RefCOCOg; for RefCOCO and RefCOCO+ it is 0.95.
FAITHFUL_SCORING = ScoringConfig(visual_global_weight=0.85)
# Of pairs whose temperature is not measured yet.
GENUINE_SCORING = ScoringConfig(visual_global_weight=0.5)


def write_scoring(
    path: Path, scoring: ScoringConfig, weights_hash: str, provenance: Mapping[str, Any]
) -> None:
    """Write weights with the encoder that they were fitted to, and how.

    Raises:
        ConfigError: the file cannot be written.
    """
    content = {"encoder": weights_hash, "scoring": asdict(scoring), "fitted": dict(provenance)}
    try:
        replace_shared_file(path.absolute(), f"{json.dumps(content, indent=2)}\n".encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}.", "Name another file.") from error


def load_scoring(path: Path, weights_hash: str) -> ScoringConfig:
    """Read weights that were fitted to an encoder.

    Raises:
        ConfigError: the file is damaged, or of another encoder or version.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        encoder, values = content["encoder"], dict(content["scoring"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"SAYMASK_SCORING={path} cannot be read: {error}.", _CURE) from error
    if encoder != weights_hash:
        raise ConfigError(
            f"The weights in {path} were fitted to another encoder ({encoder}); this one is"
            f" {weights_hash}.",
            f"Unset SAYMASK_SCORING, or choose that SAYMASK_ENCODER. {_CURE}",
        )
    # Numbers, as told from truth values; a whole number is a real one too.
    types = {f.name: (int, float) if f.type == "float" else (int,) for f in fields(ScoringConfig)}
    wrong = [name for name, value in values.items() if type(value) not in types.get(name, ())]
    if wrong:
        raise ConfigError(
            f"{path} holds {', '.join(sorted(wrong))}, which this version does not know or takes in"
            " another type.",
            _CURE,
        )
    return ScoringConfig(**values)
