"""Word lists: spellings that annotators type, and words of place, order, size and relation."""

from __future__ import annotations

import re
from typing import Literal

Side = Literal["left", "right", "top", "bottom", "middle", "front", "back"]
Size = Literal["large", "small", "tall", "short", "long", "wide", "narrow"]
RelationKind = Literal[
    "left_of", "right_of", "above", "below", "near", "far_from", "on", "in", "behind",
    "in_front_of", "between", "with",
]  # fmt: skip

SPELLINGS = {
    "lft": "left", "leftt": "left", "letf": "left", "lef": "left",
    "rt": "right", "rigth": "right", "rght": "right", "righ": "right",
    "btm": "bottom", "botom": "bottom", "bottm": "bottom", "botton": "bottom",
    "centre": "center", "centr": "center", "ctr": "center", "midle": "middle", "mid": "middle",
    "pic": "picture", "img": "image", "w": "with", "w/": "with", "wth": "with",
    "leftermost": "leftmost", "doughnut": "donut", "fridge": "refrigerator",
    "btwn": "between", "bw": "between", "b/w": "between", "w/o": "without", "wo": "without",
    "bkgd": "background", "bg": "background", "frnt": "front", "frt": "front", "bck": "back",
    "ppl": "people", "grl": "girl", "wht": "white", "blk": "black", "brwn": "brown",
    "lil": "little", "elefant": "elephant",
    # British, where the dictionary is American.
    "colour": "color", "colours": "colors", "colourful": "colorful", "aeroplane": "airplane",
    "aeroplanes": "airplanes", "tyres": "tires", "kerb": "curb", "pyjamas": "pajamas",
    "jewellery": "jewelry", "aluminium": "aluminum", "harbour": "harbor", "harbours": "harbors",
    "neighbour": "neighbor", "neighbours": "neighbors", "favourite": "favorite", "fibre": "fiber",
    "flavour": "flavor", "flavours": "flavors", "centres": "centers", "chequered": "checkered",
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
# Sides that say how far away something is, from the camera or from another side.
DISTANCES = {"nearest", "closest", "farthest", "furthest"}
# "The second hand" of a clock and a "first aid kit" are not counted.
NOT_COUNTED = {
    "hand", "base", "floor", "story", "storey", "street", "avenue", "st", "ave", "inning", "grade",
    "aid", "class", "prize", "birthday",
}  # fmt: skip
IRREGULAR_PLURALS = {
    "people", "men", "women", "children", "sheep", "mice", "geese", "feet", "teeth", "deer", "fish",
    "ladies", "skis", "knives", "shelves", "leaves", "loaves", "calves", "wolves",
}  # fmt: skip
# "The 42 bus" is one.
SINGULARS_IN_S = {
    "bus", "minibus", "cactus", "octopus", "platypus", "walrus", "hippopotamus", "rhinoceros",
    "lens", "canvas", "gas", "iris", "hibiscus", "asparagus", "citrus", "thermos", "trellis",
    "chassis", "circus", "campus", "atlas", "tennis",
}  # fmt: skip
SIZES: dict[str, Size] = {
    "biggest": "large", "largest": "large", "bigger": "large", "larger": "large", "big": "large",
    "large": "large", "huge": "large",
    "smallest": "small", "smaller": "small", "small": "small", "little": "small", "tiny": "small",
    "tiniest": "small",
    "tall": "tall", "tallest": "tall", "taller": "tall",
    "short": "short", "shortest": "short", "shorter": "short",
    "longest": "long", "longer": "long", "widest": "wide", "wider": "wide",
    "thinnest": "narrow", "thinner": "narrow", "narrowest": "narrow", "narrower": "narrow",
}  # fmt: skip
# Words for the image itself: a place in it, not an object.
FRAME = {"picture", "image", "photo", "frame", "screen", "shot", "scene", "view", "us", "camera"}
# Words that say nothing about the appearance of an object.
FILLER = {
    "far", "most", "side", "corner", "edge", "part", "area", "end", "very", "extreme", "last",
    "only", "the", "a", "an", "of", "in", "on", "to", "at", "from", "closest", "nearest", "both",
    "furthest", "farthest", "one", "thing", "object", "all", "everything", "anything",
}  # fmt: skip
# "the left half of", "the right hand side": fillers only before this word.
FILLER_BEFORE = {"half": "of", "hand": "side"}
DETERMINERS = {
    "the", "a", "an", "this", "that", "these", "those", "my", "his", "her", "its", "their", "some",
}  # fmt: skip
POSSESSIVES = {"his", "her", "its", "their", "my"}
# "in its mouth" says how something is held, not where the referent is.
BODY = {"mouth", "hand", "hands", "head", "back", "lap", "arm", "arms", "face", "neck", "shoulder"}

# A posture before a relation belongs to it: the tagger takes "lying" after a noun for one.
_POSTURE = (
    r"(?:(?:sitting|seated|standing|lying|laying|resting|leaning|perched|hanging|parked|floating)"
    r" (?:down |up |upright |right |directly )?)?"
)
# The first that matches at a position counts: longer phrases come before their parts.
RELATIONS: tuple[tuple[str, RelationKind], ...] = (
    (r"(?:(?:to|on|at) )?(?:the )?(?:far )?left(?: (?:hand )?side)? of", "left_of"),
    (r"(?:(?:to|on|at) )?(?:the )?(?:far )?right(?: (?:hand )?side)? of", "right_of"),
    (rf"{_POSTURE}(?:in )?between", "between"),
    (rf"{_POSTURE}(?:on top of|atop)", "on"),
    (rf"{_POSTURE}(?:above|over)", "above"),
    (rf"{_POSTURE}(?:below|under|underneath|beneath)", "below"),
    (rf"{_POSTURE}(?:in front of|before)", "in_front_of"),
    (rf"{_POSTURE}(?:behind|in back of)", "behind"),
    (r"(?:away|far|further|furthest|farther|farthest) from", "far_from"),
    (rf"{_POSTURE}(?:near|nearest|close|closer|closest)(?: to)?", "near"),
    (rf"{_POSTURE}(?:next to|beside|by|alongside|adjacent to|against)", "near"),
    (r"(?:sitting|seated|standing|waiting) at|(?:attached|connected|tied) to", "near"),
    (r"dressed in|clad in", "with"),
    (
        r"with|wearing|holding|carrying|riding|having|has|have|eating|drinking|using|pushing"
        r"|pulling|hugging|throwing|flying|swinging|wears|holds",
        "with",
    ),
    (rf"{_POSTURE}on", "on"),
    (rf"{_POSTURE}(?:inside|in)", "in"),
)
# What people wear; "in" before one of these, or before a colour, is wearing.
CLOTHING = {
    "shirt", "tshirt", "t-shirt", "tee", "blouse", "top", "sweater", "sweatshirt", "hoodie",
    "jacket", "coat", "vest", "suit", "dress", "skirt", "gown", "robe", "apron", "jeans", "pants",
    "trousers", "shorts", "leggings", "jersey", "uniform", "outfit", "costume", "clothes",
    "clothing", "hat", "cap", "helmet", "beanie", "glasses", "sunglasses", "goggles", "mask",
    "scarf", "tie", "gloves", "shoes", "boots", "sneakers", "sandals", "socks", "heels", "gear",
    "wetsuit", "swimsuit", "bikini", "trunks", "pajamas", "overalls", "stripes", "plaid", "polo",
    "cardigan", "blazer", "tuxedo", "raincoat", "parka", "windbreaker", "poncho", "kimono", "sari",
    "veil", "headband", "bandana", "visor", "turtleneck", "flannel", "sweatpants", "tanktop",
}  # fmt: skip
# "the dog looking left", "facing to the right": where it looks, not where it is.
GAZE = re.compile(
    r"(?<!\S)(?:looking|facing|turned|pointing|headed|heading|going|leaning)"
    r" (?:to (?:the |its |his |her )?|toward |towards )?(?:the )?(?:left|right|up|down)(?!\S)"
)
# "people in line": an order without a place.
LINE = re.compile(r"(?<!\S)in (?:a |the )?(?:line|row)(?!\S)")
ROW = re.compile(
    r"(?<!\S)(?:(?:in|on|of|from) )?(?:the )?"
    r"(?P<side>front|back|rear|top|upper|bottom|lower|middle) row(?!\S)"
)

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
# Nouns that the tagger often mistakes, or that can replace any noun.
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
# "everything but the dog"; elsewhere "but" introduces what is there.
ALL_BUT = {"everything", "anything", "all", "anyone", "everyone"}
COLORS = {
    "black", "white", "red", "green", "blue", "yellow", "orange", "brown", "pink", "purple",
    "gray", "grey", "beige", "tan", "dark", "light", "striped", "plaid",
}  # fmt: skip
# Nouns that end like participles.
NOUNS_IN_ING = {
    "building", "ceiling", "painting", "ring", "king", "wing", "string", "awning", "railing",
    "pudding", "clothing", "earring", "frosting", "topping", "dressing", "crossing", "thing",
    "something", "swing", "sling", "lighting", "stocking",
}  # fmt: skip
