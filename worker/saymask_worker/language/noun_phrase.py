"""The head noun phrase: the published rule and saymask's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saymask_worker.language.lexicon import (
    CLAUSE_STARTS,
    COLORS,
    DETERMINERS,
    NO_REFERENT_STARTS,
    NOUN_LIKE,
    PLACE_AFTER_NOUN,
    PRONOUNS,
    SIDES,
    SPELLINGS,
)
from saymask_worker.language.spatial import strip_spatial

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

_ENDS_AFTER_NOUN = ("ADP", "SCONJ", "VERB", "AUX", "PRON", "ADV", "CCONJ")
_CANNOT_BEGIN = ("ADP", "SCONJ", "AUX", "PRON")
_MODIFIERS = ("ADJ", "NOUN", "PROPN", "DET")


def find_published_phrase(doc: Doc) -> str:
    """Return the noun phrase by the rule of Global-Local CLIP's published code.

    It is the noun chunk holding the root; failing that, the chunk holding the root's first child;
    failing that, the whole text.
    """
    chunk_at = {token.i: chunk for chunk in doc.noun_chunks for token in chunk}
    roots = [token for token in doc if token.head.i == token.i]
    if not roots:
        return str(doc.text)
    root = roots[-1]
    first_child = next(iter(root.children), None)
    for token in (root, first_child):
        if token is not None and token.i in chunk_at:
            return str(chunk_at[token.i].text)
    return str(doc.text)


def find_head_phrase(doc: Doc) -> str | None:
    """Return the first noun phrase that can name the referent, or None.

    A text that begins with a preposition, a negation, a question word or a bare verb names no
    referent; the phrase ends where a preposition (but "of"), a relative pronoun or a participle
    begins.
    """
    if len(doc) == 0 or doc[0].text in NO_REFERENT_STARTS:
        return None
    phrase = _find_leading_phrase(doc)
    if phrase is not None:
        return str(phrase.text)
    if doc[0].pos_ in ("ADP", "VERB") and doc[0].text not in SIDES:
        return None
    return _find_chunk(doc) or _find_adjective_noun(doc)


def _find_chunk(doc: Doc) -> str | None:
    chunks = (
        str(chunk.text)
        for chunk in doc.noun_chunks
        if chunk.root.text not in PRONOUNS and strip_spatial(chunk.text)
    )
    return next(chunks, None)


def _find_adjective_noun(doc: Doc) -> str | None:
    """An article and an adjective make a noun: "the remote"; so does a colour alone."""
    begins = doc[0].pos_ == "DET" or all(token.text in COLORS for token in doc)
    is_noun = begins and doc[-1].pos_ == "ADJ" and strip_spatial(doc.text)
    return str(doc.text) if is_noun else None


def _find_leading_phrase(doc: Doc) -> Span | None:
    """The run of tokens from the start that ends with the noun naming the referent."""
    end = _find_end_of_nouns(doc)
    phrase = doc[:end]
    names_object = end and (strip_spatial(phrase.text) or phrase[-1].text in NOUN_LIKE)
    return phrase if names_object else None


def _find_end_of_nouns(doc: Doc) -> int:
    """The index behind the last noun of the leading phrase; 0 if there is none."""
    end = 0
    for token in doc:
        is_outside = _is_boundary(token) or (end and _begins_place(doc, token))
        if token.i and (is_outside or _begins_clause(doc, token)):
            return end
        if token.i and token.text in CLAUSE_STARTS:
            # What precedes a relative clause is a noun, whatever the tagger says.
            return end or (0 if doc[0].pos_ in ("ADP", "VERB", "PRON") else token.i)
        if _is_noun(token) or _is_mistaken_noun(doc, token) or _is_number_of(doc, token, end):
            end = token.i + 1
        elif _ends_phrase(doc, token) if end else _cannot_begin(doc, token):
            return end
    return end


def _is_boundary(token: Token) -> bool:
    return bool((token.is_punct and token.text not in (",", "'")) or token.is_space)


def _begins_place(doc: Doc, token: Token) -> bool:
    """Whether a word after the noun begins a place; "the cat's left eye" does not."""
    is_owned = token.i > 0 and doc[token.i - 1].text in ("'s", "’s")
    return SPELLINGS.get(token.text, token.text) in PLACE_AFTER_NOUN and not is_owned


def _begins_clause(doc: Doc, token: Token) -> bool:
    """Whether an article after a noun begins a clause without "that": "the wagon the kids ride"."""
    return token.pos_ == "DET" and token.i > 0 and _is_noun(doc[token.i - 1])


def _is_noun(token: Token) -> bool:
    is_noun = token.pos_ in ("NOUN", "PROPN") or token.text in NOUN_LIKE
    return is_noun and SPELLINGS.get(token.text, token.text) not in SIDES


def _is_mistaken_noun(doc: Doc, token: Token) -> bool:
    """Whether a bare verb at the start is a noun that the tagger mistook: "bowl", "plant"."""
    is_bare_verb = token.i == 0 and token.tag_ in ("VB", "VBP") and len(doc) > 1
    return is_bare_verb and token.text not in SIDES


def _is_number_of(doc: Doc, token: Token, end: int) -> bool:
    """Whether a number belongs to the noun before it: "player number 7"."""
    return bool(0 < end == token.i and token.like_num and doc[token.i - 1].text == "number")


def _ends_phrase(doc: Doc, token: Token) -> bool:
    if token.pos_ not in _ENDS_AFTER_NOUN:
        return False
    following = doc[token.i + 1] if token.i + 1 < len(doc) else None
    if token.text == "of":
        return following is None
    if token.text in ("and", "'s"):
        return following is None or following.pos_ not in _MODIFIERS
    return True


def _cannot_begin(doc: Doc, token: Token) -> bool:
    """Whether a word before any noun means that the text names no referent."""
    if token.pos_ in _CANNOT_BEGIN:
        return token.text not in SIDES and token.text not in DETERMINERS
    if token.i == 0 and token.pos_ == "VERB" and token.tag_ == "VBG":
        return len(doc) == 1 or not _is_noun(doc[1])
    return False
