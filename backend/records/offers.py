"""What was offered for a task: answered requests with their candidates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from saymask.contract import PROPOSALS_SOURCE
from saymask.masks import Mask


@dataclass(frozen=True)
class OfferedCandidate:
    """A candidate as it was offered; ``mask`` is (H, W) bool, ``source`` what offered it."""

    candidate_id: int
    region_id: str
    rank: int
    score: float
    mask: Mask
    source: str = PROPOSALS_SOURCE


@dataclass(frozen=True)
class Offer:
    """One answered request of a task; ``clicks`` is 0 where the expression was typed.

    ``kind`` is as in ``tables.Request``.
    """

    request_id: int
    created_at: datetime
    expression: str
    image_sha256: str | None
    size_hw: tuple[int, int] | None
    head_noun_phrase: str | None
    model_version: str | None
    latency_ms: float | None
    clicks: int
    candidates: tuple[OfferedCandidate, ...]
    kind: str = "typed"

    @property
    def is_proposed(self) -> bool:
        """Whether expression and mask were proposed together, and nobody asked."""
        return self.kind == "proposed"

    def find_rank(self, rank: int) -> OfferedCandidate | None:
        """Return the candidate of a rank, or None."""
        return next((c for c in self.candidates if c.rank == rank), None)
