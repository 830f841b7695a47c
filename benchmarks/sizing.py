"""``saymask simulate`` against reality: stage times are measured, four annotators work for minutes.

Real service, real workers, real photos; the simulation draws from the times of the first part and
is compared with the waits of the second. Run it with nothing else on the machine.

Example: python -m benchmarks.sizing --minutes 5 --write times.json
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx

from backend.local_stack.processes import ProcessGroup
from backend.simulation.model import Machines, StageTimes, Workload
from backend.simulation.simulate import simulate
from benchmarks.load import NewPhotos, await_background
from benchmarks.measure import Row, percentile, to_markdown
from benchmarks.service import NOUNS, QuietHandler, build_typed_request, start_service

ANNOTATORS = 4
EVERY_S = 8.0
NEW_SHARE = 0.2
_QUIET = 20
_COLD = 6
_AGAIN = round(1 / NEW_SHARE) - 1
_BESIDE = 3
_SIMULATED_RUNS = 40
_PREPARED_LINE = re.compile(r"image prepared in ([\d.]+) ms")


class _Service:
    """The real service, asked like an editor asks."""

    def __init__(self, client: httpx.Client, base: str, background_log: Path) -> None:
        self.client, self._base, self._log = client, base, background_log
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()

    def ask(self, photo: int, typed_by: str = "x") -> tuple[float, bool]:
        """Seconds from Enter to answer about a photo, and whether it was a first look."""
        with self._lock:
            number = next(self._numbers)
        text = f"the {NOUNS[number % len(NOUNS)]} number {number}"
        body = build_typed_request(self._base, photo, text, typed_by)
        started = time.perf_counter()
        answer = self.client.post("/predict", json=body).raise_for_status().json()["results"][0]
        seconds = time.perf_counter() - started
        if not any(entry["type"] == "brushlabels" for entry in answer["result"]):
            raise RuntimeError(f"{text!r} was not answered: {answer}")
        return seconds, "-first." in answer["model_version"]

    def prepare(self, photo: int) -> None:
        """Ask about a photo and wait until it is prepared in full."""
        self.ask(photo)
        await_background(self.client)

    def read_preparations(self) -> tuple[float, ...]:
        """Seconds of every full preparation so far, pauses included."""
        text = self._log.read_text("utf-8")
        return tuple(float(ms) / 1000 for ms in _PREPARED_LINE.findall(text) if float(ms) > 500)


def measure_times(service: _Service, photos: NewPhotos) -> StageTimes:
    """Measure every stage while nothing else happens, and answers beside a preparation."""
    known = photos.write()
    service.prepare(known)
    service.ask(known)
    prepared = [service.ask(known)[0] for _ in range(_QUIET)]
    first, again, beside, first_beside = [], [], [], []
    for _ in range(_COLD):
        photo = photos.write()
        seconds, is_first = service.ask(photo)
        if not is_first:
            raise RuntimeError("the service gives no first looks")
        first.append(seconds)
        # As many as an annotator types about a photo: what was looked at closer stays known.
        for seconds, is_first in [service.ask(photo) for _ in range(_AGAIN)]:
            again += [seconds] if is_first else []
        time.sleep(1.0)
        first_beside.append(service.ask(photos.write())[0])
        for _ in range(_BESIDE):
            time.sleep(1.0)  # so that the background worker is in the middle of something
            beside.append(service.ask(known)[0])
        await_background(service.client)
    # Undisturbed ones: nobody asks anything until they are done.
    before = len(service.read_preparations())
    for _ in range(_COLD // 2):
        service.prepare(photos.write())
    return StageTimes(
        prepared_s=tuple(prepared),
        preparation_s=service.read_preparations()[before:],
        first_look_s=tuple(first),
        first_look_beside_s=tuple(first_beside),
        looked_at_s=tuple(again),
        beside_s=tuple(beside),
    )


def _annotate(
    service: _Service, photos: NewPhotos, photo: int, until: float, seed: int
) -> list[tuple[bool, float]]:
    """One annotator's waits, and whether each answer was a first look; stays with a photo."""
    draw = random.Random(seed)
    time.sleep(draw.random() * EVERY_S)
    waits = []
    while time.monotonic() < until:
        if draw.random() < NEW_SHARE:
            photo = photos.write()
        seconds, is_first = service.ask(photo, str(seed))
        waits.append((is_first, seconds))
        time.sleep(max(0.0, draw.expovariate(1 / EVERY_S) - seconds))
    return waits


def work(service: _Service, photos: NewPhotos, minutes: float) -> list[tuple[bool, float]]:
    """Let four annotators work; returns all waits, and whether each was a first look."""
    known = photos.write()
    service.prepare(known)
    until = time.monotonic() + minutes * 60
    with ThreadPoolExecutor(ANNOTATORS) as pool:
        futures = [
            pool.submit(_annotate, service, photos, known, until, seed)
            for seed in range(ANNOTATORS)
        ]
        return [wait for future in futures for wait in future.result()]


def compare(minutes: float, report: Callable[[str], None]) -> tuple[StageTimes, list[Row]]:
    """Stage times, and real (A) against simulated (B) waits."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        handler = partial(QuietHandler, directory=str(folder / "photos"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack = ProcessGroup(folder / "logs", lambda _line: None)
        photos = NewPhotos(folder / "photos")
        try:
            with closing(start_service(stack, folder)) as client:
                base = f"http://127.0.0.1:{server.server_port}"
                service = _Service(client, base, folder / "logs" / "background.log")
                report("measuring stages")
                times = measure_times(service, photos)
                report(f"{ANNOTATORS} annotators at work for {minutes:g} minutes")
                real = work(service, photos, minutes)
        finally:
            stack.stop()
            server.shutdown()
            server.server_close()
    workload = Workload(ANNOTATORS, EVERY_S, new_share=NEW_SHARE)
    runs = [simulate(workload, Machines(), times, minutes * 60, s) for s in range(_SIMULATED_RUNS)]
    simulated = {
        "all": [wait for run in runs for wait in run.all_s],
        "prepared photos": [wait for run in runs for wait in run.prepared_s],
        "first looks": [wait for run in runs for wait in run.new_s],
    }
    measured = {
        "all": [seconds for _, seconds in real],
        "prepared photos": [seconds for is_first, seconds in real if not is_first],
        "first looks": [seconds for is_first, seconds in real if is_first],
    }
    rows = []
    for what, waits in measured.items():
        for share in (0.5, 0.95):
            a, b = percentile(waits, share), percentile(simulated[what], share)
            rows.append(
                Row(
                    f"{what} ({len(waits)}), {share:.0%}: real / simulated", f"{a:.2f} s",
                    f"{b:.2f} s", f"{a / b:.2f}", "0.8 to 1.2" if what == "all" else "",
                )
            )  # fmt: skip
    return times, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="that annotators work")
    parser.add_argument("--write", type=Path, help="write the measured times here")
    arguments = parser.parse_args()
    times, rows = compare(arguments.minutes, lambda line: print(line, file=sys.stderr, flush=True))
    if arguments.write:
        rounded = {name: [round(v, 4) for v in values] for name, values in asdict(times).items()}
        arguments.write.write_text(json.dumps(rounded) + "\n", encoding="utf-8")
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
