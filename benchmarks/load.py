"""Annotators at work on one worker of each kind: how long Enter takes, as their number grows.

Each types every eight seconds, a fifth of the times about a photo that nobody has seen before.
"""

from __future__ import annotations

import io
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import count
from pathlib import Path

import httpx
from PIL import Image

from backend.local_stack.processes import ProcessGroup
from backend.local_stack.up import sample_images
from benchmarks.measure import Row, percentile
from benchmarks.service import NOUNS, QuietHandler, build_typed_request, start_service

ANNOTATORS = (1, 2, 4, 8, 16, 32)
EVERY_S = 8.0
NEW_SHARE = 0.2
_SECONDS = 80.0
_PREPARED = 4


class NewPhotos:
    """Photos that differ from one another, written when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image = Image.open(sample_images()[0]).convert("RGB")
        self._numbers = count()
        self._lock = threading.Lock()

    def write(self) -> int:
        """Write another photo; returns its number."""
        with self._lock:
            number = next(self._numbers)
        buffer = io.BytesIO()
        self._image.rotate(number * 0.7).save(buffer, "JPEG", quality=90)
        (self._folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        return number


def measure(most: int) -> list[Row]:
    """Median and 95th percentile of Enter to answer, for each number of annotators up to ``most``.

    Each begins with new processes and an empty queue; what is prepared stays on disk.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        handler = partial(QuietHandler, directory=str(folder / "photos"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base, photos = f"http://127.0.0.1:{server.server_port}", NewPhotos(folder / "photos")
        try:
            prepared = [photos.write() for _ in range(_PREPARED)]
            numbers = [number for number in ANNOTATORS if number <= most]
            return [_measure_one(folder, base, photos, prepared, n) for n in numbers]
        finally:
            server.shutdown()
            server.server_close()


def _measure_one(
    folder: Path, base: str, photos: NewPhotos, prepared: list[int], annotators: int
) -> Row:
    stack = ProcessGroup(folder / "logs", lambda _line: None)
    try:
        with closing(start_service(stack, folder)) as client:
            for number in prepared:
                # The second answer is that of the prepared photo.
                for noun in NOUNS[:2]:
                    _ask(client, base, number, f"the {noun}")
            await_background(client)
            with ThreadPoolExecutor(annotators) as pool:
                work = [
                    pool.submit(_annotate, client, base, photos, prepared, seed)
                    for seed in range(annotators)
                ]
                answers = [answer for future in work for answer in future.result()]
            waiting = max(client.get("/ready").json()["queues"].values())
    finally:
        stack.stop()
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
    return f"{percentile(seconds, 0.5):.2f} s, 95 % {percentile(seconds, 0.95):.2f} s"


def _annotate(
    client: httpx.Client, base: str, photos: NewPhotos, prepared: list[int], seed: int
) -> list[tuple[bool, float | None]]:
    """One annotator's answers: whether the photo was new, and seconds, None for none."""
    draw = random.Random(seed)
    until = time.monotonic() + _SECONDS
    time.sleep(draw.random() * EVERY_S)
    answers: list[tuple[bool, float | None]] = []
    while time.monotonic() < until:
        is_new = draw.random() < NEW_SHARE
        number = photos.write() if is_new else draw.choice(prepared)
        text = f"the {draw.choice(NOUNS)} of {seed} at {len(answers)}"
        started = time.monotonic()
        is_answered = _ask(client, base, number, text, str(seed))
        seconds = time.monotonic() - started
        answers.append((is_new, seconds if is_answered else None))
        time.sleep(max(0.0, EVERY_S - seconds))
    return answers


def _ask(client: httpx.Client, base: str, number: int, text: str, typed_by: str = "x") -> bool:
    body = build_typed_request(base, number, text, typed_by)
    answer = client.post("/predict", json=body).raise_for_status().json()
    return any(entry["type"] == "brushlabels" for entry in answer["results"][0]["result"])


def await_background(client: httpx.Client) -> None:
    """Wait until nothing is prepared any more."""
    while True:
        state = client.get("/ready").json()
        is_idle = all(worker["state"] == "idle" for worker in state["workers"])
        if is_idle and not any(state["queues"].values()):
            return
        time.sleep(0.5)
