"""What the pipeline asks of an encoder: an image tower and a text tower that share a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.images.types import Floats


class TextEncoder(Protocol):
    """A text tower."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Encode n texts of any length: (n, D) float32, not normalised."""
        ...

    def is_truncated(self, text: str) -> bool:
        """Return whether a text is longer than the tower can read."""
        ...


@dataclass(frozen=True)
class Encoder:
    """An image tower and a text tower that share a space.

    Attributes:
        name: as in settings and model versions, for example ``starter``.
        visual: the image tower.
        text: the text tower.
        weights_hash: short hash of both towers.
        scoring: the mixing weights that suit this pair.
        description: one line for people.
        has_own_temperature: whether the temperature in ``scoring`` is this pair's own; otherwise
            it is measured when the pair is loaded.
    """

    name: str
    visual: ClipVisual
    text: TextEncoder
    weights_hash: str
    scoring: ScoringConfig
    description: str
    has_own_temperature: bool = True
