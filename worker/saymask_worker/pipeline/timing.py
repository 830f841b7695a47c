"""Measuring the stages."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class PreparationTimings:
    """Milliseconds per stage of preparing an image."""

    decode_ms: float = 0.0
    proposals_ms: float = 0.0
    visual_features_ms: float = 0.0


class Stopwatch:
    """Measures consecutive stages."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        """Return the milliseconds since the last call, or since the start."""
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return round(lap * 1000, 2)
