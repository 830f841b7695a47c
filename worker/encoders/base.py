"""What the pipeline asks of an encoder: one space, two doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.config import ScoringConfig
from worker.encoders.clip_visual import ClipVisual
from worker.stages import Floats


class TextEncoder(Protocol):
    """Sentences to features (n, D) float32, not normalised, of any length of text.

    ``truncated`` says whether a text is longer than the tower can read.
    """

    def encode(self, texts: Sequence[str]) -> Floats: ...

    def truncated(self, text: str) -> bool: ...


@dataclass(frozen=True)
class Encoder:
    """An image tower and a text tower that share a space.

    Attributes:
        name: as in settings and model versions, for example ``starter``.
        weights_hash: short hash of both towers.
        scoring: the mixing weights that suit this pair.
        description: one line for people.
    """

    name: str
    visual: ClipVisual
    text: TextEncoder
    weights_hash: str
    scoring: ScoringConfig
    description: str
