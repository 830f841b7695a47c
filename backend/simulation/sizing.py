"""From the waits of a simulation to answers: percentiles, and how many hosts are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.simulation.model import Machines, StageTimes, Waits, Workload
from backend.simulation.simulate import simulate
from saymask.errors import InvalidRequest


@dataclass(frozen=True)
class Row:
    """One simulated size.

    Attributes:
        annotators: how many were at work.
        hosts: that answered them.
        expressions: that were answered.
        p50_s: median from Enter to answer.
        p95_s: 95th percentile.
        prepared_p95_s: 95th percentile for prepared images; None where there was none.
        new_p95_s: the same for others.
        busy_share: of the interactive workers' time.
        backlog: images that waited to be prepared at the end.
    """

    annotators: int
    hosts: int
    expressions: int
    p50_s: float
    p95_s: float
    prepared_p95_s: float | None
    new_p95_s: float | None
    busy_share: float
    backlog: int


def compute_percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which a share of the values lies (nearest rank); None for none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarise(workload: Workload, machines: Machines, waits: Waits) -> Row:
    """Summarise the waits of a simulation.

    Raises:
        InvalidRequest: nobody typed anything in the time that was simulated.
    """
    p50, p95 = (compute_percentile(waits.all_s, share) for share in (0.5, 0.95))
    if p50 is None or p95 is None:
        raise InvalidRequest("Nobody typed anything.", "Simulate more --minutes.")
    return Row(
        annotators=workload.annotators,
        hosts=machines.hosts,
        expressions=len(waits.all_s),
        p50_s=p50,
        p95_s=p95,
        prepared_p95_s=compute_percentile(waits.prepared_s, 0.95),
        new_p95_s=compute_percentile(waits.new_s, 0.95),
        busy_share=waits.busy_share,
        backlog=waits.backlog,
    )


def find_hosts(
    workload: Workload,
    machines: Machines,
    times: StageTimes,
    seconds: float,
    p95_s: float,
    seed: int = 0,
) -> Row:
    """Find the fewest hosts with which 95 % of all answers take at most ``p95_s``.

    Raises:
        InvalidRequest: no number of hosts is enough, for one answer alone takes longer.
    """

    def measure(hosts: int) -> Row:
        sized = replace(machines, hosts=hosts)
        return summarise(workload, sized, simulate(workload, sized, times, seconds, seed))

    high = 1
    while (row := measure(high)).p95_s > p95_s:
        # More hosts than annotators change nothing.
        if high >= workload.annotators:
            raise InvalidRequest(
                f"{high} hosts are not enough for a 95th percentile of {p95_s} s: even then it is"
                f" {row.p95_s:.2f} s.",
                "Prepare images before people come (--prepared 1), take faster hosts, or name"
                " another --p95.",
            )
        high *= 2
    low, best = high // 2, row
    while low + 1 < high:
        middle = (low + high) // 2
        row = measure(middle)
        if row.p95_s <= p95_s:
            high, best = middle, row
        else:
            low = middle
    return best


def find_annotators(
    workload: Workload,
    machines: Machines,
    times: StageTimes,
    seconds: float,
    p95_s: float,
    seed: int = 0,
) -> int:
    """Find how many annotators such machines serve at that 95th percentile; 0 for none."""

    def is_served(annotators: int) -> bool:
        people = replace(workload, annotators=annotators)
        row = summarise(people, machines, simulate(people, machines, times, seconds, seed))
        return row.p95_s <= p95_s

    if not is_served(1):
        return 0
    low, high = 1, 2
    while is_served(high):
        low, high = high, high * 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if is_served(middle) else (low, middle)
    return low
