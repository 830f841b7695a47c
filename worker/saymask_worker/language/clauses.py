"""An expression's clauses: the referent, its relations to other objects, and negated objects.

Only the words are read, from left to right: "the cup on the table left of the laptop" has two
relations, each with its own anchor; "not wearing a hat" excludes hats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from saymask_worker.language.expression import Relation
from saymask_worker.language.lexicon import (
    ALL_BUT,
    BODY,
    CLAUSE_STARTS,
    CLOTHING,
    COLORS,
    DETERMINERS,
    FILLER,
    FRAME,
    NEGATIONS,
    NOUNS_IN_ING,
    POSSESSIVES,
    PRONOUNS,
    RELATIONS,
    SIDES,
    RelationKind,
)
from saymask_worker.language.numerals import ORDINALS, QUANTIFIERS

_KINDS: dict[str, RelationKind] = {f"r{i}": kind for i, (_, kind) in enumerate(RELATIONS)}
_ANY_RELATION = re.compile(
    "|".join(rf"(?P<r{i}>(?<!\S)(?:{pattern})(?!\S))" for i, (pattern, _) in enumerate(RELATIONS))
)
_NOT_AN_ANCHOR = {*SIDES, *FRAME, *(FILLER - {"one", "thing", "object"}), *PRONOUNS}
_CLAUSE_ENDS = {*CLAUSE_STARTS, *"(),.!?;:", "and", "on", "in", "at", "to", "from", "is", "are"}
# Words between a negation and its noun.
_BEFORE_EXCLUDED = {
    *DETERMINERS, "any", "on", "in", "at", "with", "near", "wearing", "holding", "having", "has",
    "carrying", "riding", "have", "one",
}  # fmt: skip
_ON_TOP = ("on", "top")


@dataclass(frozen=True)
class Clauses:
    """The parts of an expression.

    Attributes:
        head: the words before the first relation.
        others: the words outside all relations: the head, and what follows an anchor.
        affirmative: the words without the negation and what it excludes.
        relations: in order of mention.
        excluded: what the referent does not have, or None.
    """

    head: tuple[str, ...]
    others: tuple[str, ...]
    affirmative: tuple[str, ...]
    relations: tuple[Relation, ...]
    excluded: str | None


def read_clauses(words: Sequence[str]) -> Clauses:
    """Split words, their spelling corrected, into clauses."""
    affirmative, excluded = _split_negation(list(words))
    text = " ".join(affirmative)
    relations: list[Relation] = []
    head, others, start = text, "", 0
    for match in _ANY_RELATION.finditer(text):
        relation, end = _read_relation(text, match, has_relation=bool(relations))
        if relation is None or match.start() < start:
            continue
        between = text[start : match.start()]
        others += between
        if not relations:
            head = between
        if not _describes_anchor(relation, match[0], relations):
            relations.append(relation)
        start = end
    rest = text[start:].split()
    if relations and relations[-1].kind == "with" and tuple(rest[:2]) == _ON_TOP:
        rest = rest[2:]
    others = " ".join([others, *rest])
    return Clauses(
        tuple(head.split()), tuple(others.split()), tuple(affirmative), tuple(relations), excluded
    )


def _split_negation(words: list[str]) -> tuple[list[str], str | None]:
    """The words outside the negation, and the noun phrase that it excludes."""
    for index, word in enumerate(words):
        is_exception = word == "but" and index > 0 and words[index - 1] in ALL_BUT
        if word in NEGATIONS or is_exception:
            break
    else:
        return words, None
    following = words[index + 1 :]
    again = following.index("but") if "but" in following else len(following)
    excluded = following[:again]
    while excluded and excluded[0] in _BEFORE_EXCLUDED:
        excluded.pop(0)
    end = next((i for i, word in enumerate(excluded) if i and _ends_anchor(excluded, i)), None)
    noun = [word for word in excluded[:end] if word not in DETERMINERS]
    names_object = noun and not set(noun) <= {*SIDES, *FILLER}
    return words[:index] + following[again + 1 :], " ".join(noun) if names_object else None


def _read_relation(
    text: str, match: re.Match[str], *, has_relation: bool
) -> tuple[Relation | None, int]:
    """The relation at a match, or None where the words express none, and where its anchor ends."""
    kind = _KINDS[str(match.lastgroup)]
    following = text[match.end() :]
    later = _ANY_RELATION.search(following)
    anchor, length = _cut_anchor(following[: later.start()] if later else following, kind)
    names = [_strip_determiners(part) for part in _split_pair(anchor, kind)]
    before = text[: match.start()].split()
    if not names[0] or _is_attribute(kind, match[0], before, has_relation=has_relation):
        return None, match.end()
    if _is_held(anchor, kind) or _is_passive(match[0], before):
        return None, match.end()
    if kind == "in" and names[0].split()[-1] in CLOTHING | COLORS:
        kind = "with"
    second = names[1] if len(names) > 1 and names[1] else None
    return Relation(kind, names[0], second), match.end() + length


def _cut_anchor(text: str, kind: RelationKind) -> tuple[list[str], int]:
    """The words of an anchor, to the end of its noun phrase, and their length in the text."""
    words = text.split()
    end = len(words)
    for index in range(len(words)):
        if (index or words[0] in _CLAUSE_ENDS) and _ends_anchor(words, index, kind=kind):
            end = index
            break
    return words[:end], sum(len(word) + 1 for word in words[:end])


def _split_pair(words: list[str], kind: RelationKind) -> list[list[str]]:
    if kind != "between" or "and" not in words:
        return [words]
    middle = words.index("and")
    return [words[:middle], words[middle + 1 :]]


def _strip_determiners(words: list[str]) -> str:
    """The noun phrase alone; empty when it is the image, a side of it or a pronoun."""
    kept = [word for word in words if word not in DETERMINERS]
    while len(kept) > 1 and kept[0] in QUANTIFIERS:
        kept.pop(0)
    return "" if not kept or kept[0] in _NOT_AN_ANCHOR else " ".join(kept)


def _ends_anchor(words: Sequence[str], index: int, *, kind: RelationKind | None = None) -> bool:
    word = words[index]
    if word == "and":
        return kind != "between" and not _joins_colors(words, index)
    is_participle = word.endswith("ing") and word not in NOUNS_IN_ING
    return word in _CLAUSE_ENDS or word in NEGATIONS or is_participle


def _joins_colors(words: Sequence[str], index: int) -> bool:
    """Whether an "and" joins two colours: "black and white"."""
    neighbours = (*words[max(0, index - 1) : index], *words[index + 1 : index + 2])
    return len(neighbours) == 2 and all(word in COLORS for word in neighbours)


def _is_attribute(
    kind: RelationKind, match: str, before: Sequence[str], *, has_relation: bool
) -> bool:
    """Whether a relation without a noun before it describes its own anchor: "closest car"."""
    if has_relation or set(before) - DETERMINERS - ORDINALS.keys():
        return False
    # "Flying bird": a participle that describes its noun.
    return kind in ("on", "in", "with") or match.startswith(("close", "near"))


def _describes_anchor(relation: Relation, match: str, earlier: Sequence[Relation]) -> bool:
    """Whether "with" or "in" describes the anchor before: "right of the man in the suit"."""
    has_place = bool(earlier) and earlier[-1].kind != "with"
    return has_place and relation.kind == "with" and match in ("with", "in")


def _is_held(anchor: Sequence[str], kind: RelationKind) -> bool:
    """Whether it is "in its mouth", "on her lap"."""
    owned = bool(anchor) and anchor[0] in POSSESSIVES
    return owned and kind in ("on", "in") and anchor[-1] in BODY


def _is_passive(match: str, before: Sequence[str]) -> bool:
    """Whether "by" names the agent: "being led by a man"."""
    return match == "by" and len(before) > 1 and before[-2] == "being"
