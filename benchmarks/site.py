"""An installation for benchmarks, in separate processes, and the calls that annotators cause."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.studio import FakeStudio
from saymask_backend.local_stack.processes import ManagedProcess, ProcessGroup
from tests.backend.http import KEY
from tests.conftest import free_port, init_postgres, postgres_bin, valkey_command

SURVIVORS = ("worker-interactive", "worker-background", "backend")
PROGRAMS = Path(sys.executable).parent
PREDICT_TIMEOUT_S = 100.0


@dataclass
class Site:
    """A queue, two workers with their models, the backend and its database; a fake Label Studio."""

    studio: FakeStudio
    stack: ProcessGroup
    url: str
    environment: dict[str, str] = field(default_factory=dict)

    def read_state(self) -> dict[str, Any]:
        """What ``/ready`` says, also where it says no; nothing while the backend is away."""
        with suppress(httpx.TransportError):
            state: dict[str, Any] = httpx.get(f"{self.url}/ready", timeout=30).json()
            return state
        return {}

    def wait_until(
        self, what: str, check: Callable[[dict[str, Any]], bool], timeout_s: float = 300
    ) -> None:
        """Wait for a state of the backend."""

        def is_there() -> bool:
            if ended := self.list_ended():
                raise RuntimeError(f"{', '.join(ended)} ended")
            state = self.read_state()
            return bool(state) and check(state)

        self.stack.wait_until(self.find("backend"), is_there, timeout_s, what)

    def wait_until_ready(self) -> None:
        """Wait until a typed expression would be answered."""
        self.wait_until("an answering worker", lambda state: state["ready"])

    def prepare_photos(self, count: int) -> None:
        """Import photos 0 to ``count``, excluded, and wait until they are prepared."""
        tasks = [self.studio.build_task(self.studio.add_photo_task(n)) for n in range(count)]
        created = {"action": "TASKS_CREATED", "tasks": tasks, "project": self.studio.project}
        httpx.post(f"{self.url}/webhook", json=created, timeout=30).raise_for_status()
        self.wait_until(
            "the last photo", lambda state: state["photos"]["prepared"] >= count, 60 * count
        )

    def type_expression(
        self, client: httpx.Client, task_id: int, expression: str, entry_id: str | None = None
    ) -> httpx.Response:
        """The backend's answer to an expression typed about a task's photo."""
        body = self.studio.build_typed(task_id, expression, entry_id)
        return client.post(f"{self.url}/predict", json=body, timeout=PREDICT_TIMEOUT_S)

    def find(self, name: str) -> ManagedProcess:
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


@contextmanager
def running_site(
    folder: Path, *, has_postgresql: bool = False, sync_every_s: int = 0
) -> Iterator[Site]:
    """A site that answers expressions, stopped in the end.

    Prepared photos are kept next to its folder and shared with other sites.
    """
    port, queue_port, database_port = (free_port() for _ in range(3))
    studio = FakeStudio()
    site = Site(studio, ProcessGroup(folder / "logs", lambda _: None), f"http://127.0.0.1:{port}")
    site.environment |= {
        "SAYMASK_REDIS_URL": f"redis://127.0.0.1:{queue_port}/0",
        "SAYMASK_PREPARED_DIR": str(folder.parent / "prepared"),
        "SAYMASK_PORT": str(port),
        "SAYMASK_LABEL_STUDIO_URL": studio.url,
        "SAYMASK_LABEL_STUDIO_API_KEY": KEY,
        "SAYMASK_SYNC_EVERY_S": str(sync_every_s),
        "SAYMASK_DATA_DIR": str(folder / "data"),
        # What is kept on purpose is full within minutes; what grows after that is a leak.
        "SAYMASK_OPEN_PHOTOS_MAX_MB": "300",
    }
    try:
        if has_postgresql:
            url = f"postgresql://saymask@127.0.0.1:{database_port}/postgres"
            site.environment["SAYMASK_DATABASE_URL"] = url
            _start_database(site.stack, folder, database_port)
        (folder / "queue").mkdir()
        queue = valkey_command(queue_port, folder / "queue", keeps_data=True)
        site.stack.start("queue", queue, {}, serves_others=True)
        for queues in ("interactive", "background"):
            command = [str(PROGRAMS / "saymask-worker"), "run"]
            environment = site.environment | {"SAYMASK_QUEUES": queues}
            site.stack.start(f"worker-{queues}", command, environment)
        site.stack.start("backend", [str(PROGRAMS / "saymask"), "serve"], site.environment)
        site.wait_until_ready()
        yield site
    finally:
        site.stack.stop()
        studio.stop()


def _start_database(stack: ProcessGroup, folder: Path, port: int) -> None:
    programs = postgres_bin()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed (Debian package postgresql)")
    # PostgreSQL refuses to run as root, and a temporary folder is closed to other users.
    for directory in (folder, *folder.parents[:2]):
        directory.chmod(0o755)
    command, is_ready = init_postgres(programs, folder / "postgres", port)
    stack.wait_until(
        stack.start("database", command, {}, serves_others=True), is_ready, 60, "PostgreSQL"
    )


def find_masks(answer: httpx.Response) -> list[dict[str, Any]]:
    """The suggestions in an answer, the first one first."""
    entries: list[dict[str, Any]] = answer.json()["results"][0]["result"]
    return [entry for entry in entries if entry["type"] == "brushlabels"]
