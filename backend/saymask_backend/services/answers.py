"""What the use cases answer to a predict request."""

from __future__ import annotations

from dataclasses import dataclass

from saymask.contract import SegmentResult
from saymask.errors import SaymaskError
from saymask_backend.label_studio.notices import describe_missing


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
    """The best candidate for each expression in a task's data; at least one.

    Attributes:
        expressions: those that were answered.
        answers: one for each.
        refused: why others in the task's data cannot be answered, by expression.
        left_out: number of further expressions, beyond the most that are answered.
    """

    expressions: tuple[str, ...]
    answers: tuple[Suggestions, ...]
    refused: tuple[tuple[str, str], ...] = ()
    left_out: int = 0

    @property
    def notice(self) -> str:
        """What the annotator is to know about missing expressions; empty if none is missing."""
        return describe_missing(len(self.answers), self.refused, self.left_out)


Answer = Suggestions | Failure | TaskSuggestions | None
"""What is answered for one task; None for nothing."""
