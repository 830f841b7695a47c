"""The shortest description that singles an object out, and the words that people use for it.

The incremental algorithm of Dale and Reiter ("Computational interpretations of the Gricean maxims
in the generation of referring expressions", Cognitive Science 1995): attributes are tried in the
order in which people prefer them, and one is kept if it rules out any other object that the noun
could mean. Sizes and places are relative to the objects that are left (van Deemter, "Generating
referring expressions that involve gradable properties", Computational Linguistics 2006).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saymask_worker.config.generation import GenerationConfig
from saymask_worker.images.types import Floats, Geometry
from saymask_worker.language import Side
from saymask_worker.language.lexicon import PEOPLE
from saymask_worker.pipeline.generation.colors import COLORS
from saymask_worker.ranking.comparison import toward

Kind = Literal["color", "size", "side", "ordinal", "landmark"]
_SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_SUPERLATIVES = {"large": ("biggest", "largest"), "small": ("smallest", "small")}
_COMPARATIVES = {"large": ("bigger", "larger"), "small": ("smaller", "small")}
_OUTERMOST = {"left": "leftmost", "right": "rightmost", "top": "top", "bottom": "bottom"}
_PLACES = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
}  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """What is said about an object in addition to its noun.

    Attributes:
        value: the colour, the size ("large", "small"), the side, or the landmark's noun.
        rank: of an ordinal, from 1, counted from the side ``value``.
        landmark: index of the landmark, for that kind.
        among: the number of objects among which a size or a side singles it out.
    """

    kind: Kind
    value: str
    rank: int = 0
    landmark: int | None = None
    among: int = 0


@dataclass(frozen=True)
class Description:
    """A noun and what must be added so that it means one object alone."""

    noun: str
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, eq=False)
class Scene:
    """Where the objects of an image are and what colours they have.

    Attributes:
        geometry: of N objects.
        colors: (N, 11) share of each colour of ``saymask_worker.pipeline.generation.colors``.
        landmarks: the noun of each object that it alone singles out, by index.
    """

    geometry: Geometry
    colors: Floats
    landmarks: Mapping[int, str] = field(default_factory=dict)


def describe(
    scene: Scene, target: int, noun: str, distractors: Sequence[int], config: GenerationConfig
) -> Description | None:
    """Return the description of an object of a scene; None where none singles it out.

    Args:
        scene: with the object.
        target: its index.
        noun: the object's name.
        distractors: indices of the other objects that the noun could mean.
        config: how clearly an attribute must hold.
    """
    remaining = list(distractors)
    attributes: list[Attribute] = []
    if remaining and noun.split()[-1] not in PEOPLE:
        color = _find_color(scene, target, config)
        kept = [index for index in remaining if not _may_have(scene, index, color, config)]
        if color is not None and len(kept) > 0:
            attributes.append(Attribute("color", color))
            remaining = [index for index in remaining if index not in kept]
    for find in FINDERS.values():
        # Each of these holds of one object alone.
        attribute = find(scene, target, remaining, config) if remaining else None
        if attribute is not None:
            attributes.append(attribute)
            remaining = []
    return None if remaining else Description(noun, tuple(attributes))


def _find_color(scene: Scene, target: int, config: GenerationConfig) -> str | None:
    shares = scene.colors[target]
    best = int(shares.argmax())
    return COLORS[best] if shares[best] >= config.color_share_min else None


def _may_have(scene: Scene, index: int, color: str | None, config: GenerationConfig) -> bool:
    if color is None:
        return True
    return bool(scene.colors[index, COLORS.index(color)] > config.color_share_max)


def _find_size(
    scene: Scene, target: int, others: Sequence[int], config: GenerationConfig
) -> Attribute | None:
    area = scene.geometry.area
    values = area[list(others)]
    among = len(others) + 1
    if area[target] >= config.size_ratio_min * values.max():
        return Attribute("size", "large", among=among)
    if area[target] * config.size_ratio_min <= values.min():
        return Attribute("size", "small", among=among)
    return None


def _find_side(
    scene: Scene, target: int, others: Sequence[int], config: GenerationConfig
) -> Attribute | None:
    """The side to which the object is clearly the nearest."""
    for side in _SIDES:
        along = toward(side, scene.geometry)
        gap = config.side_gap_min if side in ("left", "right") else config.height_gap_min
        if along[target] - along[list(others)].max() >= gap:
            return Attribute("side", side, among=len(others) + 1)
    return None


def _find_ordinal(
    scene: Scene, target: int, others: Sequence[int], config: GenerationConfig
) -> Attribute | None:
    """A position in a row of at least three, counted from the nearer end."""
    indices = [target, *others]
    if not 3 <= len(indices) <= config.row_length_max or not _are_in_row(scene.geometry, indices):
        return None
    x = scene.geometry.center_x
    order = sorted(indices, key=lambda index: float(x[index]))
    gaps = np.diff([float(x[index]) for index in order])
    if gaps.min() < config.row_gap_min:
        return None
    position = order.index(target)
    from_right = len(order) - 1 - position
    if position <= from_right:
        return Attribute("ordinal", "left", rank=position + 1)
    return Attribute("ordinal", "right", rank=from_right + 1)


def _are_in_row(geometry: Geometry, indices: Sequence[int]) -> bool:
    """Whether the objects are in one row: every two of them share a height."""
    rows = list(indices)
    return bool(geometry.top[rows].max() < geometry.bottom[rows].min())


def _find_landmark(
    scene: Scene, target: int, others: Sequence[int], config: GenerationConfig
) -> Attribute | None:
    """The landmark that the object is next to, and all others are further from."""
    for landmark, noun in scene.landmarks.items():
        if landmark == target or landmark in others:
            continue
        distances = _measure_distances(scene.geometry, [target, *others], landmark)
        is_near = distances[0] <= config.near_max
        if is_near and distances[1:].min() >= distances[0] + config.near_gap_min:
            return Attribute("landmark", noun, landmark=landmark)
    return None


def _measure_distances(
    geometry: Geometry, indices: Sequence[int], landmark: int
) -> NDArray[np.floating]:
    """Distances of centres, as shares of the image's sides."""
    rows = list(indices)
    dx = geometry.center_x[rows] - geometry.center_x[landmark]
    dy = geometry.center_y[rows] - geometry.center_y[landmark]
    return np.asarray(np.hypot(dx, dy))


FINDERS: dict[Kind, Callable[[Scene, int, Sequence[int], GenerationConfig], Attribute | None]] = {
    "size": _find_size,
    "side": _find_side,
    "ordinal": _find_ordinal,
    "landmark": _find_landmark,
}
"""By kind: what finds an attribute that holds of an object alone, in the order people prefer."""


def word(description: Description, count: int, seed: int) -> tuple[str, ...]:
    """Return at most ``count`` different wordings of a description, the usual ones first.

    Equal seeds give equal wordings; others may begin with another full one.
    """
    colors = [a.value for a in description.attributes if a.kind == "color"]
    noun = " ".join([*colors, description.noun])
    rest = [a for a in description.attributes if a.kind != "color"]
    full, brief = _word_attribute(noun, rest[0]) if rest else ([f"the {noun}"], [noun])
    first = random.Random(f"{seed} {noun} {rest}").choice(full)
    return tuple(dict.fromkeys([first, *full, *brief]))[:count]


def _word_attribute(noun: str, attribute: Attribute) -> tuple[list[str], list[str]]:
    """Full wordings, with an article, and brief ones."""
    value = attribute.value
    if attribute.kind == "size":
        usual, other = (_COMPARATIVES if attribute.among == 2 else _SUPERLATIVES)[value]
        return [f"the {usual} {noun}", f"the {other} {noun}"], [f"{usual} {noun}"]
    if attribute.kind == "side":
        outermost = value if attribute.among == 2 else _OUTERMOST[value]
        return [f"the {noun} {_PLACES[value]}", f"the {outermost} {noun}"], [f"{outermost} {noun}"]
    if attribute.kind == "ordinal":
        order = _ORDINALS[attribute.rank - 1]
        return [f"the {order} {noun} from the {value}"], [f"{order} {noun} from {value}"]
    return [f"the {noun} next to the {value}"], [f"{noun} beside the {value}"]
