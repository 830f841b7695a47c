"""Whether an expression is English, by its letters and by the languages that use its words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from spellchecker import SpellChecker

from saymask_worker.language.lexicon import SPELLINGS

# Languages in Latin letters that the spelling checker has a dictionary of. For each the least
# frequency of a word: to count at all, and to identify the language by itself ("rouge", "perro",
# not "crème"). German's dictionary undercounts: it has nouns without their capital.
_LANGUAGES = {
    "de": (4.5e-7, 5e-6),
    "es": (1e-6, 3.3e-5),
    "fr": (1e-6, 3.3e-5),
    "it": (1e-6, 3.3e-5),
    "nl": (1e-6, 3.3e-5),
    "pt": (1e-6, 3.3e-5),
}
_TIMES_MORE_OFTEN = 8
# A word that is this much more frequent in English is English ("can" is in the Spanish dictionary).
_TIMES_LESS_OFTEN = 200
_FIRST_NOT_WESTERN = "\u0250"
_WORD = re.compile(r"\w+")
_ENGLISH_LETTERS = ("a", "i")


@dataclass(frozen=True)
class _Language:
    """The words of a language, compared with English.

    Attributes:
        own: used much more often than in English.
        telling: those of them that identify the language.
        shared: English words that this language has as well.
        has_noun_capitals: whether every noun has a capital.
    """

    own: frozenset[str]
    telling: frozenset[str]
    shared: frozenset[str]
    has_noun_capitals: bool


@cache
def load_english() -> SpellChecker:
    """Return the English dictionary, read once."""
    return SpellChecker(language="en", distance=1)


@cache
def _load_language(code: str) -> _Language:
    english = load_english().word_frequency
    other = SpellChecker(language=code).word_frequency
    used_min, telling_min = (share * other.total_words for share in _LANGUAGES[code])
    # How often the word would occur here if it were as frequent as in English.
    rate = other.total_words / english.total_words
    as_in_english = {word: rate * count for word, count in english.dictionary.items()}
    has_noun_capitals = code == "de"
    words = other.dictionary
    own = {
        word: count
        for word, count in words.items()
        if count >= used_min and count > _TIMES_MORE_OFTEN * as_in_english.get(word, 0)
    }
    shared = (
        word
        for word, count in words.items()
        if word in as_in_english
        and word not in own
        and (has_noun_capitals or count * _TIMES_LESS_OFTEN > as_in_english[word])
    )
    telling = (word for word, count in own.items() if count >= telling_min)
    return _Language(frozenset(own), frozenset(telling), frozenset(shared), has_noun_capitals)


class ForeignWords:
    """Tells expressions in other languages from English ones.

    In doubt an expression is English: neither a foreign name in it ("the sombrero", "el toro sign")
    nor a single word makes it foreign.

    Args:
        nouns: what an image can show; their words count as English.
    """

    def __init__(self, nouns: Iterable[str]) -> None:
        words = {word for noun in nouns for word in noun.split() if len(word) > 1}
        self._english = words.union(SPELLINGS)
        self._dictionary = load_english()
        self._languages = tuple(map(_load_language, _LANGUAGES))

    def is_english(self, expression: str) -> bool:
        """Return whether an expression, with its capitals, can be English."""
        words = [word for word in _WORD.findall(expression) if word.isalpha()]
        foreign = sum(any(letter >= _FIRST_NOT_WESTERN for letter in word) for word in words)
        if 2 * foreign > len(words):
            return False
        return len(words) < 2 or not any(
            self._is_written_in(language, words) for language in self._languages
        )

    def _is_written_in(self, language: _Language, words: list[str]) -> bool:
        """Whether most words are a language's own, and none is English alone."""
        own = shared = 0
        is_shown = False
        # In "Bin On Left" capitals mean nothing.
        has_noun_capitals = language.has_noun_capitals and any(map(str.islower, words))
        for index, written in enumerate(words):
            word = written.lower()
            is_own = word in language.own
            if is_own and word not in self._english:
                own += 1
                is_shown = is_shown or word in language.telling
            elif has_noun_capitals and index and written.istitle():
                continue
            elif is_own or word in language.shared:
                shared += 1
            elif self._is_english_word(word):
                return False
        return is_shown and own > shared

    def _is_english_word(self, word: str) -> bool:
        if len(word) == 1:
            return word in _ENGLISH_LETTERS
        return word in self._english or word in self._dictionary
