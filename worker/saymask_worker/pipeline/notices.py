"""Notices for an annotator about an expression and its photo."""

from __future__ import annotations

from saymask.contract import NOTHING_MEANT
from saymask.errors import counted
from saymask_worker.images.types import PreparedImage
from saymask_worker.language import Count, Ordinal, ParsedExpression


def build_notices(
    parsed: ParsedExpression,
    prepared: PreparedImage,
    separate: int,
    *,
    is_cut: bool,
    is_absent: bool,
) -> list[str]:
    """Return a sentence for each thing that may make the answer worse.

    Args:
        parsed: the expression.
        prepared: the image.
        separate: how many separate objects of the noun were found.
        is_cut: whether the model reads only the beginning of the expression.
        is_absent: whether the image probably shows nothing of the kind.
    """
    notices = []
    if prepared.is_first_look:
        notices.append("Quick result; type 1 in a few seconds for a better one.")
    notices += [
        f"Interpreted {fix.typed!r} as {fix.read!r}. If that is wrong, rephrase."
        for fix in parsed.corrections
    ]
    if is_cut:
        notices.append("The expression is too long for the model; its end was ignored.")
    if not parsed.is_english:
        notices.append("Only English is read. Rephrase in English for better suggestions.")
    elif parsed.head_noun_phrase is None:
        notices.append("No noun names the object. Say what it is for better suggestions.")
    if len(prepared.proposals) == 0:
        notices.append("No object was found in the photo.")
    elif is_absent:
        notices.append(NOTHING_MEANT)
    elif parsed.count is not None:
        notices.append(_describe_count(parsed.count, separate))
    elif parsed.ordinal is not None and parsed.ordinal.rank > separate:
        notices.append(_describe_end(parsed.ordinal, separate))
    return notices


def _describe_count(count: Count, separate: int) -> str:
    if not isinstance(count, int):
        return f"You asked for {count}: accept each one that fits."
    if count > separate:
        return f"You asked for {counted(count, 'object')}, but only {separate} could be told apart."
    return f"You asked for {counted(count, 'object')}: accept each one."


def _describe_end(ordinal: Ordinal, separate: int) -> str:
    found = "one was" if separate == 1 else f"{separate} were"
    return f"You asked for number {ordinal.rank}, but only {found} found."
