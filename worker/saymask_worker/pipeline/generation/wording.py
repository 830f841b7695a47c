"""From descriptions to the words that people use for them."""

from __future__ import annotations

import random

from saymask_worker.pipeline.generation.generation import Attribute, Description

_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_SUPERLATIVES = {"large": ("biggest", "largest"), "small": ("smallest", "small")}
_COMPARATIVES = {"large": ("bigger", "larger"), "small": ("smaller", "small")}
_OUTERMOST = {"left": "leftmost", "right": "rightmost", "top": "top", "bottom": "bottom"}
_PLACES = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
}  # fmt: skip


def word(description: Description, count: int, seed: int) -> tuple[str, ...]:
    """Return at most ``count`` wordings of a description, different ones, the usual ones first.

    Args:
        description: of an object.
        count: how many.
        seed: equal seeds give equal wordings; others may begin with another full one.
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
