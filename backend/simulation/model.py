"""What is simulated: people, machines, and how long each stage takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from saymask.errors import InvalidRequest


@dataclass(frozen=True)
class StageTimes:
    """Measured seconds, of which the simulation draws.

    Attributes:
        prepared_s: Enter to answer about a prepared image while nothing else happens.
        beside_s: the same while a background worker of the host is preparing another image; empty
            means ``prepared_s``.
        first_look_s: the same about an image that is not prepared; empty where there are no first
            looks: then the image is prepared in full before the answer.
        first_look_beside_s: the same while a background worker of the host is preparing another
            image; empty means ``first_look_s``.
        looked_at_s: the next expression about it, before it is prepared in full; empty means
            ``first_look_s``.
        preparation_s: preparing an image in full.
    """

    prepared_s: tuple[float, ...]
    preparation_s: tuple[float, ...]
    first_look_s: tuple[float, ...] = ()
    first_look_beside_s: tuple[float, ...] = ()
    looked_at_s: tuple[float, ...] = ()
    beside_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            name = item.name
            values: Sequence[float] = getattr(self, name)
            if not values and name in ("prepared_s", "preparation_s"):
                raise InvalidRequest(
                    f"No measured times for {name}.", "Measure some, or name them."
                )
            if any(not 0 < value < float("inf") for value in values):
                raise InvalidRequest(f"{name} must be positive numbers of seconds, got {values}.")


@dataclass(frozen=True)
class Workload:
    """What annotators do.

    Attributes:
        annotators: how many are at work at once.
        every_s: seconds from one expression of an annotator to the next, on average; who still
            waits for an answer types later.
        is_poisson: intervals are exponential; else all equal.
        new_share: of the expressions, 0 to 1, are about an image that nobody asked about before.
        prepared_share: of these images, 0 to 1, were prepared before people came and are still in
            the cache.
    """

    annotators: int
    every_s: float = 8.0
    is_poisson: bool = True
    new_share: float = 0.2
    prepared_share: float = 0.0

    def __post_init__(self) -> None:
        if self.annotators < 1:
            raise InvalidRequest(f"At least one annotator is needed, got {self.annotators}.")
        if not self.every_s > 0:
            raise InvalidRequest(f"Expected seconds above 0, got {self.every_s}.")
        for name in ("new_share", "prepared_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidRequest(f"{name} must be from 0 to 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Machines:
    """What answers.

    Attributes:
        hosts: machines, each with the same workers; or GPUs.
        interactive: workers of a host that answer annotators.
        background: workers of a host that prepare images; they pause while their host answers
            somebody. With none, interactive workers prepare when nobody waits.
        looks_kept: so many of the last images that were looked at first a worker remembers; others
            are looked at anew.
    """

    hosts: int = 1
    interactive: int = 1
    background: int = 1
    looks_kept: int = 4

    def __post_init__(self) -> None:
        if self.hosts < 1 or self.interactive < 1 or self.background < 0:
            raise InvalidRequest(
                f"Expected at least one host with one interactive worker, got {self}."
            )


@dataclass(frozen=True)
class Waits:
    """Seconds from Enter to answer, in the order of the answers.

    Attributes:
        prepared_s: of answers from images prepared in full.
        new_s: of others.
        backlog: images that still wait to be prepared at the end.
        busy_share: of the interactive workers' time, 0 to 1.
    """

    prepared_s: tuple[float, ...] = ()
    new_s: tuple[float, ...] = ()
    backlog: int = 0
    busy_share: float = 0.0
    all_s: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "all_s", (*self.prepared_s, *self.new_s))
