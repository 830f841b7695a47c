"""The backend over HTTP, with an image server instead of Label Studio."""

from __future__ import annotations

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conftest import load_capture

# What a JPEG begins with; nobody here decodes the rest.
JPEG = b"\xff\xd8\xff"
JSON_TYPE = {"Content-Type": "application/json"}
KEY = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers without a line on stderr for each request."""

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with a whole body."""
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class LocalServer:
    """A real HTTP server on this machine; stopped at the end of a ``with`` block."""

    def __init__(
        self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> LocalServer:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class ImageServer:
    """Serves images as Label Studio does: with a token only. Remembers the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.next_tasks: list[dict[str, Any]] = []
        outer = self

        class Images(Handler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                if self.path.startswith("/data/slow"):
                    time.sleep(5)
                if self.path.startswith("/data/redirect"):
                    self.send(b"", 302, {"Location": "http://127.0.0.1:1/secret"})
                    return
                if self.path.startswith("/data/missing"):
                    self.send_error(404)
                    return
                if self.headers.get("Authorization") != f"Token {KEY}":
                    self.send_error(401)
                    return
                if self.path.startswith("/api/tasks"):
                    self.send(json.dumps({"tasks": outer.next_tasks}).encode())
                    return
                body = b"" if self.path.startswith("/data/empty") else JPEG + self.path.encode()
                if self.path.startswith("/data/large"):
                    body = JPEG + b"x" * 3_000_000
                self.send(body)

        self._server = LocalServer(Images)
        self.url = self._server.url
        self._server.__enter__()

    @property
    def fetched(self) -> list[tuple[str, str | None]]:
        return [request for request in self.asked if request[0].startswith("/data/")]

    def stop(self) -> None:
        self._server.__exit__()


def typed(expression: Any, photo: str = "/data/upload/1/cat.png", task: int = 5) -> dict[str, Any]:
    """The recorded interactive request with another expression, photo and task."""
    body = load_capture("interactive_predict_request")
    body["tasks"][0]["id"] = task
    body["tasks"][0]["data"]["image"] = photo
    body["params"]["context"]["result"][0]["value"]["text"] = [expression]
    return body
