"""Annotators at work on one worker of each kind: how long Enter takes, as their number grows.

Each types every eight seconds, a fifth of the times about a photo that nobody has seen before.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx

from benchmarks.measure import NOUNS, Row, percentile
from benchmarks.site import Site

ANNOTATORS = (1, 2, 4, 8, 16, 32)
EVERY_S = 8.0
NEW_SHARE = 0.2
_SECONDS = 80.0
_PREPARED = 4


class Annotators:
    """Scripted annotators of one site; each new photo is one that nobody has seen.

    Args:
        site: running.
        first_photo: number of the first new photo.
    """

    def __init__(self, site: Site, first_photo: int) -> None:
        self._site = site
        self._tasks = count(1_000)
        self._photos = count(first_photo)
        self._lock = threading.Lock()
        self._client = httpx.Client(timeout=100, limits=httpx.Limits(max_connections=None))

    def work(self, number: int) -> list[tuple[bool, float | None]]:
        """One annotator's answers: whether the photo was new, and seconds, None for none."""
        draw = random.Random(number)
        until = time.monotonic() + _SECONDS
        time.sleep(draw.random() * EVERY_S)
        answers: list[tuple[bool, float | None]] = []
        while time.monotonic() < until:
            is_new = draw.random() < NEW_SHARE
            with self._lock:
                task_id = next(self._tasks)
                photo = next(self._photos) if is_new else draw.randrange(_PREPARED)
            self._site.studio.assign_photo(task_id, photo)
            started = time.monotonic()
            text = f"the {draw.choice(NOUNS)} of {number} at {len(answers)}"
            is_answered = self._ask(task_id, text, str(number))
            seconds = time.monotonic() - started
            answers.append((is_new, seconds if is_answered else None))
            time.sleep(max(0.0, EVERY_S - seconds))
        return answers

    def _ask(self, task_id: int, text: str, entry_id: str) -> bool:
        body = self._site.studio.build_typed(task_id, text, entry_id)
        answer = self._client.post(f"{self._site.url}/predict", json=body).raise_for_status().json()
        return any(entry["type"] == "brushlabels" for entry in answer["results"][0]["result"])


def measure(most: int) -> list[Row]:
    """Median, 95th percentile and longest wait, for each number of annotators up to ``most``.

    Each begins with new processes and an empty queue; what is prepared stays on disk.
    """
    with tempfile.TemporaryDirectory() as scratch:
        numbers = [number for number in ANNOTATORS if number <= most]
        return [_measure_one(Path(scratch), number) for number in numbers]


def _measure_one(folder: Path, annotators: int) -> Row:
    site = Site(folder / str(annotators), folder / "prepared", has_postgresql=False, sync_every_s=0)
    try:
        site.start()
        site.prepare_photos(_PREPARED)
        team = Annotators(site, first_photo=annotators * 10_000)
        with ThreadPoolExecutor(annotators) as pool:
            answers = [a for each in pool.map(team.work, range(annotators)) for a in each]
        waiting = max(httpx.get(f"{site.url}/ready", timeout=30).json()["queues"].values())
    finally:
        site.stop()
    known = [seconds for is_new, seconds in answers if not is_new and seconds is not None]
    new = [seconds for is_new, seconds in answers if is_new and seconds is not None]
    lost = sum(seconds is None for _, seconds in answers)
    return Row(
        f"{annotators} annotators, {len(answers)} expressions, {lost} without an answer, {waiting}"
        " photos wait to be prepared at the end: prepared / new photos",
        _describe(known), _describe(new), "",
    )  # fmt: skip


def _describe(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    return (
        f"{percentile(seconds, 0.5):.2f} s, 95 % {percentile(seconds, 0.95):.2f} s,"
        f" longest {max(seconds):.2f} s"
    )
