"""Spelling: what annotators abbreviate, and words that no dictionary has.

An unknown word is taken for the most similar noun of the vocabulary; a word that the dictionary
has is never touched, so "goat" is not read as "boat". What was changed is reported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from spellchecker import SpellChecker

from worker.language.expression import Correction
from worker.language.lexicon import (
    BODY,
    CLOTHING,
    COLORS,
    NOUN_LIKE,
    ORDINALS,
    PEOPLE,
    SIDES,
    SIZES,
    SPELLINGS,
)

_SHORTEST = 5
_SIMILARITY_MIN = 0.8
# spaCy splits at hyphens.
_HYPHENS = (
    (re.compile(r"(?<!\S)(left|right|top|bottom) - most(?!\S)"), r"\1most"),
    (re.compile(r"(?<!\S)(?:t|tee) - shirt(?!\S)"), "t-shirt"),
)


class Spelling:
    """Corrects words.

    Args:
        nouns: what an image can show; their words are what a misspelling can stand for.
    """

    def __init__(self, nouns: Iterable[str]) -> None:
        self._dictionary = SpellChecker(language="en", distance=1)
        words = {word for noun in nouns for word in noun.split()}
        self._words = sorted(
            words.union(SIDES, ORDINALS, SIZES, COLORS, PEOPLE, CLOTHING, BODY, NOUN_LIKE)
        )
        self._correct = lru_cache(maxsize=4096)(self._find_meant)

    def correct(self, words: Sequence[str]) -> tuple[list[str], tuple[Correction, ...]]:
        """Return the words as they are meant, and what was taken for a misspelling.

        Abbreviations and other names ("lft", "w/", "fridge") are replaced without mention.
        """
        text = " ".join(words)
        for pattern, whole in _HYPHENS:
            text = pattern.sub(whole, text)
        joined = text.split()
        meant = [SPELLINGS.get(word) or self._correct(word) for word in joined]
        changed = (
            Correction(typed, read)
            for typed, read in zip(joined, meant, strict=True)
            if typed != read and typed not in SPELLINGS
        )
        return meant, tuple(changed)

    def _find_meant(self, word: str) -> str:
        is_plain = word.isascii() and word.isalpha() and len(word) >= _SHORTEST
        if not is_plain or word in self._dictionary or word in self._words:
            return word
        similar = difflib.get_close_matches(word, self._words, n=1, cutoff=_SIMILARITY_MIN)
        return similar[0] if similar else word
