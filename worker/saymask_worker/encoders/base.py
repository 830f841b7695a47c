"""An image tower and a text tower that share a space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.images.types import Floats

_MAX_TEXTS = 4096


class TextEncoder(ABC):
    """A text tower, which keeps the features of recent texts."""

    def __init__(self) -> None:
        self._features: LRUCache[str, Floats] = LRUCache(_MAX_TEXTS)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Encode n texts of any length: (n, D) float32, of any norm."""
        rows: dict[str, Floats] = {t: self._features[t] for t in texts if t in self._features}
        missing = list(dict.fromkeys(text for text in texts if text not in rows))
        if missing:
            with one_thread():
                encoded: Floats = self._encode_batch(missing).float().cpu().numpy()
            for index, text in enumerate(missing):
                rows[text] = self._features[text] = encoded[index]
        return np.stack([rows[text] for text in texts])

    @abstractmethod
    def is_truncated(self, text: str) -> bool:
        """Return whether a text is longer than the tower can read."""

    @abstractmethod
    def _encode_batch(self, texts: list[str]) -> Tensor:
        """Encode n distinct texts: (n, D)."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread.

    A sentence is too little work to share: where another process uses the same cores, every one
    of its small steps would wait for the slower thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
