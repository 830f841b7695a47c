"""The discrete events of annotators who type, a queue with two priorities, and workers.

As the real ones: expressions are answered in the order in which they were typed, but those about
prepared images first, and all before any image is prepared ahead; an image that was looked at first
is prepared in full afterwards; background workers pause while their host answers somebody; an
annotator types the next expression after the answer to the last one, at the earliest.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from backend.simulation.model import Machines, StageTimes, Waits, Workload


@dataclass(eq=False)
class _Image:
    """An image that somebody works on."""

    is_prepared: bool
    is_queued: bool = False


@dataclass
class _Typed:
    """An expression that waits for its answer."""

    annotator: int
    at_s: float
    image: _Image


@dataclass(eq=False)
class _Host:
    """A machine; ``answering`` of its interactive workers are busy.

    ``looks`` are the images that it remembers from first looks, the last one at the end.
    """

    answering: int = 0
    looks: list[_Image] = field(default_factory=list)

    def remember(self, image: _Image, count: int) -> None:
        """Remember an image, and forget the oldest."""
        self.looks = [*(look for look in self.looks if look is not image), image][-count:]


@dataclass(eq=False)
class _Preparing:
    """An image that a background worker prepares; ``left_s`` of it are left at ``since_s``."""

    image: _Image
    host: _Host
    left_s: float
    since_s: float
    ticket: int = 0


def simulate(
    workload: Workload, machines: Machines, times: StageTimes, seconds: float, seed: int = 0
) -> Waits:
    """Simulate so many seconds of work, beginning with an empty queue.

    Args:
        workload: of the annotators.
        machines: that answer.
        times: of the stages.
        seconds: after which nobody types any more; who waits then still gets an answer.
        seed: of all random numbers; the same gives the same.
    """
    return _Run(workload, machines, times, seconds, seed).run()


class _Run:
    def __init__(
        self, workload: Workload, machines: Machines, times: StageTimes, seconds: float, seed: int
    ) -> None:
        self._workload, self._machines, self._times = workload, machines, times
        self._until_s = seconds
        self._draw = random.Random(seed)
        self._now_s = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._typed: deque[_Typed] = deque()
        self._to_prepare: deque[_Image] = deque()
        hosts = [_Host() for _ in range(machines.hosts)]
        self._idle = [host for _ in range(machines.interactive) for host in hosts]
        self._idle_background = [host for _ in range(machines.background) for host in hosts]
        self._preparing: list[_Preparing] = []
        self._current = [_Image(is_prepared=True) for _ in range(workload.annotators)]
        self._prepared_s: list[float] = []
        self._new_s: list[float] = []
        self._busy_s = 0.0

    def run(self) -> Waits:
        for annotator in range(self._workload.annotators):
            first = self._draw.random() * self._workload.every_s
            self._after(first, partial(self._type, annotator))
        while self._events:
            at_s, _, event = heapq.heappop(self._events)
            if at_s > self._until_s and not self._typed and not self._is_answering():
                break
            self._now_s = at_s
            event()
        workers = self._machines.hosts * self._machines.interactive
        return Waits(
            tuple(self._prepared_s),
            tuple(self._new_s),
            len(self._to_prepare) + len(self._preparing),
            self._busy_s / workers / max(self._now_s, 1e-9),
        )

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._order), event))

    def _is_answering(self) -> bool:
        return len(self._idle) < self._machines.hosts * self._machines.interactive

    def _type(self, annotator: int) -> None:
        if self._now_s > self._until_s:
            return
        if self._draw.random() < self._workload.new_share:
            is_prepared = self._draw.random() < self._workload.prepared_share
            self._current[annotator] = _Image(is_prepared)
        typed = _Typed(annotator, self._now_s, self._current[annotator])
        if typed.image.is_prepared:
            self._typed.appendleft(typed)
        else:
            self._typed.append(typed)
        self._assign()

    def _assign(self) -> None:
        """Give idle workers what waits."""
        while self._typed and self._idle:
            self._answer(self._typed.popleft(), self._idle.pop(0))
        while self._to_prepare and self._idle_background:
            self._prepare(self._to_prepare.popleft(), self._idle_background.pop(0))
        if not self._machines.background:
            while self._to_prepare and self._idle:
                self._prepare_between(self._to_prepare.popleft(), self._idle.pop(0))

    def _answer(self, typed: _Typed, host: _Host) -> None:
        was_prepared = typed.image.is_prepared
        seconds = self._draw_answer(typed.image, host)
        self._busy_s += seconds
        self._pause(host)
        host.answering += 1
        self._after(seconds, partial(self._finish, typed, host, was_prepared=was_prepared))

    def _draw_answer(self, image: _Image, host: _Host) -> float:
        """Seconds until a worker that begins now has answered."""
        times, choose = self._times, self._draw.choice
        is_beside = any(preparing.host is host for preparing in self._preparing)
        if image.is_prepared:
            return choose((times.beside_s if is_beside else ()) or times.prepared_s)
        if not times.first_look_s:
            return choose(times.preparation_s) + choose(times.prepared_s)
        if image in host.looks and times.looked_at_s:
            return choose(times.looked_at_s)
        return choose((times.first_look_beside_s if is_beside else ()) or times.first_look_s)

    def _finish(self, typed: _Typed, host: _Host, *, was_prepared: bool) -> None:
        host.answering -= 1
        self._idle.append(host)
        if not self._times.first_look_s:
            typed.image.is_prepared = True
        elif not was_prepared:
            kept = self._machines.looks_kept * self._machines.interactive
            host.remember(typed.image, kept)
            if not typed.image.is_queued:
                typed.image.is_queued = True
                self._to_prepare.append(typed.image)
        waited = self._now_s - typed.at_s
        (self._prepared_s if was_prepared else self._new_s).append(waited)
        next_s = max(0.0, self._draw_interval() - waited)
        self._after(next_s, partial(self._type, typed.annotator))
        self._resume(host)
        self._assign()

    def _draw_interval(self) -> float:
        every_s = self._workload.every_s
        return self._draw.expovariate(1 / every_s) if self._workload.is_poisson else every_s

    def _prepare_between(self, image: _Image, host: _Host) -> None:
        """An interactive worker prepares an image while nobody waits, to its end."""
        seconds = self._draw.choice(self._times.preparation_s)
        self._busy_s += seconds

        def end() -> None:
            image.is_prepared = True
            self._idle.append(host)
            self._assign()

        self._after(seconds, end)

    def _prepare(self, image: _Image, host: _Host) -> None:
        seconds = self._draw.choice(self._times.preparation_s)
        preparing = _Preparing(image, host, seconds, self._now_s)
        self._preparing.append(preparing)
        if not host.answering:
            self._go_on(preparing)

    def _pause(self, host: _Host) -> None:
        """Stop the background workers of a host that begins to answer."""
        if host.answering:
            return
        for preparing in self._preparing:
            if preparing.host is host:
                preparing.left_s -= self._now_s - preparing.since_s
                preparing.ticket += 1

    def _resume(self, host: _Host) -> None:
        if host.answering:
            return
        for preparing in self._preparing:
            if preparing.host is host:
                self._go_on(preparing)

    def _go_on(self, preparing: _Preparing) -> None:
        preparing.since_s = self._now_s
        preparing.ticket += 1
        ticket = preparing.ticket

        def end() -> None:
            if preparing.ticket != ticket:
                return  # it was paused meanwhile
            self._preparing.remove(preparing)
            preparing.image.is_prepared = True
            self._idle_background.append(preparing.host)
            self._assign()

        self._after(max(0.0, preparing.left_s), end)
