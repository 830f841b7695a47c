"""Two ways of doing the same, timed in turn, so that a busy machine slows both alike."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

NOUNS = ("cat", "cup", "spoon", "woman", "flag", "flower", "rocket", "sky", "tree", "helmet")
COLUMNS = ("what", "A", "B", "A / B", "goal")


@dataclass(frozen=True)
class Row:
    """One line of the table. ``goal`` is what was aimed at, or empty."""

    what: str
    a: str
    b: str
    ratio: str
    goal: str = ""


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleave(
    a: Callable[[], object], b: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Median seconds of A and of B, A and B in turn."""
    times = [(seconds(a), seconds(b)) for _ in range(rounds)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def find_free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def to_markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [(row.what, row.a, row.b, row.ratio, row.goal) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
