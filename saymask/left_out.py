"""Work on many items: an odd one is left out, with its name and the reason; the rest is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from saymask.errors import SaymaskError

Item = TypeVar("Item")
Result = TypeVar("Result")

OnProgress = Callable[[int, int], None]
"""Called with the number of finished items and of all."""


class LeftOut:
    """What a piece of work left out through a fault: the name of each item, and the reason.

    A command that left out something ends with exit status 1.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each, ``name: reason``, in the order in which they were left out."""
        return tuple(self._lines)

    def add(self, name: str, reason: object) -> None:
        """Leave out one item."""
        self._lines.append(f"{name}: {reason}")

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Leave out the item of this name if an error is raised that concerns it alone.

        Raises:
            SaymaskError: the error concerns all items; see ``SaymaskError.concerns_all``.
        """
        try:
            yield
        except SaymaskError as error:
            if error.concerns_all:
                raise
            self.add(name, error)

    def convert(
        self,
        items: Iterable[Item],
        convert: Callable[[Item], Result],
        name: Callable[[Item], str],
    ) -> Iterator[Result]:
        """Yield every item converted, without those whose conversion fails.

        Raises:
            SaymaskError: as ``guard``.
        """
        for item in items:
            with self.guard(name(item)):
                result = convert(item)
                yield result
