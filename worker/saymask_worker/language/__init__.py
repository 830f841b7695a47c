"""What an expression says: its head noun phrase, and its words of place, order, size, relation."""

from saymask_worker.language.expression import (
    Count,
    Ordinal,
    ParsedExpression,
    Relation,
    clean_expression,
)
from saymask_worker.language.lexicon import RelationKind, Side, Size
from saymask_worker.language.parser import LanguageParser

__all__ = [
    "Count",
    "LanguageParser",
    "Ordinal",
    "ParsedExpression",
    "Relation",
    "RelationKind",
    "Side",
    "Size",
    "clean_expression",
]
