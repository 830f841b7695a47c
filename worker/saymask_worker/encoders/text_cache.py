"""Encoding each distinct text once, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from saymask_worker.images.types import Floats

_MAX_TEXTS = 4096


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


class CachedTexts:
    """Encodes texts and keeps the features of recent ones.

    Args:
        encode_batch: n texts to features (n, D).
    """

    def __init__(self, encode_batch: Callable[[list[str]], Tensor]) -> None:
        self._encode_batch = encode_batch
        self._features: LRUCache[str, Floats] = LRUCache(_MAX_TEXTS)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Encode n texts: (n, D) float32."""
        rows: dict[str, Floats] = {t: self._features[t] for t in texts if t in self._features}
        missing = list(dict.fromkeys(text for text in texts if text not in rows))
        if missing:
            with one_thread():
                encoded: Floats = self._encode_batch(missing).float().cpu().numpy()
            for index, text in enumerate(missing):
                rows[text] = self._features[text] = encoded[index]
        return np.stack([rows[text] for text in texts])
