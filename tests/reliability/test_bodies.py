"""Bodies and headers that never end, and large webhooks, sent to a real backend."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backend.records.stores import Stores
from tests.conftest import await_state, free_port, start_backend
from tests.factories import annotation, event, typed

HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {type}\r\n{length}\r\n\r\n"
LENGTH, CHUNKED = "Content-Length: 1000", "Transfer-Encoding: chunked"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, psutil.Process]]:
    """The address and process of a backend that gives bodies two seconds."""
    monkeypatch.setenv("SAYMASK_BODY_TIMEOUT_S", "2")
    monkeypatch.setenv("SAYMASK_DATA_DIR", str(tmp_path))
    port = free_port()
    process = start_backend(f"sqlite:///{tmp_path / 'x.db'}", port)
    yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    process.terminate()
    process.wait(30)


@pytest.fixture
def open_stores(tmp_path: Path, served: Any) -> Iterator[Stores]:
    with closing(Stores(f"sqlite:///{tmp_path / 'x.db'}")) as stores:
        yield stores


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_to_the_end(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize("length", [LENGTH, CHUNKED])
def test_bodies_that_never_end_are_given_up(
    served: tuple[str, psutil.Process], length: str
) -> None:
    url, process = served
    client = httpx.Client(timeout=30)
    client.get(f"{url}/health")
    # The honest client keeps one connection open.
    before = len(process.net_connections())
    with ExitStack() as stack, client:
        connections = [stack.enter_context(closing(connect(url))) for _ in range(100)]
        for number, connection in enumerate(connections):
            path = "/webhook" if number % 2 else "/predict"
            begun = 'a\r\n{"action": \r\n' if length == CHUNKED else '{"action": '
            head = HEAD.format(path=path, type="application/json", length=length)
            connection.sendall((head + begun).encode())
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                for connection in connections[::3]:
                    with suppress(OSError):
                        connection.sendall(b"1\r\nx\r\n" if length == CHUNKED else b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        # Meanwhile others are answered.
        assert client.post(f"{url}/webhook", json={"action": "X"}).status_code == 200
        answers = [read_to_the_end(connection) for connection in connections]
        stop.set()
        dripping.join()
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"SAYMASK_BODY_TIMEOUT_S" in answer
        await_state(lambda: len(process.net_connections()) <= before, "connections are kept")
        assert set(client.get(f"{url}/ready").json()["events"]) == {"X"}


@pytest.mark.parametrize(
    ("path", "type_", "status"),
    [("/webhook", "text/plain", 415), ("/health", "application/json", 405), ("/no", "x", 404)],
)
def test_an_answer_before_the_end_of_the_body_ends_the_connection(
    served: tuple[str, psutil.Process], path: str, type_: str, status: int
) -> None:
    with closing(connect(served[0])) as connection:
        connection.sendall(HEAD.format(path=path, type=type_, length=LENGTH).encode())
        answer = read_to_the_end(connection)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("begun", [b"", b"POST /webh", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Y: "])
@pytest.mark.parametrize("earlier", [0, 1])
def test_headers_that_never_end_are_given_up(
    served: tuple[str, psutil.Process], begun: bytes, earlier: int
) -> None:
    with closing(connect(served[0])) as connection:
        for _ in range(earlier):
            connection.sendall(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b'{"status":"UP"}' in connection.recv(65536)
        stop = threading.Event()
        connection.sendall(begun)

        def drip() -> None:
            while begun and not stop.wait(0.2):
                with suppress(OSError):
                    connection.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert read_to_the_end(connection) == b""
        finally:
            stop.set()
            dripping.join()


def test_a_connection_is_used_again_after_a_whole_body(
    served: tuple[str, psutil.Process],
) -> None:
    with closing(connect(served[0])) as connection:
        for _ in range(3):
            body = b'{"action": "X"}'
            length = f"Content-Length: {len(body)}"
            head = HEAD.format(path="/webhook", type="application/json", length=length)
            connection.sendall(head.encode() + body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def large_webhook(number: int, megabytes: int) -> dict[str, Any]:
    body = annotation(number, [typed("the cat")], drafts="x" * (megabytes * 1_000_000))
    return event(number, body)


def test_large_webhooks_neither_fill_the_memory_nor_the_database(
    served: tuple[str, psutil.Process], open_stores: Stores, tmp_path: Path
) -> None:
    url, process = served
    at_start_mb = process.memory_info().rss / 1e6
    peak_mb = 0.0

    def send(number: int, megabytes: int) -> int:
        body = large_webhook(number, megabytes)
        with suppress(httpx.HTTPError):
            return httpx.post(f"{url}/webhook", json=body, timeout=60).status_code
        return 0

    with ThreadPoolExecutor(25) as pool:
        oversized = [pool.submit(send, number, 25) for number in range(1, 26)]
        honest = [send(100 + number, 0) for number in range(20)]
        assert honest == [200] * 20
        assert {future.result() for future in oversized} <= {413, 0}
        accepted = [pool.submit(send, 200 + number, 10) for number in range(20)]
        while not all(future.done() for future in accepted):
            peak_mb = max(peak_mb, process.memory_info().rss / 1e6)
            time.sleep(0.05)
        assert {future.result() for future in accepted} == {200}
    states = open_stores.events.count_events_by_state
    await_state(lambda: "waiting" not in states(), "not all are processed", 60)
    assert states() == {"understood": 40, "problem": 25}
    assert open_stores.events.count_events_by_action()["WEBHOOK_TOO_LARGE"] == 25
    problems = open_stores.events.list_problems()
    assert all("saymask sync" in problem.problem for problem in problems)
    # 450 MB of bodies were sent in all.
    assert peak_mb - at_start_mb < 300
    assert {row["body"] for row in open_stores.events.list_events()} == {None}
    with open_stores.database.engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("freelist_count", "page_count")
        )
    assert (size - free) * 4096 < 2_000_000, "what is kept of them"
