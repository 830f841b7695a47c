"""A whole saymask, started as a user starts it, and commands against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.connect import ConnectOptions, Connector
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter, RecordView
from tests.conftest import free_port
from tests.weights import require_weights

PROGRAM = os.environ.get("SAYMASK_LABEL_STUDIO_PROGRAM", "")
SAYMASK = str(Path(sys.executable).parent / "saymask")
# A coarse grid: these tests are about the way, not about the masks, and must not time out where
# two cores do everything at once.
QUICK = {
    "SAYMASK_SYNC_EVERY_S": "0",
    "SAYMASK_ENCODER": "starter",
    "SAYMASK_POINTS_PER_SIDE": "10",
}


@dataclass
class Running:
    process: subprocess.Popen[str]
    data_dir: Path
    studio_url: str
    backend_url: str
    queue_url: str
    output: Path

    @property
    def login(self) -> dict[str, str]:
        return json.loads((self.data_dir / "login.json").read_text("utf-8"))

    def client(self) -> LabelStudioClient:
        return LabelStudioClient(self.studio_url, self.login["token"], timeout_s=120)

    def open_stores(self) -> Stores:
        return Stores(f"sqlite:///{self.data_dir / 'saymask.db'}")

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 400
        while "status page" not in self.output.read_text("utf-8"):
            assert self.process.poll() is None, self.output.read_text("utf-8")
            assert time.monotonic() < deadline, self.output.read_text("utf-8")
            time.sleep(0.3)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(40)

    def start_again(self) -> None:
        """Everything up on the same data, the queue on another port; waits for it."""
        ports = [int(url.rsplit(":", 1)[1]) for url in (self.studio_url, self.backend_url)]
        again = start_up(self.data_dir, [*ports, free_port()])
        self.process, self.output, self.queue_url = again.process, again.output, again.queue_url
        self.wait_until_up()

    @property
    def environment(self) -> dict[str, str]:
        """For commands of ours."""
        port = self.backend_url.rsplit(":", 1)[1]
        return {
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "SAYMASK_DATA_DIR": str(self.data_dir),
            "SAYMASK_DATABASE_URL": f"sqlite:///{self.data_dir / 'saymask.db'}",
            "SAYMASK_LABEL_STUDIO_URL": self.studio_url,
            "SAYMASK_LABEL_STUDIO_API_KEY": self.login["token"],
            "SAYMASK_REDIS_URL": self.queue_url,
            "SAYMASK_PORT": port,
        }

    def saymask(self, *arguments: str, status: int = 0) -> Any:
        """A command of ours against it; its JSON, if it prints any."""
        done = subprocess.run(
            [SAYMASK, *arguments], check=False, text=True, capture_output=True,
            env=self.environment,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout


def start_up(data_dir: Path, ports: list[int], settings: Mapping[str, str] = QUICK) -> Running:
    output = data_dir.parent / f"up-{time.monotonic_ns()}.log"
    arguments = ["up", "--label-studio", PROGRAM, "--data-dir", str(data_dir)]
    arguments += ["--label-studio-port", str(ports[0]), "--port", str(ports[1])]
    arguments += ["--queue-port", str(ports[2])]
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    with output.open("w") as file:
        process = subprocess.Popen(
            [SAYMASK, *arguments], stdout=file, stderr=subprocess.STDOUT, text=True,
            env={**environment, **settings},
        )  # fmt: skip
    return Running(
        process,
        data_dir,
        f"http://127.0.0.1:{ports[0]}",
        f"http://127.0.0.1:{ports[1]}",
        f"redis://127.0.0.1:{ports[2]}/0",
        output,
    )


@contextmanager
def running(root: Path, settings: Mapping[str, str] = QUICK) -> Iterator[Running]:
    """Everything up, and stopped again."""
    if not PROGRAM:
        pytest.skip("no Label Studio: set SAYMASK_LABEL_STUDIO_PROGRAM (make test does)")
    require_weights()
    one = start_up(root / "data", [free_port() for _ in range(3)], settings)
    try:
        one.wait_until_up()
        yield one
    finally:
        one.stop()


def connect(client: LabelStudioClient, project: int, stack: Running) -> None:
    """Attach the backend to a project."""
    wanted = ConnectOptions(stack.backend_url, user="", password="", secret="", may_change=True)
    checks = Connector(client, wanted).attach(project)
    assert [check.state for check in checks] == ["changed", "ok"], checks


def tasks_of(client: LabelStudioClient, project: int = 1) -> list[dict[str, Any]]:
    answer = client.request("GET", "/api/tasks", params={"project": project, "fields": "all"})
    return sorted(answer["tasks"], key=lambda task: task["id"])


def records_of(stack: Running, task: int, count: int) -> list[RecordView]:
    """Wait until a task has this many records."""
    deadline = time.monotonic() + 20
    with closing(stack.open_stores()) as stores:
        while True:
            found = [r for r in stores.records.iterate_records(RecordFilter()) if r.task_id == task]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


def workers_of(stack: Running) -> list[psutil.Process]:
    family = psutil.Process(stack.process.pid).children(recursive=True)
    return [p for p in family if any("saymask-worker" in part for part in p.cmdline())]
