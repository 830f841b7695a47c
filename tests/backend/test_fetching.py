"""Where images come from, and where the token goes."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from fastapi.testclient import TestClient

from saymask.errors import ImageForbidden, ImageUnreachable, ImageUnreadable, SaymaskError
from saymask.image_files import strip_secrets
from saymask_backend.label_studio.guarded_http import is_public
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.records.stores import Stores
from tests.backend.http import KEY, ImageServer, typed


@pytest.mark.parametrize(
    ("photo", "status", "cause"),
    [
        ("/data/missing.png", 502, "404"),
        ("/data/empty.png", 422, "empty"),
        ("/data/large.png", 413, "larger than 2 MB"),
        ("/data/slow.png", 502, "longer than"),
        ("/data/redirect.png", 403, "private address"),
        ("http://127.0.0.1:1/x.png", 403, "private address"),
        ("http://localhost:1/x.png", 403, "private address"),
        ("http://[::1]/x.png", 403, "private address"),
        ("http://169.254.169.254/latest", 403, "private address"),
        ("http://no-such-host.invalid/x.png", 502, "not known"),
        ("ftp://host/x.png", 502, "not an address"),
        ("http://[bad/x.png", 502, "not a valid"),
        ("http://a..b/x.png", 502, ""),
        ("http://host:99999999/x.png", 502, "not a valid"),
        ("http://224.0.0.1/x.png", 403, "private address"),
        ("http://[64:ff9b::7f00:1]/x.png", 403, "private address"),
        ("/api/users", 502, "not an address"),
        ("/data/../api/users", 502, "not an address"),
        ("/data/%2e%2e/api/users", 502, "not an address"),
        ("data:image/png;base64,@@@", 422, "damaged"),
    ],
)
def test_photos_that_cannot_be_had(
    build_client: Callable[..., TestClient], app_stores: Stores, photo: str, status: int, cause: str
) -> None:
    answer = build_client().post("/predict", json=typed("the cat", photo))
    assert answer.status_code == status, answer.text
    assert cause in answer.json()["cause"]
    (request,) = app_stores.requests.list_recent()
    assert request.status == "failed"
    assert cause in (request.error_text or "")


def test_the_token_goes_to_label_studio_only(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    other = ImageServer()
    client = build_client(photo_private_hosts="127.0.0.1")
    answer = client.post("/predict", json=typed("the cat", f"{other.url}/x.png"))
    other.stop()
    assert answer.status_code == 403
    assert other.asked == [("/x.png", None)]


def test_cloud_photos_go_through_label_studio(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], photos: ImageServer
) -> None:
    start_worker()
    answer = build_client().post("/predict", json=typed("the cat", "s3://bucket/key.png", task=9))
    assert answer.status_code == 200
    encoded = base64.b64encode(b"s3://bucket/key.png").decode()
    assert photos.asked[0][0] == f"/tasks/9/resolve/?fileuri={encoded}"


def serve_bytes(answer: Callable[[Any], None]) -> Iterator[int]:
    """A server that answers every connection with what a function writes to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    stop.set()
    listener.close()


def fetch_from(port: int, timeout_s: float = 1.0, max_bytes: int = 10**6) -> bytes:
    fetcher = ImageFetcher("", "", ("127.0.0.1",), max_bytes, timeout_s)
    return fetcher.fetch(f"http://127.0.0.1:{port}/x.jpg", 1)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_holds_no_thread(part: str) -> None:
    def drip(connection: socket.socket) -> None:
        if part == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with suppress(OSError):
            for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 300:
                connection.sendall(bytes([letter]))
                time.sleep(0.1)

    for port in serve_bytes(drip):
        started = time.monotonic()
        with pytest.raises(ImageUnreachable, match="longer than"):
            fetch_from(port)
        # Thirty seconds of dripping, one second allowed.
        assert time.monotonic() - started < 10


def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(gzip.compress(b"\xff\xd8\xff" + bytes(300_000_000)))

    def answer(connection: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: {len(bomb)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + bomb)

    for port in serve_bytes(answer):
        with pytest.raises(ImageUnreachable, match="compressed"):
            fetch_from(port)


def test_what_is_no_image_is_not_taken() -> None:
    def answer(connection: socket.socket) -> None:
        body = b'{"email": "admin@example.org"}'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + body)

    for port in serve_bytes(answer):
        with pytest.raises(ImageUnreadable, match="not an image"):
            fetch_from(port)


@pytest.mark.parametrize(
    "path",
    [
        "/api/users", "/api/current-user/whoami", "/data/../api/users", "/data/%2e%2e/api/users",
        "/data/%252e%252e/api/users", "/", "/user/login", "/tasks/1/resolved/", "//data/x",
    ],
)  # fmt: skip
def test_label_studios_api_is_not_read_as_an_image(photos: ImageServer, path: str) -> None:
    fetcher = ImageFetcher(photos.url, KEY, (), 10**6, 2.0)
    for reference in (photos.url + path, photos.url.replace("http", "HTTP") + path):
        with pytest.raises(SaymaskError):
            fetcher.fetch(reference, 1)
    assert photos.asked == []
    assert fetcher.fetch(f"{photos.url}/data/upload/1/x.png", 1)


def test_a_name_that_changes_its_address_gains_nothing(
    photos: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public when it is checked, this machine when it is connected to (DNS rebinding)."""
    port = int(photos.url.rsplit(":", 1)[1])
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebind(host: Any, *rest: Any, **named: Any) -> Any:
        if host != "rebinding.example":
            return resolve(host, *rest, **named)
        asked.append(host)
        return resolve("192.0.2.1" if len(asked) == 1 else "127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    monkeypatch.setattr(
        "saymask_backend.label_studio.guarded_http.is_public", lambda a: a == "192.0.2.1"
    )
    fetcher = ImageFetcher("", "", (), 10**6, 1.0)
    with pytest.raises(ImageUnreachable):
        fetcher.fetch(f"http://rebinding.example:{port}/data/x.png", 1)
    with pytest.raises(ImageForbidden):
        fetcher.fetch(f"http://rebinding.example:{port}/data/x.png", 1)
    assert photos.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "::ffff:127.0.0.1",
        "::127.0.0.1", "::7f00:1", "fe80::1%eth0", "fc00::1", "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001::7f00:1", "2001:db8::1", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("https://u:p@host:8443/a/x.jpg?X-Amz-Signature=1#f", "https://host:8443/a/x.jpg"),
        ("http://[bad/u:p@x?sig=1", "x"),
        ("/data/local-files/?d=a/x.jpg", "/data/local-files/?d=a/x.jpg"),
        ("s3://bucket/x.jpg", "s3://bucket/x.jpg"),
    ],
)
def test_secrets_in_addresses_are_not_shown(reference: str, shown: str) -> None:
    assert strip_secrets(reference) == shown


def test_a_name_that_the_resolver_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system's resolver knows no deadline."""
    answered = threading.Event()
    resolve = socket.getaddrinfo

    def hang(host: str, *rest: Any, **named: Any) -> Any:
        answered.wait(60)
        return resolve("127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    fetcher = ImageFetcher("", "", (), 10**6, timeout_s=0.2)
    with pytest.raises(ImageUnreachable, match=r"took longer than 0\.2 s"):
        fetcher.fetch("http://photos.example/x.png", 1)
    answered.set()
