"""A referring expression, cleaned and taken apart."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from saymask.contract import normalise_expression
from saymask.errors import InvalidExpression
from saymask_worker.language.lexicon import PEOPLE, RelationKind, Side, Size

Count = int | Literal["all", "several"]

_CURE = "Type a few words that name one object."
_ZERO_WIDTH_JOINER = "\u200d"


@dataclass(frozen=True)
class Ordinal:
    """``second from the left``, ``second largest``.

    Attributes:
        rank: from 1.
        start: the side where counting starts.
        size: by which objects are ordered instead, or None.
    """

    rank: int
    start: Side
    size: Size | None = None

    def __str__(self) -> str:
        """Return words for people."""
        return (
            f"{self.rank} from {self.start}" if self.size is None else f"{self.rank} by {self.size}"
        )


@dataclass(frozen=True)
class Relation:
    """``left of the red car``: a kind, and the anchor it is relative to.

    ``with`` covers all pairs: holding, wearing, riding. ``between`` has a second anchor, unless one
    plural names both.
    """

    kind: RelationKind
    anchor: str
    second: str | None = None


@dataclass(frozen=True)
class Correction:
    """A word that was read as a misspelling of another."""

    typed: str
    read: str


@dataclass(frozen=True)
class ParsedExpression:
    """An expression taken apart.

    Attributes:
        text: lower case, spaCy tokens joined by single spaces.
        sentence: the text as scored: spelling corrected, without negated objects.
        head_noun_phrase: noun chunk naming the referent, or None when there is none.
        appearance: that phrase without words of place, order, number and size; None when nothing
            is left.
        sides: absolute places, in order of mention.
        row: the side of the one row, of several, in which the referent is, or None.
        ordinal: or None.
        relations: in order of mention.
        size: or None.
        excluded: what the referent does not have, or is not, or None.
        corrections: of spelling, shown to annotators.
        count: how many objects are meant, where a word says that several are, else None.
        is_english: whether the words are, as far as can be told.
    """

    text: str
    sentence: str
    head_noun_phrase: str | None
    appearance: str | None
    sides: tuple[Side, ...] = ()
    row: Side | None = None
    ordinal: Ordinal | None = None
    relations: tuple[Relation, ...] = ()
    size: Size | None = None
    excluded: str | None = None
    corrections: tuple[Correction, ...] = ()
    count: Count | None = None
    is_english: bool = True

    @property
    def names_person(self) -> bool:
        """Whether the head noun names a human being."""
        return self.appearance is not None and self.appearance.split()[-1] in PEOPLE

    @property
    def has_spatial_words(self) -> bool:
        """Whether words of place, order or size tell the referent from others like it."""
        return bool(self.sides or self.row or self.ordinal or self.size)


def clean_expression(raw: str) -> str:
    """Remove control characters, and make white space single.

    Raises:
        InvalidExpression: nothing that could name an object is left.
    """
    text = " ".join("".join(_clean_character(c) for c in normalise_expression(raw)).split())
    if not text:
        raise InvalidExpression("The referring expression is empty.", _CURE)
    if not any(_is_word_character(c) for c in text):
        raise InvalidExpression("The referring expression contains no word.", _CURE)
    return text


def _clean_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cf", "Cs") and character != _ZERO_WIDTH_JOINER:
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else character


def _is_word_character(character: str) -> bool:
    """Letters, numbers and symbols such as emoji."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "So"
