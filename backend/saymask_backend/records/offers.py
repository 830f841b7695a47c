"""What was offered for a task: answered requests with their candidates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from saymask.contract import PROPOSALS_SOURCE
from saymask.runs import RunMask, read_coco_runs


@dataclass(frozen=True)
class OfferedCandidate:
    """A candidate as it was offered; ``source`` is what offered it.

    Most candidates of a task are never looked at, so ``mask`` is read when it is asked for.
    """

    candidate_id: int
    region_id: str
    rank: int
    score: float
    coco_rle: dict[str, Any]
    box_xywh: tuple[int, int, int, int]
    source: str = PROPOSALS_SOURCE

    @property
    def mask(self) -> RunMask:
        """The mask, read anew each time."""
        return read_coco_runs(self.coco_rle)


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
