"""The appearance of proposals: log-odds of nouns, in units of the encoder's temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.images.types import (
    Floats,
    Geometry,
    PreparedImage,
    TextFeatures,
    VisualFeatures,
    mix,
    normalise_rows,
    to_float32,
)

_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Description:
    """The appearance of N proposals, before any expression.

    Attributes:
        visual: (N, D) unit vectors of the mixed views.
        noun_logits: (N, V) cosines with the nouns divided by the temperature.
        log_thing: (N,) log-probability of showing a thing, not stuff or a part of something.
    """

    visual: Floats
    noun_logits: Floats
    log_thing: Floats


@dataclass(frozen=True, eq=False)
class DescribedImage(Description):
    """A prepared image, the V nouns and the appearance of its proposals among them."""

    prepared: PreparedImage
    vocabulary: EncodedNouns

    @property
    def geometry(self) -> Geometry:
        """Of the proposals."""
        return self.prepared.geometry


def describe(
    features: VisualFeatures, vocabulary: EncodedNouns, config: ScoringConfig
) -> Description:
    """Compare every proposal with every noun, once per image."""
    visual = mix_views(features, config)
    logits = compute_noun_logits(visual, vocabulary, config)
    return Description(visual, logits, compute_log_thing(logits, vocabulary, config))


def describe_image(
    prepared: PreparedImage, vocabulary: EncodedNouns, config: ScoringConfig
) -> DescribedImage:
    """Describe the proposals of an image."""
    return add_image(describe(prepared.features, vocabulary, config), prepared, vocabulary)


def add_image(
    description: Description, prepared: PreparedImage, vocabulary: EncodedNouns
) -> DescribedImage:
    """Join a description, which an image keeps, with that image and the nouns."""
    return DescribedImage(**vars(description), prepared=prepared, vocabulary=vocabulary)


def compute_noun_logits(visual: Floats, vocabulary: EncodedNouns, config: ScoringConfig) -> Floats:
    """Return the cosines of unit vectors (N, D) and V nouns by the temperature: (N, V)."""
    return to_float32(visual @ vocabulary.rows.T / config.temperature)


def compute_log_thing(logits: Floats, vocabulary: EncodedNouns, config: ScoringConfig) -> Floats:
    """Return the log-probability (N,) of a thing, not stuff or a part, from logits (N, V)."""
    sharp = logits / config.thing_temperature
    thing = _log_sum(sharp[:, vocabulary.is_thing]) - _log_sum(sharp)
    return to_float32(thing.clip(min=np.log(config.thing_floor)))


def mix_views(features: VisualFeatures, config: ScoringConfig) -> Floats:
    """Return the unit vectors (N, D) of the views of each proposal, mixed."""
    share = config.visual_global_weight
    mixed = share * normalise_rows(features.global_context)
    mixed = mixed + (1 - share) * normalise_rows(features.local_context)
    if features.region is not None:
        mixed = mixed + config.region_weight * normalise_rows(features.region)
    return normalise_rows(to_float32(mixed))


def compute_appearance(image: DescribedImage, text: TextFeatures, config: ScoringConfig) -> Floats:
    """Return the logit (N,) of the expression: sentence and noun phrase, mixed."""
    query = mix(text.sentence, text.phrase, config.text_global_weight)
    return to_float32(image.visual @ query / config.temperature)


def compute_unnamed_appearance(image: DescribedImage, config: ScoringConfig) -> Floats:
    """Return how much each proposal (N,) looks like a thing, for expressions without a noun."""
    is_thing, area = image.vocabulary.is_thing, image.geometry.area
    odds = _log_sum(image.noun_logits[:, is_thing]) - _log_sum(image.noun_logits[:, ~is_thing])
    size = config.unnamed_area_weight * np.log10(np.maximum(area, _TINY))
    # What fills the image is its background, whatever it looks like.
    is_background = (area > config.background_area_min) / config.temperature
    return to_float32(config.unnamed_weight * odds + size - is_background)


def compute_negatives(image: DescribedImage, noun: Floats, config: ScoringConfig) -> Floats:
    """Return how much each proposal looks like other nouns, below the mean: (N,)."""
    if len(image.visual) == 0:
        return np.zeros(0, dtype=np.float32)
    others = _compute_others(image, noun, config)
    return to_float32(-config.negatives_weight * (others - others.mean()))


def compute_presence(image: DescribedImage, noun: Floats, config: ScoringConfig) -> float | None:
    """Return the presence of a noun (D,): see ``Scores.presence``."""
    if len(image.visual) == 0:
        return None
    own = image.visual @ normalise_rows(noun) / config.temperature
    return float((own - _compute_others(image, noun, config)).max())


def _compute_others(image: DescribedImage, noun: Floats, config: ScoringConfig) -> Floats:
    """Return the log of the summed likelihoods of all other nouns (N,)."""
    return _log_sum(image.noun_logits[:, _find_competing(image, noun, config)])


def _find_competing(
    image: DescribedImage, noun: Floats, config: ScoringConfig
) -> NDArray[np.bool_]:
    """Which nouns of the vocabulary (V,) mean something else than a noun (D,)."""
    nearness = image.vocabulary.rows @ normalise_rows(noun)
    competes = nearness < config.negatives_cosine_max
    if competes.sum() < config.negatives_min:
        competes[np.argsort(nearness, kind="stable")[: config.negatives_min]] = True
    return np.asarray(competes)


def compute_noun_odds(image: DescribedImage, noun: Floats, config: ScoringConfig) -> Floats:
    """Return the log-odds (N,) of a noun (D,) against the others."""
    logits = image.visual @ normalise_rows(noun) / config.temperature
    return to_float32(logits + compute_negatives(image, noun, config))


def compute_thing(image: DescribedImage, noun: Floats, config: ScoringConfig) -> Floats:
    """Return the prior (N,) for things, unless the noun (D,) itself is stuff or a part."""
    if not is_thing(noun, image.vocabulary):
        return np.zeros_like(image.log_thing)
    return to_float32(config.thing_weight * image.log_thing)


def is_thing(noun: Floats, vocabulary: EncodedNouns) -> bool:
    """Return whether a noun (D,) is a thing: as the most similar noun of the vocabulary is."""
    return bool(vocabulary.is_thing[np.argmax(vocabulary.rows @ noun)])


def compute_coherence(prepared: PreparedImage, text: TextFeatures, config: ScoringConfig) -> Floats:
    """Return how much of the expression's heat lies inside each proposal (HybridGL, CVPR 2025)."""
    places, cells = prepared.features.places, prepared.geometry.cells
    if places is None or cells is None or not config.coherence_weight or len(cells) == 0:
        return np.zeros(len(prepared.proposals), dtype=np.float32)
    query = mix(text.sentence, text.phrase, 0.5)
    heat = _to_grid(places.unit_rows @ query, cells.shape[1])
    heat = heat - heat.min()
    heat = heat / max(float(heat.mean()), _TINY)
    weights = cells.reshape(len(cells), -1)
    inside = weights @ heat / np.maximum(weights.sum(axis=1), _TINY)
    rest = 1 - weights
    outside = rest @ heat / np.maximum(rest.sum(axis=1), _TINY)
    return to_float32(config.coherence_weight * (inside - config.coherence_outside * outside))


def _to_grid(heat: Floats, side: int) -> Floats:
    """Spread a square map over a grid of ``side`` x ``side`` cells, flat: encoders differ."""
    own = round(len(heat) ** 0.5)
    nearest = ((np.arange(side) + 0.5) * own / side).astype(int)
    return heat.reshape(own, own)[np.ix_(nearest, nearest)].ravel()


def _log_sum(logits: NDArray[np.floating]) -> Floats:
    """Log of the sum of the exponentials along the last axis."""
    # SciPy's function takes about 17 times as long on arrays of this size.
    best = logits.max(axis=-1, keepdims=True)
    return to_float32(best[..., 0] + np.log(np.exp(logits - best).sum(axis=-1)))
