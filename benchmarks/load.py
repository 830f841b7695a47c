"""Annotators at work on one worker of each kind: how long Enter takes, as their number grows.

Each types every eight seconds, a fifth of the times about a photo that nobody has seen before.
"""

from __future__ import annotations

import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import httpx

from benchmarks.measure import NOUNS, Cells, Table, percentile, timed
from benchmarks.site import Site, find_masks, running_site

ANNOTATORS = (1, 2, 4, 8, 16, 32)
EVERY_S = 8.0
NEW_SHARE = 0.2
_SECONDS = 80.0
_PREPARED = 4


def measure(most: int) -> Table:
    """Median, 95th percentile and longest wait, for each number of annotators up to ``most``.

    Each begins with new processes and an empty queue; what is prepared stays on disk.
    """
    with tempfile.TemporaryDirectory() as scratch:
        numbers = [number for number in ANNOTATORS if number <= most]
        rows = [_measure_one(Path(scratch), number) for number in numbers]
    return Table(f"Annotators who type every {EVERY_S:.0f} s, seconds from Enter to answer", rows)


def _measure_one(folder: Path, annotators: int) -> Cells:
    with running_site(folder / str(annotators)) as site:
        site.prepare_photos(_PREPARED)
        # Their numbers are not those of the sites before, which are prepared.
        photos = count(annotators * 10_000)
        with ThreadPoolExecutor(annotators) as pool:
            work = [pool.submit(_annotate, site, n, photos) for n in range(annotators)]
            answers = [answer for future in work for answer in future.result()]
        waiting = max(site.read_state()["queues"].values())
    cells: Cells = {"annotators": annotators, "expressions": len(answers)}
    for kind in ("prepared", "new"):
        waits = [s for is_new, s in answers if s is not None and is_new == (kind == "new")]
        for name, share in (("median", 0.5), ("95 %", 0.95), ("longest", 1.0)):
            cells[f"{kind}: {name}"] = percentile(waits, share)
    lost = sum(seconds is None for _, seconds in answers)
    return {**cells, "without an answer": lost, "photos waiting at the end": waiting}


def _annotate(site: Site, number: int, photos: count[int]) -> list[tuple[bool, float | None]]:
    """One annotator's answers: whether the photo was new, and seconds, None for no answer."""
    draw = random.Random(number)
    until = time.monotonic() + _SECONDS
    time.sleep(draw.random() * EVERY_S)
    answers: list[tuple[bool, float | None]] = []
    with httpx.Client() as client:
        while time.monotonic() < until:
            is_new = draw.random() < NEW_SHARE
            photo = next(photos) if is_new else draw.randrange(_PREPARED)
            task_id = site.studio.add_photo_task(photo)
            text = f"the {draw.choice(NOUNS)} of {number} at {len(answers)}"
            answer, seconds = timed(
                partial(site.type_expression, client, task_id, text, str(number))
            )
            has_masks = bool(find_masks(answer.raise_for_status()))
            answers.append((is_new, seconds if has_masks else None))
            time.sleep(max(0.0, EVERY_S - seconds))
    return answers
