"""How many things a model computes at once."""

from __future__ import annotations


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
