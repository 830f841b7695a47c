"""What the annotator is told in the editor, which itself shows nothing when a backend fails."""

from __future__ import annotations

from typing import Any

from backend.contract import SegmentResult
from backend.errors import (
    DeadlineExceeded,
    InvalidExpression,
    PhotoError,
    QueueError,
    SaymaskError,
)
from backend.label_studio.label_config import LabelConfig

# Below this, about every second first candidate is another object than the one meant.
DOUBTFUL_BELOW = 0.5
_LONGEST_QUOTE = 60


def to_notice(config: LabelConfig, text: str) -> list[dict[str, Any]]:
    """The text in the field the labelling config has for it; nothing where it has none."""
    if config.notice is None:
        return []
    return [
        {
            "id": "saymask_notice",
            "from_name": config.notice,
            "to_name": config.image,
            "type": "textarea",
            "origin": "prediction",
            "value": {"text": [text]},
        }
    ]


def describe_answer(result: SegmentResult, clicks: int = 0) -> str:
    """One line about what was found."""
    quoted = quote(result.expression)
    if not result.candidates:
        return f"Nothing found for {quoted}. Word it differently, or draw it."
    count = len(result.candidates)
    found = "1 suggestion" if count == 1 else f"{count} suggestions"
    if clicks:
        after = "1 click" if clicks == 1 else f"{clicks} clicks"
        return f"{quoted}, after {after}: {found}. Click again to change it (Alt for outside)."
    doubt = ""
    if result.confidence is not None and result.confidence < DOUBTFUL_BELOW:
        doubt = " Doubtful: another object fits almost as well."
    return " ".join([f"{quoted}: {found}.{doubt}", *result.notices])


def describe_failure(error: SaymaskError, expression: str | None) -> str:
    """One line about why there is nothing, and what to do."""
    about = f" ({quote(expression)})" if expression else ""
    if isinstance(error, DeadlineExceeded):
        head = "Not ready yet"
    elif isinstance(error, QueueError):
        head = "saymask is offline"
    elif isinstance(error, PhotoError):
        head = "The photo cannot be used"
    elif isinstance(error, InvalidExpression):
        head = "The expression cannot be used"
    else:
        head = "No suggestions"
    return f"{head}{about}: {error}"


def quote(expression: str) -> str:
    """In quotation marks, shortened."""
    plain = " ".join(expression.split())
    if not plain:
        return "No expression"
    short = plain if len(plain) <= _LONGEST_QUOTE else plain[: _LONGEST_QUOTE - 1] + "…"
    return f'"{short}"'
