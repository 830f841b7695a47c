"""False expressions: what people said of an image, with one word changed so that nothing fits."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saymask.errors import InvalidExpression
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.images.types import Floats, Geometry, Scores
from saymask_worker.language import ParsedExpression
from saymask_worker.language.lexicon import SIDES
from saymask_worker.language.numerals import NUMBERS, ORDINALS
from saymask_worker.pipeline.generation.colors import COLORS
from saymask_worker.pipeline.generation.families import read_kinds
from saymask_worker.ranking.comparison import find_instances, toward
from saymask_worker.ranking.confidence import compute_presence_probability

Kind = Literal["noun", "color", "side", "ordinal", "number"]

# The field of a parse that a word of each kind decides. Everything else must stay as it was.
_DECIDES = {
    "noun": "appearance", "color": "appearance", "side": "sides", "ordinal": "ordinal",
    "number": "count",
}  # fmt: skip
_COMPARED = (
    "appearance", "sides", "row", "ordinal", "relations", "size", "excluded", "count",
    "corrections", "is_english",
)  # fmt: skip
_OPPOSITES = (
    ("left", "right"), ("leftmost", "rightmost"), ("top", "bottom"), ("upper", "lower"),
    ("topmost", "bottommost"),
)  # fmt: skip
# The words of each kind, and the lowest number that can be changed: "one" stands before a singular.
_COUNTED: tuple[tuple[Kind, Mapping[str, int], int], ...] = (
    ("ordinal", ORDINALS, 1), ("number", NUMBERS, 2),
)  # fmt: skip
# Higher numbers are false of every image, and teach nothing.
_HIGHEST = 10
# At most this many nouns or colours of one expression are tried.
_TRIED = 6
_WORD = re.compile(r"\w+(?:[-']\w+)*")

Parse = Callable[[str], ParsedExpression]
Score = Callable[[str], Scores]
"""Scores the proposals for an expression."""

MeasureColors = Callable[[Sequence[int]], Floats]
"""Returns for some proposals (n,) the share (n, 11) of their pixels that has each colour."""


@dataclass(frozen=True)
class Alteration:
    """An expression with one word changed.

    Attributes:
        kind: of the word.
        value: what stands there now: a colour, a side, a number in words or digits, or a whole
            noun, which may have more words.
        text: the altered expression.
    """

    kind: Kind
    value: str
    text: str


@dataclass(frozen=True, eq=False)
class Judge:
    """Tells whether an altered expression is false of an image.

    Args:
        geometry: of the image's proposals.
        parse: takes an expression apart.
        score: ranks the proposals for one.
        measure_colors: of proposals.
        config: what counts as an object, as absent and as a colour.
    """

    geometry: Geometry
    parse: Parse
    score: Score
    measure_colors: MeasureColors
    config: PipelineConfig

    def find_false(self, expression: str, known: frozenset[str], seed: int) -> Alteration | None:
        """Return one alteration that is false of the image; None where none is surely so.

        Args:
            expression: that is true of the image.
            known: expressions that are not proposed, in lower case.
            seed: for the choice among several.

        Raises:
            InvalidExpression: it cannot be read.
        """
        before = self.parse(expression)
        words = (before.appearance or "").split()
        noun = " ".join(word for word in words if word not in COLORS and word != "grey")
        if not noun or before.excluded is not None or not self._is_present(noun):
            return None
        shown = find_instances(self.score(noun).total, self.geometry, self.config.scoring)
        for option in _order(expression, seed) if len(shown) else ():
            if option.text.lower() in known:
                continue
            after = self.parse(option.text)
            if is_decided(option, before, after) and self._is_false(option, after, shown):
                return option
        return None

    def _is_false(
        self, option: Alteration, after: ParsedExpression, shown: NDArray[np.intp]
    ) -> bool:
        """Whether none of the objects that the noun can mean fits; ``shown`` indexes them."""
        own = self.config.generation
        if option.kind == "noun":
            return not self._is_present(option.value)
        if option.kind == "color":
            shares = self.measure_colors(shown.tolist())
            return bool(shares[:, COLORS.index(option.value)].max() <= own.color_share_max)
        if option.kind == "ordinal":
            return after.ordinal is not None and after.ordinal.rank > len(shown)
        if option.kind == "number":
            return isinstance(after.count, int) and after.count > len(shown)
        # Of several objects one is always the leftmost.
        side = SIDES[option.value]
        along = toward(side, self.geometry)[shown]
        return len(shown) == 1 and bool(along[0] <= 0.5 - own.side_gap_min)

    def _is_present(self, noun: str) -> bool:
        scoring = self.config.scoring
        presence = compute_presence_probability(self.score(noun), scoring)
        return presence >= scoring.no_referent_below


def propose_false(
    judge: Judge, accepted: Sequence[str], count: int, seed: int
) -> list[tuple[str, Alteration]]:
    """Return false expressions, each with the accepted one from which it was made.

    At most one for each of these, and ``count`` in all; what was accepted is never among them.
    """
    known = {text.lower() for text in accepted}
    found: list[tuple[str, Alteration]] = []
    for expression in accepted:
        if len(found) == count:
            break
        try:
            false = judge.find_false(expression, frozenset(known), seed)
        except InvalidExpression:
            # It names an object by its mask alone; a person accepted it without any word.
            continue
        if false is not None:
            known.add(false.text.lower())
            found.append((expression, false))
    return found


def is_decided(option: Alteration, before: ParsedExpression, after: ParsedExpression) -> bool:
    """Return whether the changed word, and it alone, changes what an expression says."""
    changed = {name for name in _COMPARED if getattr(before, name) != getattr(after, name)}
    if changed != {_DECIDES[option.kind]} or not after.is_english:
        return False
    words = (after.appearance or "").split()
    if option.kind == "noun":
        return words[-len(option.value.split()) :] == option.value.split()
    return option.kind != "color" or option.value in words


def _order(expression: str, seed: int) -> list[Alteration]:
    """The alterations to be tried: kinds, nouns and colours at random, numbers from the lowest."""
    chance = random.Random(f"{seed} {expression}")
    by_kind: dict[Kind, list[Alteration]] = {}
    for option in alter(expression):
        by_kind.setdefault(option.kind, []).append(option)
    kinds = list(by_kind)
    chance.shuffle(kinds)
    for kind in ("noun", "color"):
        options = by_kind.get(kind, [])
        by_kind[kind] = chance.sample(options, min(len(options), _TRIED))
    return [option for kind in kinds for option in by_kind[kind]]


def alter(expression: str) -> Iterator[Alteration]:
    """Yield every alteration of an expression; numbers in ascending order."""
    spans = [match.span() for match in _WORD.finditer(expression)]
    words = [expression[start:end].lower() for start, end in spans]
    for place, (start, end) in enumerate(spans):
        for kind, value, new in _list_others(words, place):
            article = words[place - 1] if place else ""
            if article in ("a", "an") and (new[0] in "aeiou") != (article == "an"):
                continue
            cased = new.capitalize() if expression[start].isupper() else new
            yield Alteration(kind, value, expression[:start] + cased + expression[end:])


def _list_others(words: Sequence[str], place: int) -> Iterator[tuple[Kind, str, str]]:
    """The kind, value and new word of each alteration of one word."""
    word = "gray" if words[place] == "grey" else words[place]
    for pair in _OPPOSITES:
        if word in pair:
            new = pair[1 - pair.index(word)]
            yield "side", new, new
    if word in COLORS:
        yield from (("color", color, color) for color in COLORS if color != word)
    yield from ((kind, new, new) for kind, new in _list_numbers(word))
    for name, position in _find_names(words, place):
        for other in _list_siblings().get(name, ()):
            if other[position] != words[place]:
                yield "noun", " ".join(other), other[position]


def _list_numbers(word: str) -> Iterator[tuple[Kind, str]]:
    """The other ordinals or numbers, in words or digits as the word is."""
    for kind, numbers, lowest in _COUNTED:
        if numbers.get(word, 0) >= lowest:
            for new, number in numbers.items():
                is_alike = new[0].isdigit() == word[0].isdigit()
                if lowest <= number <= _HIGHEST and is_alike and new != word:
                    yield kind, new


def _find_names(words: Sequence[str], place: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """The spans of at most three words that hold one word, and its position in each."""
    for start in range(max(0, place - 2), place + 1):
        for end in range(place + 1, start + 4):
            if end <= len(words):
                yield tuple(words[start:end]), place - start


@lru_cache(maxsize=1)
def _list_siblings() -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Kinds of one family whose names differ in one word.

    The family's own name is none of them: whatever is a woman is a person too.
    """
    names = [(tuple(name.split()), family) for name, family in read_kinds().items()]
    siblings: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, family in names:
        siblings[name] = [
            other
            for other, its_family in names
            if its_family == family and len(other) == len(name) and _count_changes(name, other) == 1
        ]
    return siblings


def _count_changes(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
