"""Words of place, order, size and relation.

They are read as words, never as substrings ("leftover" is not left), with the spellings that
annotators really type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from worker.language.expression import Ordinal, Relation, RelationKind, Side
from worker.language.lexicon import (
    CLAUSE_STARTS,
    COLORS,
    DETERMINERS,
    FILLER,
    FRAME,
    LARGE,
    NEGATIONS,
    NOUNS_IN_ING,
    ORDINALS,
    RELATIONS,
    SIDES,
    SMALL,
    SPELLINGS,
)

_NOT_AN_ANCHOR = {*SIDES, *FRAME, *FILLER}
_NOT_APPEARANCE = {*SIDES, *ORDINALS, *LARGE, *SMALL, *FILLER}
_KEPT_INSIDE = ("of", "the", "a", "an", "in")
_CLAUSE_ENDS = {*CLAUSE_STARTS, ",", ".", "and", "on", "in", "at"}
# Sides that can follow "second from the", and those that can follow an ordinal anywhere.
_ORDINAL_STARTS = ("left", "right", "top", "bottom", "front", "back")
_LOOSE_ORDINAL_STARTS = ("left", "right", "top", "bottom")
_MAX_WORDS_BETWEEN = 3
_FIRST_EMOJI = 0x2000


def normalise_words(text: str) -> list[str]:
    """Split at blanks and correct known misspellings."""
    return [SPELLINGS.get(word, word) for word in text.split()]


def read_relation(words: Sequence[str]) -> tuple[Relation | None, list[str]]:
    """Return the first relation whose anchor is an object, and the words before it."""
    text = " ".join(words)
    for pattern, kind in RELATIONS:
        for match in re.finditer(rf"(?<!\S)(?:{pattern}) (?P<anchor>\S.*)$", text):
            anchor = _read_anchor(match["anchor"])
            before = text[: match.start()].split()
            if anchor and not _is_attribute(kind, match[0], before):
                return Relation(kind, anchor), before
    return None, list(words)


def _read_anchor(text: str) -> str:
    """The anchor without determiners and clauses; empty when it is the image or a side of it."""
    words = text.split()
    end = next((i for i, word in enumerate(words) if i and _ends_anchor(word)), len(words))
    anchor = [word for word in words[:end] if word not in DETERMINERS]
    return " ".join(anchor) if anchor and anchor[0] not in _NOT_AN_ANCHOR else ""


def _ends_anchor(word: str) -> bool:
    is_participle = word.endswith("ing") and word not in NOUNS_IN_ING
    return word in _CLAUSE_ENDS or word in NEGATIONS or is_participle


def read_affirmative(text: str) -> str:
    """Return the words before a negation: what is not there must not be looked for."""
    words = text.split()
    end = next((i for i, word in enumerate(words) if i and word in NEGATIONS), len(words))
    return " ".join(words[:end])


def _is_attribute(kind: RelationKind, match: str, before: Sequence[str]) -> bool:
    """Whether a relation without a noun before it describes its own anchor: "closest car"."""
    if set(before) - DETERMINERS:
        return False
    return kind in ("on", "in") or match.startswith(("close", "near"))


def read_ordinal(words: Sequence[str]) -> tuple[Ordinal | None, list[str]]:
    """Return ``second from the left`` or ``third left``, and the other words."""
    for index, word in enumerate(words):
        if word not in ORDINALS:
            continue
        before, after = list(words[:index]), list(words[index + 1 :])
        for place, later in enumerate(after[: _MAX_WORDS_BETWEEN + 1]):
            if later in ("from", "on", "to", "in"):
                side = _first_side(after[place + 1 : place + 1 + _MAX_WORDS_BETWEEN])
                if side in _ORDINAL_STARTS:
                    return Ordinal(ORDINALS[word], side), before + after[:place]
        side = _first_side(after)
        if side in _LOOSE_ORDINAL_STARTS:
            return Ordinal(ORDINALS[word], side), before + after
    return None, list(words)


def _first_side(words: Sequence[str]) -> Side | None:
    return next((SIDES[word] for word in words if word in SIDES), None)


def read_sides(words: Sequence[str]) -> tuple[Side, ...]:
    """Return absolute places, in order of mention."""
    sides = [
        SIDES[word]
        for before, word in zip(["", *words], words, strict=False)
        if word in SIDES and not (word == "top" and before in COLORS)
    ]
    explicit = [side for side in sides if side not in ("front", "back")]
    # "closest to the bottom", "furthest to the right": the side is meant, not the depth.
    return tuple(dict.fromkeys(explicit or sides))


def read_size(words: Sequence[str]) -> int:
    """Return +1 for words such as ``biggest``, -1 for ``small``, 0 without any."""
    if any(word in LARGE for word in words):
        return 1
    return -1 if any(word in SMALL for word in words) else 0


def strip_spatial(phrase: str) -> str | None:
    """Return a noun phrase without words of place, order and size; None when none is left."""
    words = normalise_words(phrase)
    content = [i for i, word in enumerate(words) if not _is_spatial(words, i)]
    if not any(_is_visible(words[i]) for i in content):
        return None
    # "part of the bus": fillers inside stay once a content word has begun.
    return " ".join(
        word
        for i, word in enumerate(words)
        if content[0] <= i <= content[-1] and (i in content or word in _KEPT_INSIDE)
    )


def _is_spatial(words: Sequence[str], index: int) -> bool:
    """Whether a word says where, which or how large; a "black top" is clothing."""
    is_garment = words[index] == "top" and index > 0 and words[index - 1] in COLORS
    return words[index] in _NOT_APPEARANCE and not is_garment


def _is_visible(word: str) -> bool:
    """Whether a word can name an appearance: letters, digits or emoji, not punctuation."""
    return any(c.isalnum() or ord(c) > _FIRST_EMOJI for c in word)
