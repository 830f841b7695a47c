"""Bodies and headers that never end, and large webhooks, sent to a real backend."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from saymask_backend.records.stores import Stores
from tests.conftest import await_state, free_port, start_backend
from tests.factories import annotation, event, typed

HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {type}\r\n{length}\r\n\r\n"
LENGTH, CHUNKED = "Content-Length: 1000", "Transfer-Encoding: chunked"


Served = tuple[str, psutil.Process]


@contextmanager
def serve(database: str, seconds: str) -> Iterator[Served]:
    """The address and process of a backend with this deadline for bodies."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAYMASK_BODY_TIMEOUT_S", seconds)
        process = start_backend(database, port)
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(f"sqlite:///{tmp_path_factory.mktemp('bodies') / 'x.db'}", "2") as served:
        yield served


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_answer(connection: socket.socket) -> bytes:
    """One answer whose body is a JSON object."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65536)
    return received


def read_to_the_end(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize("length", [LENGTH, CHUNKED])
def test_bodies_that_never_end_are_given_up(served: Served, length: str) -> None:
    url, process = served
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=30))
        client.get(f"{url}/health")
        # The honest client keeps one connection open.
        before = len(process.net_connections())
        connections = [stack.enter_context(closing(connect(url))) for _ in range(100)]
        for number, connection in enumerate(connections):
            path = "/webhook" if number % 2 else "/predict"
            begun = 'b\r\n{"action": \r\n' if length == CHUNKED else '{"action": '
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
        assert set(client.get(f"{url}/ready").json()["events"]) <= {"X"}


@pytest.mark.parametrize(
    ("path", "type_", "status"),
    [("/webhook", "text/plain", 415), ("/health", "application/json", 405), ("/no", "x", 404)],
)
def test_an_answer_before_the_end_of_the_body_ends_the_connection(
    served: Served, path: str, type_: str, status: int
) -> None:
    with closing(connect(served[0])) as connection:
        connection.sendall(HEAD.format(path=path, type=type_, length=LENGTH).encode())
        answer = read_to_the_end(connection)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer.lower()


def test_headers_that_never_end_are_given_up(served: Served) -> None:
    begun = (b"", b"POST /webh", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Y: ")
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(served[0]))) for _ in range(6)]
        for connection in connections[3:]:
            connection.sendall(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert read_answer(connection).endswith(b'{"status":"UP"}')
        for connection, head in zip(connections, begun * 2, strict=True):
            connection.sendall(head)
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                for connection, head in zip(connections, begun * 2, strict=True):
                    with suppress(OSError):
                        connection.sendall(b"x" if head else b"")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert [read_to_the_end(connection) for connection in connections] == [b""] * 6
        finally:
            stop.set()
            dripping.join()


def test_a_connection_is_used_again_after_a_whole_body(
    served: Served,
) -> None:
    with closing(connect(served[0])) as connection:
        for _ in range(3):
            body = b'{"action": "X"}'
            length = f"Content-Length: {len(body)}"
            head = HEAD.format(path="/webhook", type="application/json", length=length)
            connection.sendall(head.encode() + body)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_large_webhooks_neither_fill_the_memory_nor_the_database(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'x.db'}"
    with serve(database, "120") as (url, process), closing(Stores(database)) as stores:
        grown_mb = send_large_webhooks(url, process)
        states = stores.events.count_events_by_state
        await_state(lambda: "waiting" not in states(), "not all are processed", 60)
        assert states() == {"understood": 30, "problem": 25}
        assert stores.events.count_events_by_action()["WEBHOOK_TOO_LARGE"] == 25
        assert all("saymask sync" in found.problem for found in stores.events.list_problems())
        assert {row["body"] for row in stores.events.list_events()} == {None}
        with stores.database.engine.connect() as connection:
            free, pages = (
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("freelist_count", "page_count")
            )
    # 725 MB of bodies were sent.
    assert grown_mb < 300
    assert (pages - free) * 4096 < 2_000_000, "what is kept of them"


def send_large_webhooks(url: str, process: psutil.Process) -> float:
    """Send 25 too large ones, 20 small and 10 large ones; returns how far the memory grew, MB."""
    at_start = process.memory_info().rss
    peak = 0

    def send(number: int, megabytes: int) -> int:
        more = {"id": "more", "type": "video", "value": {"text": "x" * (megabytes * 1_000_000)}}
        body = annotation(number, [typed("the cat"), more])
        with suppress(httpx.HTTPError):
            answer = httpx.post(f"{url}/webhook", json=event(number, body), timeout=120)
            return answer.status_code
        return 0

    with ThreadPoolExecutor(10) as pool:
        oversized = [pool.submit(send, number, 25) for number in range(1, 26)]
        assert [send(100 + number, 0) for number in range(20)] == [200] * 20
        accepted = [pool.submit(send, 200 + number, 10) for number in range(10)]
        while not all(future.done() for future in accepted):
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.05)
        # The connection of one that still sends may be closed before it reads the answer.
        assert {future.result() for future in oversized} <= {413, 0}
        assert {future.result() for future in accepted} == {200}
    return (peak - at_start) / 1e6
