"""Asking the workers about many tasks, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from saymask.errors import SaymaskError

# This many tasks are sent to the workers at the same time.
_IN_FLIGHT = 4

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def ask_in_order(
    items: Sequence[Item], ask: Callable[[Item], Outcome]
) -> Iterator[tuple[Item, Outcome | SaymaskError]]:
    """Yield each item with its outcome, or with the error that concerns it alone, in order.

    Raises:
        SaymaskError: one that concerns all items, for example that no worker answers; the rest is
            not tried.
    """
    running: deque[tuple[Item, Future[Outcome]]] = deque()
    waiting = iter(items)
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for _ in items:
            running.extend(
                (item, pool.submit(ask, item))
                for item in islice(waiting, _IN_FLIGHT - len(running))
            )
            item, future = running.popleft()
            try:
                yield item, future.result()
            except SaymaskError as error:
                if error.concerns_all:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                yield item, error
