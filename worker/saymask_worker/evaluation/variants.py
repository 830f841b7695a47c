"""What is compared: the method, its parts switched off, and the baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace

from saymask.errors import DatasetError
from saymask_worker.config.pipeline import PipelineConfig, SuggestionsConfig, to_published
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.evaluation.baselines import BASELINES

_STEPS = (0.25, 0.5, 0.75)
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
_NEW = ("negatives", "coherence", "region", "thing", "row", "pair", "excluded")
# More proposals than there are.
_EVERY = 1_000_000
_OBJECT_TERMS = {"area", "consensus", "level", "person", "thing"}


@dataclass(frozen=True)
class Variant:
    """One way to rank proposals: a row of the table.

    Attributes:
        name: of its row.
        group: ``main``, ``terms``, ``mixing``, ``crops`` or ``baselines``.
        config: of the pipeline that ranks; None for a baseline.
    """

    name: str
    group: str
    config: PipelineConfig | None


GROUPS = {
    "main": "the default, and the published method step by step",
    "terms": "the default with one term of the score switched off",
    "crops": "the default with every proposal cropped, no feature predicted",
    "mixing": "global against local, sentence against phrase; no other term; all crops",
    "baselines": "the published baselines, and three that look at no text",
}


def build_variants(config: PipelineConfig, scoring: ScoringConfig) -> dict[str, Variant]:
    """Return every variant that can be asked for, by name.

    Args:
        config: in use; its method is replaced.
        scoring: the encoder's own, from which ``corrected`` and its variants start.
    """
    config = replace(config, method="corrected", scoring=scoring, suggestions=SuggestionsConfig())
    # What the parts of a feature are worth is measured on features that were all computed.
    every_crop = with_every_crop(config)
    rows = [
        Variant("corrected", "main", config),
        Variant("without all new terms", "main", _without_new(config)),
        Variant("faithful", "main", to_published(config)),
        *_terms(config),
        *_mixing(every_crop),
        Variant("every proposal cropped", "crops", every_crop),
        *(Variant(name, "baselines", None) for name in BASELINES),
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


def _with_scoring(config: PipelineConfig, **changes: float) -> PipelineConfig:
    return replace(config, scoring=replace(config.scoring, **changes))  # type: ignore[arg-type]


def without_terms(scoring: ScoringConfig) -> ScoringConfig:
    """Return a scoring by appearance alone: every other term is off."""
    return replace(scoring, **dict.fromkeys(_TERMS.values(), 0.0))  # type: ignore[arg-type]


def with_every_crop(config: PipelineConfig) -> PipelineConfig:
    """Return the configuration in which every proposal is cropped."""
    return replace(config, features=replace(config.features, crops_max=_EVERY))


def _terms(config: PipelineConfig) -> list[Variant]:
    rows = [
        Variant(f"without {name}", "terms", _with_scoring(config, **{setting: 0.0}))
        for name, setting in _TERMS.items()
    ]
    for title, names in (("objects", _OBJECT_TERMS), ("words", _TERMS.keys() - _OBJECT_TERMS)):
        changes = {_TERMS[name]: 0.0 for name in names}
        rows.append(Variant(f"without all {title}", "terms", _with_scoring(config, **changes)))
    return rows


def _without_new(config: PipelineConfig) -> PipelineConfig:
    """The score without other nouns, things, heat, regions and pairs."""
    return _with_scoring(
        config,
        **{_TERMS[name]: 0.0 for name in _NEW},
        instance_area_max=1.0,
        text_global_weight=0.5,
    )


def _mixing(config: PipelineConfig) -> list[Variant]:
    plain = replace(config, scoring=without_terms(config.scoring))
    rows = {
        "appearance": plain,
        "global only": _with_scoring(plain, visual_global_weight=1.0),
        "local only": _with_scoring(plain, visual_global_weight=0.0),
        "sentence only": _with_scoring(plain, text_global_weight=1.0),
        "phrase only": _with_scoring(plain, text_global_weight=0.0),
    }
    for step in _STEPS:
        rows[f"visual global {step:g}"] = _with_scoring(plain, visual_global_weight=step)
        rows[f"text global {step:g}"] = _with_scoring(plain, text_global_weight=step)
    return [Variant(name, "mixing", changed) for name, changed in rows.items()]
