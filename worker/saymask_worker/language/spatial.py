"""Words of place, order and size.

They are read as words, never as substrings ("leftover" is not left).
"""

from __future__ import annotations

from collections.abc import Sequence

from saymask_worker.language.expression import Count, Ordinal
from saymask_worker.language.lexicon import (
    COLORS,
    DISTANCES,
    FILLER,
    FILLER_BEFORE,
    GAZE,
    IRREGULAR_PLURALS,
    LINE,
    NOT_COUNTED,
    ROW,
    SIDES,
    SINGULARS_IN_S,
    SIZES,
    Side,
    Size,
)
from saymask_worker.language.numerals import (
    EACH,
    EVERYONE,
    FROM_END,
    NUMBERS,
    ORDINALS,
    QUANTITIES,
    SEVERAL,
)

_NOT_APPEARANCE = {*SIDES, *ORDINALS, *FROM_END, *SIZES, *FILLER, *EACH, *SEVERAL}
_KEPT_INSIDE = ("of", "the", "a", "an", "in")
# Sides that can follow "second from the", and those that can follow an ordinal anywhere.
_ORDINAL_STARTS = ("left", "right", "top", "bottom", "front", "back")
_LOOSE_ORDINAL_STARTS = ("left", "right", "top", "bottom")
_READING_START: Side = "left"
_OPPOSITE: dict[Side, Side] = {
    "left": "right", "right": "left", "top": "bottom", "bottom": "top", "front": "back",
    "back": "front",
}  # fmt: skip
_MAX_WORDS_BETWEEN = 3
_FIRST_EMOJI = 0x2000


def drop_gaze(words: Sequence[str]) -> list[str]:
    """Return the words without "looking left" and "in line", which are no places."""
    return LINE.sub("", GAZE.sub("", " ".join(words))).split()


def read_row(words: Sequence[str]) -> tuple[Side | None, list[str]]:
    """Return the side of "the top row", and the other words."""
    text = " ".join(words)
    match = ROW.search(text)
    if match is None:
        return None, list(words)
    return SIDES[match["side"]], (text[: match.start()] + text[match.end() :]).split()


def read_ordinal(words: Sequence[str]) -> tuple[Ordinal | None, list[str]]:
    """Return ``second from the left``, ``third left`` or ``the third``, and the other words."""
    counted = _read_counted(words)
    if counted is not None:
        return counted
    for index, word in enumerate(words):
        before, after = list(words[:index]), list(words[index + 1 :])
        if word in FROM_END:
            start, rest = _find_side_after(after, ("from",)) or (_READING_START, after)
            return Ordinal(FROM_END[word], _OPPOSITE[start]), before + rest
        if word in ORDINALS:
            found = _read_order(ORDINALS[word], after)
            if found is not None:
                return found[0], before + found[1]
    return None, list(words)


def _read_order(rank: int, after: list[str]) -> tuple[Ordinal, list[str]] | None:
    """What the words after an ordinal count, and the other words; None where they count nothing."""
    following = after[0] if after else ""
    if following in SIZES and following.endswith("est"):
        return Ordinal(rank, _READING_START, SIZES[following]), after[1:]
    found = _find_side_after(after, ("from", "on", "to", "in"))
    if found is not None:
        return Ordinal(rank, found[0]), found[1]
    side = _first_side([word for word in after if word not in DISTANCES])
    if side in _LOOSE_ORDINAL_STARTS:
        return Ordinal(rank, side), after
    if following in DISTANCES:
        return Ordinal(rank, SIDES[following]), after
    return None if following in NOT_COUNTED else (Ordinal(rank, _READING_START), after)


def _find_side_after(
    words: list[str], prepositions: tuple[str, ...]
) -> tuple[Side, list[str]] | None:
    """The side after a preposition that is one of the first words, and the words before both."""
    for position, word in enumerate(words[: _MAX_WORDS_BETWEEN + 1]):
        if word in prepositions:
            side = _first_side(words[position + 1 : position + 1 + _MAX_WORDS_BETWEEN])
            if side in _ORDINAL_STARTS:
                return side, words[:position]
    return None


def _read_counted(words: Sequence[str]) -> tuple[Ordinal, list[str]] | None:
    """``2 from the left``, with a number instead of an ordinal."""
    for index, word in enumerate(words[:-2]):
        is_pronoun = index > 0 and words[index - 1] in ORDINALS  # "the second one from the left"
        if word in NUMBERS and words[index + 1] == "from" and not is_pronoun:
            side = _first_side(words[index + 2 : index + 4])
            if side in _ORDINAL_STARTS:
                return Ordinal(NUMBERS[word], side), list(words[:index])
    return None


def _first_side(words: Sequence[str]) -> Side | None:
    return next((SIDES[word] for word in words if word in SIDES), None)


def read_sides(words: Sequence[str]) -> tuple[Side, ...]:
    """Return absolute places, in order of mention."""
    sides = [
        SIDES[word]
        for before, word in zip(["", *words], words, strict=False)
        if word in SIDES and not (word == "top" and before in COLORS)
    ]
    near = {SIDES[word] for word in words if word in DISTANCES}
    explicit = [side for side in sides if side not in near]
    # "closest to the bottom", "furthest to the right": the side is meant, not the depth.
    return tuple(dict.fromkeys(explicit or sides))


def read_size(words: Sequence[str]) -> Size | None:
    """Return the first word of size, as ``large`` for ``biggest``."""
    return next((SIZES[word] for word in words if word in SIZES), None)


def strip_spatial(phrase: str) -> str | None:
    """Return a noun phrase without words of place, order and size; None when none is left."""
    words = phrase.split()
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
    """Whether a word says where, which, how many or how large; a "black top" is clothing."""
    word, following = words[index], words[index + 1 : index + 2]
    if word in FILLER_BEFORE:
        return following == [FILLER_BEFORE[word]]
    if word in NUMBERS and following:
        return all(_is_spatial(words, earlier) for earlier in range(index))
    is_garment = word == "top" and index > 0 and words[index - 1] in COLORS
    return word in _NOT_APPEARANCE and not is_garment


def _is_visible(word: str) -> bool:
    """Whether a word can name an appearance: letters, digits or emoji, not punctuation."""
    return any(c.isalnum() or ord(c) > _FIRST_EMOJI for c in word)


def read_count(phrase: str) -> Count | None:
    """Return how many objects a noun phrase means, where it says that there are several."""
    *before, last = phrase.partition(" of ")[0].split()
    numbers = [QUANTITIES[word] for word in before if word in QUANTITIES]
    is_plural = _is_plural(last)
    if is_plural and numbers:
        return numbers[0] if numbers[0] > 1 else None
    if last in EVERYONE or EACH.intersection(before) or (is_plural and "all" in before):
        return "all"
    return "several" if is_plural and SEVERAL.intersection(before) else None


def _is_plural(noun: str) -> bool:
    is_regular = noun.endswith("s") and not noun.endswith("ss") and noun not in SINGULARS_IN_S
    return is_regular or noun in IRREGULAR_PLURALS
