"""Whether memory stays flat: hundreds of photos, five expressions each, through real processes.

Each photo is typed about once, prepared in the background, and typed about four times more.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import NOUNS, Cells, Table
from benchmarks.site import Site, running_site

_SHOWN = (10, 50, 100, 200, 300)
# Until then, the memory that the settings allow for open photos fills.
_SETTLED = 50
_LONGER_PX = (640, 1024, 1600, 2400)
_EXPRESSIONS = (
    "the {}", "the {} on the left", "the largest {}", "the second {} from the right",
    "the {} next to the {}",
)  # fmt: skip


def measure(count: int, folder: Path | None) -> Table:
    """Resident memory after some of ``count`` photos, and how far it moved after the 50th."""
    with tempfile.TemporaryDirectory() as scratch, running_site(Path(scratch) / "site") as site:
        site.studio.longer_px = _LONGER_PX
        if folder:
            site.studio.originals = tuple(sorted(folder.glob("*.jpg")))
        rows = _work(site, count)
    first = next((row for row in rows if row["photos"] == _SETTLED), rows[0])
    growth = {name: f"{rows[-1][name] - first[name]:+.0f}" for name in first if name != "photos"}
    rows.append({"photos": f"growth from {first['photos']} to {count}", **growth})
    return Table("Resident memory by the number of photos, MB", rows)


def _is_idle(state: dict[str, Any]) -> bool:
    """Whether no photo is prepared any more."""
    at_rest = all(worker["state"] == "idle" for worker in state["workers"])
    return at_rest and not any(state["queues"].values())


def _work(site: Site, count: int) -> list[Cells]:
    rows: list[Cells] = []
    with httpx.Client() as client:
        for number in range(1, count + 1):
            task_id = site.studio.add_photo_task(number)
            for position, pattern in enumerate(_EXPRESSIONS):
                draw = random.Random(f"{number}:{position}")
                expression = pattern.format(draw.choice(NOUNS), draw.choice(NOUNS))
                site.type_expression(client, task_id, expression).raise_for_status()
                if position == 0:
                    site.wait_until("idle workers", _is_idle)
            if number in _SHOWN or number == count:
                rows.append({"photos": number, **site.read_memory_mb()})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows
