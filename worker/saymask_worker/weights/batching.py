"""Batch sizes that shrink when a device runs out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from saymask.errors import DeviceMemoryExhausted

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Shrinkable(Protocol):
    """A model that works in batches."""

    def shrink_batch(self) -> bool:
        """Take batches half as large from now on; False when they are as small as can be."""
        ...


@dataclass(frozen=True)
class ShrinkingBatches:
    """The models of a device, whose batches shrink when its memory is full."""

    device: str
    models: Sequence[Shrinkable]

    def run(self, work: Callable[[], Result]) -> Result:
        """Do something on the device, with smaller batches while its memory does not suffice.

        Raises:
            DeviceMemoryExhausted: the batches are as small as can be.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                self._shrink(error)

    def _shrink(self, error: torch.OutOfMemoryError) -> None:
        torch.cuda.empty_cache()
        # All of them: which one needed the memory is not known.
        are_smaller = [model.shrink_batch() for model in self.models]
        if not any(are_smaller):
            raise DeviceMemoryExhausted(
                f"Out of memory on {self.device} even at batch size 1: {error}.",
                "Stop other programs on it, take smaller models, or set SAYMASK_DEVICE=cpu.",
            ) from error
        log.warning("the memory of %s is full: trying again with smaller batches", self.device)


class Batched:
    """A model that works in batches, which shrink where a device's memory does not suffice.

    Args:
        batch: things computed at once, at first.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def shrink_batch(self) -> bool:
        """Take batches half as large from now on; False when it is one thing already."""
        smaller = max(1, self._batch // 2)
        is_smaller, self._batch = smaller < self._batch, smaller
        return is_smaller
