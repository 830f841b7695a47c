"""A thread that repeats a piece of work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from saymask.errors import SaymaskError

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 10


class PeriodicThread:
    """Repeats a piece of work, after ``interval_s`` or at once when woken.

    ``work`` is called with a function that returns whether to stop.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Callable[[], bool]], object],
        interval_s: float,
        first_after_s: float = 0.0,
    ) -> None:
        self._work = work
        self._interval_s = interval_s
        self._first_after_s = first_after_s
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Do the work now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop after the current piece of work."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        self._stop.wait(self._first_after_s)
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._work(self._stop.is_set)
            except SaymaskError as error:
                log.warning("%s: %s", self._thread.name, error)
            except Exception:
                # The thread must outlive a bug; the work is tried again.
                log.exception("%s failed", self._thread.name)
            self._wake.wait(self._interval_s)
