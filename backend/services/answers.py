"""What the use cases answer to a predict request."""

from __future__ import annotations

from dataclasses import dataclass

from saymask.contract import SegmentResult
from saymask.errors import SaymaskError


@dataclass(frozen=True)
class Suggestions:
    """Candidates for one expression; ``clicks`` is 0 where it was typed."""

    request_id: int
    result: SegmentResult
    clicks: int = 0


@dataclass(frozen=True)
class Failure:
    """Why there are no suggestions."""

    error: SaymaskError
    expression: str | None


@dataclass(frozen=True)
class TaskSuggestions:
    """The best candidate for each expression in a task's data; at least one."""

    expressions: tuple[str, ...]
    answers: tuple[Suggestions, ...]


Answer = Suggestions | Failure | TaskSuggestions | None
"""What is answered for one task; None for nothing."""
