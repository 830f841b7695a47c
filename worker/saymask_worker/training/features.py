"""Maps of frozen towers, kept in memory: most of a step's time on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from cachetools import LRUCache
from torch import Tensor

from saymask_worker.training.cris.backbone import Maps

_ROOM_BYTES = 3_000_000_000


class MapCache:
    """Keeps the maps of photos and of mirrored photos, in half precision.

    What is kept and what is computed anew are the same numbers, so what is evicted when does not
    change a training run.
    """

    def __init__(self) -> None:
        self._maps: LRUCache[tuple[Path, bool], Maps] = LRUCache(
            _ROOM_BYTES, getsizeof=_count_bytes
        )

    def get(self, image: Path, is_mirrored: bool, encode: Callable[[], Maps]) -> Maps:
        """Return the maps of one photo, each (1, C, h, w) float16 on the CPU."""
        key = (image, is_mirrored)
        kept = self._maps.get(key)
        if kept is None:
            first, second, third = encode()
            kept = (_shrink(first), _shrink(second), _shrink(third))
            if _count_bytes(kept) < _ROOM_BYTES:
                self._maps[key] = kept
        return kept


def stack_maps(maps: list[Maps], device: torch.device) -> Maps:
    """Join the maps of several photos: each (B, C, h, w) float32."""
    first, second, third = (
        torch.cat([one[level] for one in maps]).to(device).float() for level in range(3)
    )
    return first, second, third


def _shrink(values: Tensor) -> Tensor:
    return values.detach().cpu().half()


def _count_bytes(maps: Maps) -> int:
    return sum(level.numel() * level.element_size() for level in maps)
