"""Letting whoever answers people have the processor.

Two networks computing at once on shared cores slow each other down many times over, and a low
priority does not help: their threads wait for one another. So a worker that only prepares photos
stops between two batches while another one on its machine is answering somebody.
"""

from __future__ import annotations

from collections.abc import Callable

_give_way: Callable[[], None] | None = None


def install(give_way: Callable[[], None] | None) -> None:
    """What this process does between batches; returns when it may go on."""
    global _give_way
    _give_way = give_way


def between_batches() -> None:
    """Called wherever stopping for a while does no harm."""
    if _give_way is not None:
        _give_way()
