"""What is compared: the method, its terms switched off, and baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from saymask.errors import DatasetError
from saymask_worker.config.pipeline import PipelineConfig, SuggestionsConfig, to_method
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.images.types import Floats, PreparedImage, normalise_rows

# A term of the score, and the weight that switches it off.
_TERMS = {
    "area": "area_weight",
    "consensus": "consensus_weight",
    "level": "level_weight",
    "person": "person_part_margin",
    "place": "place_weight",
    "side": "side_weight",
    "ordinal": "ordinal_weight",
    "size": "size_weight",
    "row": "row_weight",
    "pair": "pair_weight",
    "excluded": "excluded_weight",
    "relation": "relation_weight",
    "negatives": "negatives_weight",
    "coherence": "coherence_weight",
    "region": "region_weight",
    "thing": "thing_weight",
}
# More proposals than there are.
_EVERY = 1_000_000
_OBJECT_TERMS = {"area", "consensus", "level", "person", "thing"}


Baseline = Callable[[PreparedImage, Floats, str], Floats]
"""From an image, a sentence's feature and the expression's id to a score for each proposal."""


@dataclass(frozen=True)
class Variant:
    """One way to rank proposals: a row of the table.

    Attributes:
        name: of its row.
        group: one of ``GROUPS``.
        config: of the pipeline that prepares and ranks.
        baseline: ranks instead of the pipeline; None for a method.
    """

    name: str
    group: str
    config: PipelineConfig
    baseline: Baseline | None = None


GROUPS = {
    "main": "the default, and the published method step by step",
    "terms": "the default with one term of the score switched off",
    "crops": "the default with every proposal cropped, no feature predicted",
    "baselines": "the masked crop against the sentence, and two that look at no text; all crops",
}


def build_variants(config: PipelineConfig, scoring: ScoringConfig) -> dict[str, Variant]:
    """Return every variant that can be asked for, by name.

    Args:
        config: in use; its method is replaced.
        scoring: the encoder's own, from which ``corrected`` and its variants start.
    """
    config = replace(config, method="corrected", scoring=scoring, suggestions=SuggestionsConfig())
    # Baselines are measured on features that were all computed.
    every_crop = replace(config, features=replace(config.features, crops_max=_EVERY))
    rows = [
        Variant("corrected", "main", config),
        Variant("faithful", "main", to_method(config, "faithful")),
        *_terms(config),
        Variant("every proposal cropped", "crops", every_crop),
        *(Variant(name, "baselines", every_crop, score) for name, score in BASELINES.items()),
    ]
    return {row.name: row for row in rows}


def choose_variants(config: PipelineConfig, scoring: ScoringConfig, wanted: str) -> list[Variant]:
    """Return variants by name or group, comma separated; ``all`` returns every one.

    Raises:
        DatasetError: a name is unknown; the error lists the known ones.
    """
    variants = build_variants(config, scoring)
    selected: dict[str, Variant] = {}
    for name in (part.strip() for part in wanted.split(",")):
        matches = [v for v in variants.values() if name in ("all", v.group, v.name)]
        if not matches:
            raise DatasetError(
                f"There is no method {name!r}.",
                f"Groups: all, {', '.join(GROUPS)}. Methods: {', '.join(variants)}.",
            )
        selected.update({variant.name: variant for variant in matches})
    return list(selected.values())


def _with_scoring(config: PipelineConfig, **changes: Any) -> PipelineConfig:
    return replace(config, scoring=replace(config.scoring, **changes))


def without_terms(scoring: ScoringConfig) -> ScoringConfig:
    """Return a scoring by appearance alone: every other term is off."""
    off: dict[str, Any] = dict.fromkeys(_TERMS.values(), 0.0)
    return replace(scoring, **off)


def _terms(config: PipelineConfig) -> list[Variant]:
    rows = [
        Variant(f"without {name}", "terms", _with_scoring(config, **{setting: 0.0}))
        for name, setting in _TERMS.items()
    ]
    for title, names in (("objects", _OBJECT_TERMS), ("words", _TERMS.keys() - _OBJECT_TERMS)):
        changes = {_TERMS[name]: 0.0 for name in names}
        rows.append(Variant(f"without all {title}", "terms", _with_scoring(config, **changes)))
    appearance = replace(config, scoring=without_terms(config.scoring))
    return [*rows, Variant("without all terms", "terms", appearance)]


def _score_cropping(prepared: PreparedImage, sentence: Floats, _id: str) -> Floats:
    """Compare the masked crop with the sentence (Yu et al., CVPR 2023, section 4.2)."""
    crops = normalise_rows(prepared.features.local_context)
    return np.asarray(crops @ normalise_rows(sentence), dtype=np.float32)


def _score_random(prepared: PreparedImage, _sentence: Floats, expression_id: str) -> Floats:
    """Draw scores that depend only on the image and the expression."""
    digest = hashlib.sha256(f"{prepared.sha256} {expression_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return np.asarray(rng.random(len(prepared.proposals)), dtype=np.float32)


BASELINES: dict[str, Baseline] = {
    "cropping": _score_cropping,
    "random": _score_random,
    "largest": lambda prepared, _sentence, _id: prepared.geometry.area,
}
