"""Whether memory stays flat: hundreds of photos, five expressions each, through real processes.

Each photo is typed about once, prepared in the background, and typed about four times more.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
from PIL import Image, ImageOps

from benchmarks.measure import NOUNS, Row
from benchmarks.site import SURVIVORS, Site
from saymask_backend.local_stack.up import sample_images

_SHOWN = (10, 50, 100, 200, 300)
# Until then, the memory that the settings allow for open photos fills.
_SETTLED = 50
_LONGER_PX = (640, 1024, 1600, 2400)
_EXPRESSIONS = (
    "the {}", "the {} on the left", "the largest {}", "the second {} from the right",
    "the {} next to the {}",
)  # fmt: skip
# Megabytes of each process, by its name.
Sizes = dict[str, float]


def measure(count: int, folder: Path | None) -> list[Row]:
    """Resident memory after some of ``count`` photos, and how far it moved after the 50th.

    Args:
        count: of photos.
        folder: with .jpg files to derive them from; None for the sample photos.
    """
    originals = sorted(folder.glob("*.jpg")) if folder else sample_images()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        site = Site(place, place / "prepared", has_postgresql=False, sync_every_s=0)
        site.studio.draw_photo = partial(derive_photo, originals)
        try:
            site.start()
            return to_rows(_work(site, count))
        finally:
            site.stop()


def _work(site: Site, count: int) -> dict[int, Sizes]:
    sizes: dict[int, Sizes] = {}
    for number in range(1, count + 1):
        site.studio.assign_photo(number, number)
        for place, pattern in enumerate(_EXPRESSIONS):
            draw = random.Random(f"{number}:{place}")
            expression = pattern.format(draw.choice(NOUNS), draw.choice(NOUNS))
            body = site.studio.build_typed(number, expression)
            httpx.post(f"{site.url}/predict", json=body, timeout=100).raise_for_status()
            if place == 0:
                _await_quiet(site)
        if number in _SHOWN or number == count:
            sizes[number] = site.read_memory_mb()
            shown = ", ".join(f"{name} {mb:.0f} MB" for name, mb in sizes[number].items())
            print(f"{number} photos: {shown}", file=sys.stderr, flush=True)
    return sizes


def _await_quiet(site: Site) -> None:
    """Wait until nothing is prepared any more.

    Raises:
        RuntimeError: a process ended by itself.
    """
    while True:
        if ended := site.list_ended():
            raise RuntimeError(f"{', '.join(ended)} ended")
        state = httpx.get(f"{site.url}/ready", timeout=30).json()
        is_idle = all(worker["state"] == "idle" for worker in state["workers"])
        if is_idle and not any(state["queues"].values()):
            return
        time.sleep(0.2)


def derive_photo(originals: list[Path], number: int) -> bytes:
    """Draw a photo that no other number gives: another part, side and size of an original."""
    draw = random.Random(number)
    image = Image.open(originals[number % len(originals)]).convert("RGB")
    if draw.random() < 0.5:
        image = ImageOps.mirror(image)
    left, top = (int(draw.uniform(0, 0.2) * side) for side in image.size)
    right, bottom = (int(draw.uniform(0.8, 1) * side) for side in image.size)
    image = image.crop((left, top, right, bottom))
    scale = draw.choice(_LONGER_PX) / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def to_rows(sizes: dict[int, Sizes]) -> list[Row]:
    """The table: a line for each number of photos, and the difference that counts."""
    rows = [
        Row(
            f"resident memory after {number} photos: worker that answers / that prepares / backend",
            *(f"{size[name]:.0f} MB" for name in SURVIVORS),
        )
        for number, size in sizes.items()
    ]
    last = max(sizes)
    first = _SETTLED if _SETTLED in sizes else min(sizes)
    grown = (f"{sizes[last][name] - sizes[first][name]:+.0f} MB" for name in SURVIVORS)
    return [*rows, Row(f"growth from {first} photos to {last}", *grown, "below 100 MB")]
