"""Spelling: abbreviations of annotators, and words that no dictionary has.

An unknown word is read as the nearest word of the vocabulary only where one or two letters differ.
Words in the dictionary and names are never touched, so "goat" is not read as "boat". Changes are
reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from saymask_worker.language.expression import Correction
from saymask_worker.language.foreign import load_english
from saymask_worker.language.lexicon import (
    BODY,
    CLOTHING,
    COLORS,
    NOUN_LIKE,
    PEOPLE,
    SIDES,
    SIZES,
    SPELLINGS,
)
from saymask_worker.language.numerals import ORDINALS

_SHORTEST = 5
# From this length on, one letter may differ; in shorter words one may be missing, or two swapped:
# "skoda" is no soda.
_MIDDLING = 6
# From this length on, two letters may differ; "crockpot" is no cockpit.
_LONG = 10
_ENDINGS = ("s", "es", "er", "ers", "ing", "ed", "ish", "y")
# spaCy splits at hyphens.
_HYPHENS = (
    (re.compile(r"(?<!\S)(left|right|top|bottom) - most(?!\S)"), r"\1most"),
    (re.compile(r"(?<!\S)(?:t|tee) - shirt(?!\S)"), "t-shirt"),
)
_WORD = re.compile(r"[^\W\d_]+")


def find_names(expression: str) -> frozenset[str]:
    """Return the words, in lower case, that their capitals show to be names: "GoPro", "by Nike".

    The first letter of an expression shows nothing, and neither do capitals throughout.
    """
    if expression.isupper():
        return frozenset()
    words = _WORD.findall(expression)
    tails = [words[0][1:], *words[1:]] if words else []
    return frozenset(
        word.lower()
        for word, tail in zip(words, tails, strict=True)
        if any(character.isupper() for character in tail)
    )


class Spelling:
    """Corrects words.

    Args:
        nouns: what an image can show; a misspelling is read as one of their words.
    """

    def __init__(self, nouns: Iterable[str]) -> None:
        self._dictionary = load_english()
        words = {word for noun in nouns for word in noun.split()}
        words |= {f"{word}s" for word in words if f"{word}s" in self._dictionary}
        self._words = words.union(
            SIDES, ORDINALS, SIZES, COLORS, PEOPLE, CLOTHING, BODY, NOUN_LIKE
        )  # fmt: skip
        self._correct = lru_cache(maxsize=4096)(self._find_meant)

    def correct(
        self, words: Sequence[str], names: frozenset[str] = frozenset()
    ) -> tuple[list[str], tuple[Correction, ...]]:
        """Return the words as meant, and the misspellings among them.

        Abbreviations and other names ("lft", "w/", "fridge") are replaced without mention.

        Args:
            words: in lower case.
            names: words that are never misspellings.
        """
        text = " ".join(words)
        for pattern, whole in _HYPHENS:
            text = pattern.sub(whole, text)
        joined = text.split()
        meant = [
            SPELLINGS.get(word) or (word if word in names else self._correct(word))
            for word in joined
        ]
        changed = (
            Correction(typed, read)
            for typed, read in zip(joined, meant, strict=True)
            if typed != read and typed not in SPELLINGS
        )
        return meant, tuple(changed)

    def _find_meant(self, word: str) -> str:
        is_plain = word.isascii() and word.isalpha() and len(word) >= _SHORTEST
        if not is_plain or self._knows(word) or self._is_derived(word):
            return word
        return max(self._find_near(word), key=lambda other: self._rate(other, word), default=word)

    def _find_near(self, word: str) -> list[str]:
        """The words of the vocabulary that may have been meant."""
        allowed = 2 if len(word) >= _LONG else 1
        similar = [
            other
            for other in sorted(self._words)
            if other[0] == word[0] and abs(len(other) - len(word)) <= allowed
        ]
        edited = self._dictionary.edit_distance_1(word)
        near = [other for other in similar if other in edited]
        if len(word) < _MIDDLING:
            return [o for o in near if len(o) > len(word) or sorted(o) == sorted(word)]
        if near or allowed == 1:
            return near
        edit = self._dictionary.edit_distance_1
        return [other for other in similar if not edited.isdisjoint(edit(other))]

    def _rate(self, meant: str, typed: str) -> tuple[bool, bool, int]:
        """Of words equally near: of the same number, of which a letter was left out, more usual."""
        has_same_number = meant.endswith("s") == typed.endswith("s")
        return has_same_number, len(meant) > len(typed), self._dictionary[meant]

    def _knows(self, word: str) -> bool:
        return word in self._words or word in self._dictionary

    def _is_derived(self, word: str) -> bool:
        """Whether a word is a known one with an ending: "longboards", "paddleboarder"."""
        stems = (word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))
        return any(len(stem) >= _SHORTEST and self._knows(stem) for stem in stems)
