"""Word lists: spellings that annotators type, and words of place, order, size and relation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.language.expression import RelationKind, Side

SPELLINGS = {
    "lft": "left", "leftt": "left", "letf": "left", "lef": "left",
    "rt": "right", "rigth": "right", "rght": "right", "righ": "right",
    "btm": "bottom", "botom": "bottom", "bottm": "bottom", "botton": "bottom",
    "centre": "center", "centr": "center", "ctr": "center", "midle": "middle", "mid": "middle",
    "pic": "picture", "img": "image", "w": "with", "w/": "with", "wth": "with",
    "leftermost": "leftmost", "doughnut": "donut", "fridge": "refrigerator",
}  # fmt: skip

SIDES: dict[str, Side] = {
    "left": "left", "leftmost": "left", "lefthand": "left",
    "right": "right", "rightmost": "right", "righthand": "right",
    "top": "top", "upper": "top", "topmost": "top", "uppermost": "top", "highest": "top",
    "bottom": "bottom", "lower": "bottom", "lowest": "bottom", "bottommost": "bottom",
    "middle": "middle", "center": "middle", "central": "middle",
    "front": "front", "foreground": "front", "nearest": "front", "closest": "front",
    "back": "back", "background": "back", "rear": "back", "farthest": "back", "furthest": "back",
}  # fmt: skip
ORDINALS = {
    "first": 1, "1st": 1, "second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "4th": 4,
    "fifth": 5, "5th": 5, "sixth": 6, "6th": 6, "seventh": 7, "7th": 7,
}  # fmt: skip
LARGE = {"biggest", "largest", "bigger", "larger", "big", "large", "huge", "tallest", "taller"}
SMALL = {"smallest", "smaller", "small", "little", "tiny", "tiniest", "shortest", "shorter"}
# Words for the image itself: a place in it, not an object.
FRAME = {"picture", "image", "photo", "frame", "screen", "shot", "scene", "view", "us", "camera"}
# Words that say nothing about the appearance of an object.
FILLER = {
    "far", "most", "side", "hand", "corner", "edge", "part", "area", "end", "very", "extreme",
    "only", "the", "a", "an", "of", "in", "on", "to", "at", "from", "closest", "nearest",
    "furthest", "farthest", "one", "thing", "object",
}  # fmt: skip
DETERMINERS = {"the", "a", "an", "this", "that", "these", "those", "my", "his", "her", "its"}

RELATIONS: tuple[tuple[str, RelationKind], ...] = (
    (r"(?:(?:to|on|at) )?(?:the )?(?:far )?left(?: (?:hand )?side)? of", "left_of"),
    (r"(?:(?:to|on|at) )?(?:the )?(?:far )?right(?: (?:hand )?side)? of", "right_of"),
    (r"on top of|atop|sitting on|standing on|lying on|resting on", "on"),
    (r"above|over", "above"),
    (r"below|under|underneath|beneath", "below"),
    (r"in front of|before", "in_front_of"),
    (r"behind|in back of", "behind"),
    (r"(?:near|nearest|close|closer|closest)(?: to)?", "near"),
    (r"next to|beside|by|alongside|adjacent to", "near"),
    (r"on", "on"),
    (r"inside|in", "in"),
)  # fmt: skip

# "show me the ...", "this is the ...": not part of the noun phrase.
LEAD_IN = re.compile(
    r"^(?:please |can you |could you |would you |just )*"
    r"(?:(?:find|show|segment|select|pick|mark|click|locate|highlight|get|give|outline|choose)"
    r"(?: me| us| out| on)? "
    r"|(?:where|there) (?:is|are) |(?:this|that|it|here) is |i (?:see|want|mean) |it ?'s )"
)
# An expression that begins with one of these names no referent.
NO_REFERENT_STARTS = {"not", "what", "who", "whom", "where", "how", "without", "next"}
PRONOUNS = {"i", "me", "you", "it", "this", "that", "there", "he", "she", "they", "we", "us"}
# Nouns that the tagger often mistakes, or that stand for any noun.
NOUN_LIKE = {"one", "ones", "thing", "things", "guy", "girl", "kid", "person", "dude", "lady"}
PEOPLE = {
    "person", "people", "human", "man", "men", "woman", "women", "boy", "girl", "child", "children",
    "kid", "kids", "baby", "toddler", "guy", "dude", "lady", "gentleman", "male", "female", "adult",
    "player", "batter", "catcher", "umpire", "skier", "surfer", "rider", "driver", "astronaut",
    "waiter", "chef", "cook", "officer", "soldier", "bride", "groom", "mother", "father", "mom",
    "dad", "grandma", "grandpa", "student", "worker", "pedestrian",
}  # fmt: skip
# After a noun these words begin a place: "the cup left of the plate".
PLACE_AFTER_NOUN = {"left", "right", "nearest", "closest", "near", "close", "next", "furthest"}
# What follows is a clause about the noun before.
CLAUSE_STARTS = {"that", "who", "which", "whose", "where", "with", "w", "w/", "whom", "while"}
# What follows one of these is not there.
NEGATIONS = {"not", "n't", "nor", "without", "no", "except"}
COLORS = {
    "black", "white", "red", "green", "blue", "yellow", "orange", "brown", "pink", "purple",
    "gray", "grey", "beige", "tan", "dark", "light", "striped", "plaid",
}  # fmt: skip
# Nouns that end as participles do.
NOUNS_IN_ING = {
    "building", "ceiling", "painting", "ring", "king", "wing", "string", "awning", "railing",
    "pudding", "clothing", "earring", "frosting", "topping", "dressing", "crossing", "thing",
    "something", "swing", "sling", "lighting", "stocking",
}  # fmt: skip
