"""What an annotator is told about an expression and its photo, beside the candidates."""

from __future__ import annotations

from saymask.contract import NOTHING_MEANT
from worker.language import ParsedExpression
from worker.stages import PreparedImage


def build_notices(
    parsed: ParsedExpression, prepared: PreparedImage, *, is_cut: bool, is_absent: bool
) -> list[str]:
    """Return a sentence for each thing that may make the answer worse.

    Args:
        parsed: the expression.
        prepared: the image.
        is_cut: whether the model reads only the beginning of the expression.
        is_absent: whether the image probably shows nothing of the kind.
    """
    notices = []
    if prepared.is_first_look:
        notices.append("First look; type it again in a moment for a better one.")
    notices += [
        f"{fix.typed!r} was read as {fix.read!r}; if it is right, say it in other words."
        for fix in parsed.corrections
    ]
    if is_cut:
        notices.append("The expression is longer than the model reads; its end was ignored.")
    if parsed.head_noun_phrase is None:
        notices.append("No noun names the object; say what it is for a better answer.")
    if len(prepared.proposals) == 0:
        notices.append("No object was found in the photo.")
    elif is_absent:
        notices.append(NOTHING_MEANT)
    elif parsed.count is not None:
        notices.append(f"{parsed.count} are meant: accept each of them, then submit.")
    return notices
