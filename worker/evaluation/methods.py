"""What is compared: the method, its parts switched off, its repairs undone, and the baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backend.errors import DatasetError
from worker.config import FAITHFUL_SCORING, PipelineConfig, ScoringConfig
from worker.evaluation.baselines import BASELINES

_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class MethodUnderTest:
    """One way to rank proposals.

    Attributes:
        name: its row in the table.
        group: ``main``, ``terms``, ``mixing``, ``repairs`` or ``baselines``.
        config: of the pipeline that ranks; None for a baseline.
    """

    name: str
    group: str
    config: PipelineConfig | None


GROUPS = {
    "main": "the default, and the published method step by step",
    "terms": "the default with one term of the score switched off",
    "mixing": "global against local, sentence against phrase; no other term",
    "repairs": "the default with one repair of the published code undone",
    "baselines": "the published baselines, and three that look at no text",
}


def build_methods(config: PipelineConfig, scoring: ScoringConfig) -> dict[str, MethodUnderTest]:
    """Every method that can be asked for, by name.

    Args:
        config: in use; its method does not count.
        scoring: the encoder's own, from which ``corrected`` and its variants start.
    """
    config = replace(config, method="corrected", scoring=scoring)
    rows = [
        MethodUnderTest("corrected", "main", config),
        MethodUnderTest(
            "faithful",
            "main",
            replace(config, method="faithful", scoring=FAITHFUL_SCORING),
        ),
        *_terms(config),
        *_mixing(config),
        *_repairs(config),
        *(MethodUnderTest(name, "baselines", None) for name in BASELINES),
    ]
    return {row.name: row for row in rows}


def choose_methods(
    config: PipelineConfig, scoring: ScoringConfig, wanted: str
) -> list[MethodUnderTest]:
    """Methods by name or group, comma separated; ``all`` takes every one.

    Raises:
        DatasetError: an unknown name; lists those there are.
    """
    known = build_methods(config, scoring)
    chosen: dict[str, MethodUnderTest] = {}
    for name in (part.strip() for part in wanted.split(",")):
        found = [m for m in known.values() if name in ("all", m.group, m.name)]
        if not found:
            raise DatasetError(
                f"There is no method {name!r}.",
                f"Groups: all, {', '.join(GROUPS)}. Methods: {', '.join(known)}.",
            )
        chosen.update({method.name: method for method in found})
    return list(chosen.values())


def _with_scoring(config: PipelineConfig, **changes: float | bool) -> PipelineConfig:
    return replace(config, scoring=replace(config.scoring, **changes))  # type: ignore[arg-type]


def without_terms(scoring: ScoringConfig) -> ScoringConfig:
    """Appearance alone."""
    return replace(scoring, **dict.fromkeys(_TERMS.values(), 0.0))  # type: ignore[arg-type]


_TERMS = {
    "area": "area_weight",
    "consensus": "consensus_weight",
    "level": "level_weight",
    "person": "person_part_margin",
    "place": "place_weight",
    "side": "side_weight",
    "ordinal": "ordinal_weight",
    "size": "size_weight",
    "relation": "relation_weight",
}


_OBJECT_TERMS = {"area", "consensus", "level", "person"}


def _terms(config: PipelineConfig) -> list[MethodUnderTest]:
    rows = [
        MethodUnderTest(f"without {name}", "terms", _with_scoring(config, **{setting: 0.0}))
        for name, setting in _TERMS.items()
    ]
    for title, names in (("objects", _OBJECT_TERMS), ("words", _TERMS.keys() - _OBJECT_TERMS)):
        changes = {_TERMS[name]: 0.0 for name in names}
        rows.append(
            MethodUnderTest(f"without all {title}", "terms", _with_scoring(config, **changes))
        )
    return rows


def _mixing(config: PipelineConfig) -> list[MethodUnderTest]:
    plain = replace(config, scoring=without_terms(config.scoring))
    rows = {
        "appearance": plain,
        "global only": _with_scoring(plain, visual_global_weight=1.0),
        "local only": _with_scoring(plain, visual_global_weight=0.0),
        "sentence only": _with_scoring(plain, text_global_weight=1.0),
        "phrase only": _with_scoring(plain, text_global_weight=0.0),
    }
    for step in _STEPS[1:-1]:
        rows[f"visual global {step:g}"] = _with_scoring(plain, visual_global_weight=step)
        rows[f"text global {step:g}"] = _with_scoring(plain, text_global_weight=step)
    return [MethodUnderTest(name, "mixing", changed) for name, changed in rows.items()]


def _repairs(config: PipelineConfig) -> list[MethodUnderTest]:
    def with_features(**changes: str) -> PipelineConfig:
        return replace(config, features=replace(config.features, **changes))  # type: ignore[arg-type]

    rows = {
        "published token masks": with_features(token_mask="point"),
        "published token masking": with_features(token_masking="multiply"),
        "published boxes": with_features(crop="published"),
        "published statistics": with_features(statistics="imagenet"),
        "published mixing": _with_scoring(config, normalise_first=False),
        "published noun phrase": replace(config, noun_phrase="published"),
    }
    return [MethodUnderTest(name, "repairs", changed) for name, changed in rows.items()]
