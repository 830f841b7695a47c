"""Nouns for expressions that have none: "the left one", "2nd from left".

People leave the noun out when they refer to one of several objects in plain sight. ``THINGS`` are
what such expressions refer to; ``PARTS_AND_STUFF`` are what other masks show: parts of objects and
their background.
"""

from __future__ import annotations

THINGS = (
    "person", "man", "woman", "child", "dog", "cat", "horse", "sheep", "cow", "elephant", "bear",
    "zebra", "giraffe", "bird", "duck", "fish", "bicycle", "motorcycle", "car", "bus", "train",
    "truck", "boat", "airplane", "helicopter", "traffic light", "sign", "fire hydrant", "bench",
    "umbrella", "backpack", "handbag", "suitcase", "hat", "shoe", "tie", "frisbee", "ball", "kite",
    "skateboard", "surfboard", "skis", "tennis racket", "baseball bat", "bottle", "glass", "cup",
    "bowl", "plate", "pot", "fork", "knife", "spoon", "banana", "apple", "orange", "pear",
    "tomato", "carrot", "broccoli", "sandwich", "hot dog", "pizza", "donut", "cake", "bread",
    "chair", "couch", "bed", "cabinet", "shelf", "lamp", "television", "computer", "laptop",
    "keyboard", "mouse", "remote control", "phone", "camera", "microwave", "oven",
    "refrigerator", "sink", "toilet", "clock", "vase", "book", "box", "basket", "picture",
    "mirror", "curtain", "pillow", "towel", "teddy bear", "doll", "toy", "statue", "scissors",
    "toothbrush", "plant", "flower", "tree", "mushroom", "building", "house", "tower", "tent",
    "flag", "balloon",
)  # fmt: skip
PARTS_AND_STUFF = (
    "sky", "cloud", "mountain", "hill", "sand", "sea", "water", "river", "snow", "road", "street",
    "pavement", "path", "floor", "ceiling", "wall", "brick wall", "grass", "field", "ground",
    "soil", "carpet", "tile", "fence", "background", "shadow", "reflection", "light", "text",
    "letter", "roof", "wooden board", "cloth", "blanket", "face", "head", "hair", "hand", "arm",
    "leg", "foot", "shirt", "trousers", "jacket", "wheel", "handle", "window", "door", "leaf",
    "branch", "table", "counter",
)  # fmt: skip
