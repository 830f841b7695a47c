"""A working day in short: annotators type and submit while one fault after another happens.

Everything is real but Label Studio: the queue keeps its data on disk, PostgreSQL, the backend, and
two workers with their models. Label Studio is played by ``studio``, which knows the truth.

During the first third of the time workers and the backend are killed too, and started again
as a service manager would. Afterwards they must survive every fault on their own: a process that
ends by itself is not started again and fails the run. Their memory is compared between the end of
the first third and the end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.measure import NOUNS, Row, percentile
from benchmarks.site import SURVIVORS, Site
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter

ANNOTATORS = 8
PHOTOS = 24
NEW_SHARE = 0.02
THINK_S = 2.5
FAULT_EVERY_S = 15.0
_PREDICT_TIMEOUT_S = 100.0
_WEBHOOK_TIMEOUT_S = 1.0
_ADJECTIVES = ("", "big ", "small ", "red ", "white ", "dark ", "nearest ")
_PLACES = ("", " on the left", " on the right", " at the top", " in the middle", " at the bottom")


@dataclass
class Counts:
    """What annotators saw."""

    requests: int = 0
    hung: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    predict_s: list[float] = field(default_factory=list)
    webhook_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Disk:
    """A small disk of its own where mounting one is allowed, so that it can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2500m", "tmpfs", folder]
        self.is_mounted = not subprocess.run(mount, capture_output=True, check=False).returncode

    def close(self) -> None:
        """Unmount it."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=False)


class Faults:
    """What happens to the site, one fault after the other."""

    def __init__(self, site: Site, disk: Disk) -> None:
        self._site, self._disk = site, disk
        self.done: Counter[str] = Counter()
        self.survivable: list[tuple[str, Callable[[], None]]] = [
            ("queue killed and restarted", lambda: site.kill_and_restart("queue")),
            ("queue paused", lambda: self._pause("queue", 3)),
            ("queue paused for long", lambda: self._pause("queue", 12)),
            ("PostgreSQL restarted", lambda: site.kill_and_restart("database", signal.SIGQUIT)),
            ("Label Studio down", self._label_studio_down),
            ("disk full", self._fill_disk),
        ]
        self.deadly = [
            (f"{name} killed", partial(site.kill_and_restart, name)) for name in SURVIVORS
        ]

    def run(self, is_over: threading.Event, is_deadly: Callable[[], bool]) -> None:
        """Cause them in turn until told to stop."""
        number = 0
        while not is_over.wait(FAULT_EVERY_S):
            all_faults = [*self.survivable, *(self.deadly if is_deadly() else [])]
            name, cause = all_faults[number % len(all_faults)]
            number += 1
            if name == "disk full" and not self._disk.is_mounted:
                continue
            with suppress(psutil.NoSuchProcess):
                cause()
                self.done[name] += 1

    def _pause(self, name: str, seconds: float) -> None:
        process = psutil.Process(self._site.find(name).process.pid)
        process.suspend()
        time.sleep(seconds)
        process.resume()

    def _label_studio_down(self) -> None:
        self._site.studio.is_down = True
        time.sleep(3)
        self._site.studio.is_down = False

    def _fill_disk(self) -> None:
        filler = self._disk.folder / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 1_000_000)
        time.sleep(3)
        filler.unlink()


class Annotator:
    """Types, submits, sometimes corrects or deletes; works through faults as people do."""

    def __init__(self, number: int, site: Site, counts: Counts) -> None:
        self._site = site
        self._counts = counts
        self._chance = random.Random(number)
        self._number = number
        self._mine: list[tuple[int, int]] = []

    def work(self, is_over: threading.Event) -> None:
        """Annotate until the day is over."""
        with httpx.Client() as client:
            turn = 0
            while not is_over.is_set():
                turn += 1
                task_id = self._number * 100_000 + turn
                is_new = self._chance.random() < NEW_SHARE
                photo = task_id if is_new else self._chance.randrange(PHOTOS)
                self._site.studio.assign_photo(task_id, photo)
                noun, place = self._chance.choice(NOUNS), self._chance.choice(_PLACES)
                self._annotate(
                    client, task_id, f"the {self._chance.choice(_ADJECTIVES)}{noun}{place}"
                )
                is_over.wait(self._chance.random() * 2 * THINK_S)

    def _annotate(self, client: httpx.Client, task_id: int, expression: str) -> None:
        studio = self._site.studio
        regions = self._predict(client, task_id, expression)
        typed = studio.build_typed(task_id, expression)["params"]["context"]["result"]
        hook = studio.save(task_id, typed + regions[:1])
        self._send(client, hook)
        self._mine.append((hook["annotation"]["id"], task_id))
        if self._chance.random() < 0.15:
            annotation_id, old_task_id = self._chance.choice(self._mine)
            again = studio.build_typed(old_task_id, f"{expression} again")
            text = again["params"]["context"]["result"]
            self._send(client, studio.save(old_task_id, text, annotation_id))
        if self._chance.random() < 0.08:
            annotation_id, _ = self._mine.pop(self._chance.randrange(len(self._mine)))
            self._send(client, studio.delete(annotation_id))

    def _predict(self, client: httpx.Client, task_id: int, expression: str) -> list[dict[str, Any]]:
        started = time.monotonic()
        body = self._site.studio.build_typed(task_id, expression)
        answer = self._ask(client, "/predict", body, _PREDICT_TIMEOUT_S)
        if answer is None or answer.is_error:
            return []
        with self._counts.lock:
            self._counts.predict_s.append(time.monotonic() - started)
        entries: list[dict[str, Any]] = answer.json()["results"][0]["result"]
        return [entry for entry in entries if entry["type"] == "brushlabels"]

    def _send(self, client: httpx.Client, hook: dict[str, Any]) -> None:
        """As Label Studio: it waits one second and never tries again."""
        started = time.monotonic()
        answer = self._ask(client, "/webhook", hook, _WEBHOOK_TIMEOUT_S)
        if answer is not None:
            with self._counts.lock:
                self._counts.webhook_s.append(time.monotonic() - started)

    def _ask(
        self, client: httpx.Client, path: str, body: dict[str, Any], timeout_s: float
    ) -> httpx.Response | None:
        try:
            answer = client.post(self._site.url + path, json=body, timeout=timeout_s)
            outcome = f"{path} {answer.status_code}"
        except httpx.TimeoutException:
            answer, outcome = None, f"{path} timeout"
        except httpx.HTTPError:
            answer, outcome = None, f"{path} refused"
            # A browser, too, is not quicker than this.
            time.sleep(0.2)
        with self._counts.lock:
            self._counts.requests += 1
            self._counts.statuses[outcome] += 1
            self._counts.hung += outcome == "/predict timeout"
        return answer


@dataclass(frozen=True)
class Comparison:
    """Records against the truth."""

    expected: int
    lost: int
    duplicated: int


def compare_records(site: Site) -> Comparison:
    """Compare after one last sync, as the loop in the backend does every few minutes."""
    environment = {**os.environ, **site.environment}
    saymask = str(Path(sys.executable).parent / "saymask")
    subprocess.run(
        [saymask, "sync", "--project", "1"], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    with closing(Stores(site.environment["SAYMASK_DATABASE_URL"])) as stores:
        records = list(stores.records.iterate_records(RecordFilter()))
    found = Counter(record.annotation_id for record in records)
    texts = {record.annotation_id: record.expression for record in records}
    truth = {
        number: annotation["result"][0]["value"]["text"][0]
        for number, annotation in site.studio.annotations.items()
    }
    lost = sum(texts.get(number) != text for number, text in truth.items())
    duplicated = sum(n - 1 for n in found.values()) + len(set(found) - set(truth))
    return Comparison(len(truth), lost, duplicated)


def run(minutes: float) -> list[Row]:
    """Play the day; its verdict goes to standard error as well, in one line."""
    with tempfile.TemporaryDirectory(prefix="saymask-day-") as scratch:
        disk = Disk(Path(scratch) / "disk")
        prepared = disk.folder / "prepared"
        site = Site(disk.folder, prepared, has_postgresql=True, sync_every_s=20)
        try:
            site.start()
            site.prepare_photos(PHOTOS)
            return _play(site, disk, minutes * 60)
        finally:
            site.stop()
            disk.close()


def _play(site: Site, disk: Disk, seconds: float) -> list[Row]:
    counts, faults = Counts(), Faults(site, disk)
    is_over = threading.Event()
    started = time.monotonic()
    is_deadly_until = started + seconds / 3
    threads = [
        threading.Thread(target=Annotator(n, site, counts).work, args=(is_over,))
        for n in range(1, ANNOTATORS + 1)
    ]
    is_deadly = lambda: time.monotonic() < is_deadly_until  # noqa: E731
    threads.append(threading.Thread(target=faults.run, args=(is_over, is_deadly)))
    for thread in threads:
        thread.start()
    samples = _sample_memory(site, is_deadly_until, started + seconds)
    is_over.set()
    for thread in threads:
        thread.join()
    ended = site.list_ended()
    if not ended:
        site.wait_until_ready()
    if not disk.is_mounted:
        print("  disk full was left out: no right to mount a small disk", file=sys.stderr)
    return _report(site, counts, faults, samples, ended)


def _sample_memory(site: Site, start: float, until: float) -> list[dict[str, float]]:
    """Resident memory every ten seconds from ``start`` on; prints it once a minute."""
    samples: list[dict[str, float]] = []
    next_line = 0.0
    while time.monotonic() < until:
        time.sleep(10)
        memory = site.read_memory_mb()
        if time.monotonic() >= start:
            samples.append(memory)
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + 60
            shown = ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory.items())
            print(f"  {until - time.monotonic():5.0f} s left: {shown}", file=sys.stderr, flush=True)
    return samples


def _report(
    site: Site,
    counts: Counts,
    faults: Faults,
    samples: list[dict[str, float]],
    ended: list[str],
) -> list[Row]:
    comparison = compare_records(site)
    for name, count in sorted((faults.done + counts.statuses).items()):
        print(f"  {count:5d}  {name}", file=sys.stderr)
    count = sum(faults.done.values())
    rows = [
        Row(f"day: {counts.requests} requests, {comparison.expected} annotations, {count} faults:"
            " processes that ended on their own", ", ".join(ended) or "0", "", "", "0"),
        Row("day: records lost / duplicated", str(comparison.lost), str(comparison.duplicated), "",
            "0 / 0"),
        Row("day: expressions without an answer within 100 s", str(counts.hung), "", "", "0"),
        Row("day: expression answered, median / p95", f"{percentile(counts.predict_s, 0.5):.2f} s",
            f"{percentile(counts.predict_s, 0.95):.2f} s", ""),
        Row("day: webhook p95", f"{percentile(counts.webhook_s, 0.95) * 1000:.0f} ms", "", "",
            "< 1000 ms"),
    ]  # fmt: skip
    # Single samples catch a photo in preparation: compare medians of the first and last tenth.
    tenth = max(1, len(samples) // 10)
    for name in SURVIVORS:
        early, late = (
            percentile([sample[name] for sample in part if name in sample] or [0.0], 0.5)
            for part in (samples[:tenth], samples[-tenth:])
        )
        rows.append(
            Row(f"day: resident memory of {name} after the first third / at the end",
                f"{early:.0f} MB", f"{late:.0f} MB", f"{late - early:+.0f} MB", "< +100 MB")
        )  # fmt: skip
    return rows
