"""Texts for the annotator: the editor itself shows nothing when a backend fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saymask.contract import NOTHING_MEANT, SegmentResult
from saymask.errors import (
    DeadlineExceeded,
    ImageError,
    InvalidExpression,
    QueueError,
    SaymaskError,
)

EDITED_STAYS = "The mask that you edited stays."
# Below this, about every second first candidate is another object than the referent.
DOUBTFUL_BELOW = 0.5
PROPOSED_NOTICE = (
    "Proposed: Ctrl+Enter confirms, Skip rejects. Delete a wrong region; change its words in the"
    " list of regions."
)
FALSE_NOTICE = "Proposed: the photo shows no such thing. Ctrl+Enter confirms, Skip rejects."
# The first that fits; subclasses come before their base.
_FAILURES = (
    (DeadlineExceeded, "Not ready yet"),
    (QueueError, "saymask is offline"),
    (ImageError, "The photo cannot be used"),
    (InvalidExpression, "The expression cannot be used"),
)
_MAX_QUOTE_CHARS = 60
_MAX_SENTENCES = 4


def describe_answer(result: SegmentResult, shown: Sequence[int], clicks: int = 0) -> str:
    """Return one line about the suggestions, of which the ranks ``shown`` are shown."""
    quoted = quote(result.expression)
    if not result.candidates:
        return f"Nothing found for {quoted}. Rephrase, or draw the mask."
    if clicks:
        after = "1 click" if clicks == 1 else f"{clicks} clicks"
        suggestions = "1 suggestion" if len(shown) == 1 else f"{len(shown)} suggestions"
        return (
            f"{quoted}, after {after}: {suggestions}. Click again to change it; Alt+click on what"
            " does not belong."
        )
    doubt = ""
    is_doubtful = result.confidence is not None and result.confidence < DOUBTFUL_BELOW
    # Another notice already says that the photo may not show the object.
    if is_doubtful and NOTHING_MEANT not in result.notices:
        doubt = " Uncertain: another object fits almost as well."
    return " ".join([f"{quoted}: {_describe_shown(result, shown)}{doubt}", *result.notices])


def _describe_shown(result: SegmentResult, shown: Sequence[int]) -> str:
    count = len(result.candidates)
    suggestions = "1 suggestion" if count == 1 else f"{count} suggestions"
    hidden = [str(c.rank) for c in result.candidates if c.rank not in shown]
    if not hidden:
        return f"{suggestions}."
    *others, last = hidden
    ranks = f"{', '.join(others)} or {last}" if others else last
    return f"{suggestions}, {len(shown)} shown; type {ranks} for another."


def describe_pick(result: SegmentResult, rank: int) -> str:
    """Return one line about the suggestion that a number picks, or about the lack of it."""
    quoted, count = quote(result.expression), len(result.candidates)
    if rank in {candidate.rank for candidate in result.candidates}:
        return " ".join([f"{quoted}: suggestion {rank} of {count}.", *result.notices])
    if not count:
        return describe_answer(result, ())
    ranks = "only 1" if count == 1 else f"1 to {count}"
    return f"{quoted} has no suggestion {rank}; type {ranks}."


def describe_too_early(result: SegmentResult) -> str:
    """Return one line about a better answer that was asked for and is not ready."""
    return f"{quote(result.expression)}: the better result is not ready. Type 1 again in a moment."


def describe_missing(answered: int, refused: Mapping[str, SaymaskError], left_out: int) -> str:
    """Return one line about the expressions of a task's data that are not answered.

    ``answered`` and ``left_out`` count those that are, and those beyond the limit.
    """
    sentences = [f"{quote(text)} cannot be used: {error.cause}" for text, error in refused.items()]
    if left_out:
        total = answered + len(refused) + left_out
        sentences.insert(
            0,
            f"This task has {total:,} expressions; only the first {total - left_out:,} are used,"
            f" {left_out:,} are left out.",
        )
    return " ".join(sentences[:_MAX_SENTENCES])


def describe_failure(error: SaymaskError, expression: str | None) -> str:
    """Return one line about why there is no suggestion, and what to do."""
    about = f" ({quote(expression)})" if expression else ""
    head = next((head for kind, head in _FAILURES if isinstance(error, kind)), "No suggestions")
    return f"{head}{about}: {error}"


def quote(expression: str) -> str:
    """Return an expression in quotation marks, shortened."""
    plain = " ".join(expression.split())
    if not plain:
        return "No expression"
    short = plain if len(plain) <= _MAX_QUOTE_CHARS else plain[: _MAX_QUOTE_CHARS - 1] + "…"
    return f'"{short}"'
