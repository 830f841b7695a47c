"""Label Studio below a path, under another name, behind a redirect; data URIs."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import time
from contextlib import closing, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from saymask import __version__
from saymask.errors import ConfigError, ImageError, ImageTooLarge, ImageUnreadable, SaymaskError
from saymask_backend.config import load_settings
from saymask_backend.label_studio import auth as auth_module
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.guarded_http import get_json
from saymask_backend.label_studio.images import ImageFetcher, decode_data_uri, is_data_uri
from saymask_backend.label_studio.rest import AnswerTooLarge
from tests.backend.http import JPEG, KEY, Handler, LocalServer
from tests.backend.test_fetching import serve_bytes

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbiI6InJlZnJlc2gifQ.c2lnbmF0dXJl"
Asked = list[tuple[str, str | None, str | None]]


def studio_at(path: str, asked: Asked) -> type[BaseHTTPRequestHandler]:
    """A Label Studio that knows only what is below a path."""

    class Studio(Handler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"], self.headers["User-Agent"]))
            if not self.path.startswith(f"{path}/"):
                self.send_error(404)
            elif self.headers["Authorization"] != f"Token {KEY}":
                self.send_error(401)
            elif self.path.startswith(f"{path}/api/version"):
                self.send(b'{"release": "1.23.2"}')
            elif self.path.startswith(f"{path}/api/import/file-upload/"):
                self.send(b'{"file": "upload/3/new.jpg"}')
            else:
                self.send(JPEG + self.path.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send(b'{"file_upload_ids": [8]}')

    return Studio


def redirect_to(target: str, status: int = 301, body: bytes = b"") -> type[BaseHTTPRequestHandler]:
    class Redirect(Handler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send(body, status, {"Location": target.format(path=self.path)})

        do_GET = do_POST = answer

    return Redirect


def build_fetcher(base_url: str, key: str = KEY, public_url: str = "") -> ImageFetcher:
    return ImageFetcher(base_url, key, (), 10**6, 5.0, public_url)


@pytest.mark.parametrize("path", ["", "/labelstudio", "/tools/label/studio"])
def test_photos_of_a_label_studio_below_a_path(path: str, tmp_path: Path) -> None:
    asked: Asked = []
    with LocalServer(studio_at(path, asked)) as server:
        base_url = server.url + path
        fetcher = build_fetcher(base_url)
        references = [
            f"{path}/data/upload/1/cat.jpg", "/data/upload/1/cat.jpg",
            f"{base_url}/data/upload/1/cat.jpg", f" {base_url}/data/local-files/?d=a/b..jpg\n",
            f"{path}/tasks/3/resolve/?fileuri=eA==", f"{path}/data/upload/1/two..dots.jpg",
        ]  # fmt: skip
        for reference in references:
            assert fetcher.fetch(reference, 1).startswith(JPEG)
        assert all(at.startswith(f"{path}/") for at, *_ in asked)
        for odd in (
            "/api/users",
            f"{path}/api/users",
            f"{path}/data/../api/users",
            f"{path}x/data/y",
        ):
            with pytest.raises(SaymaskError):
                fetcher.fetch(base_url + odd, 1)
        photo = tmp_path / "new.jpg"
        photo.write_bytes(JPEG)
        with closing(LabelStudioClient(base_url, KEY)) as client:
            assert client.get_release() == "1.23.2"
            # What the browser asks for, so that an imported photo is visible.
            assert client.upload_image(3, photo, photo.name) == f"{path}/data/upload/3/new.jpg"


def test_photos_under_the_name_that_people_use(tmp_path: Path) -> None:
    asked: Asked = []
    public = "https://studio.example/labelstudio"
    address = f"{public}/data/local-files/?d=a/cat%20%C3%A4.jpg"
    with LocalServer(studio_at("", asked)) as server:
        fetcher = build_fetcher(server.url, public_url=public)
        assert fetcher.fetch(address, 1).startswith(JPEG)
        fetched = ("/data/local-files/?d=a/cat%20%C3%A4.jpg", f"Token {KEY}")
        assert [(path, key) for path, key, _ in asked] == [fetched]
        assert fetcher.fetch("/labelstudio/data/upload/1/cat.jpg", 1)
        photo = tmp_path / "new.jpg"
        photo.write_bytes(JPEG)
        with closing(LabelStudioClient(server.url, KEY, public_url=public)) as client:
            assert client.upload_image(3, photo, photo.name) == "/labelstudio/data/upload/3/new.jpg"
        # Another name, another path and the API are not Label Studio's photos.
        for other in (
            "https://studio.example/data/upload/1/x.jpg", f"{public}/api/users",
            f"{public}/data/../api/users", "https://studio.example.evil.invalid/labelstudio/data/x",
        ):  # fmt: skip
            with pytest.raises(SaymaskError):
                fetcher.fetch(other, 1)
        assert len(asked) == 3


def test_an_unknown_name_of_label_studio_says_what_to_set() -> None:
    with LocalServer(studio_at("", [])) as server:
        fetcher = build_fetcher(server.url)
        for address in (
            "http://no-such-studio.invalid/data/upload/1/x.jpg",
            "http://127.0.0.1:1/labelstudio/data/upload/1/x.jpg",
            f"{server.url}/labelstudio/data/upload/1/x.jpg",
        ):
            with pytest.raises(ImageError, match="SAYMASK_LABEL_STUDIO_PUBLIC_URL"):
                fetcher.fetch(address, 1)
        with pytest.raises(ImageError) as caught:
            fetcher.fetch("http://127.0.0.1:1/x.jpg", 1)
        assert "PUBLIC_URL" not in str(caught.value)


@pytest.mark.parametrize("key", [KEY, JWT])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("path", ["", "/labelstudio"])
def test_a_redirect_names_the_address_to_use(key: str, status: int, path: str) -> None:
    with (
        LocalServer(studio_at("", [])) as new,
        LocalServer(redirect_to(new.url + path + "{path}", status, b"<html>moved</html>")) as old,
        closing(LabelStudioClient(old.url, key)) as client,
    ):
        address = f"SAYMASK_LABEL_STUDIO_URL={new.url}{path}$"
        with pytest.raises(LabelStudioError, match=address):
            client.get_release()
        with pytest.raises(LabelStudioError, match=address):
            client.create_prediction(1, {})
        with pytest.raises(SaymaskError, match=address):
            build_fetcher(old.url, key).fetch("/data/upload/1/cat.jpg", 1)
        with pytest.raises(httpx.HTTPError, match=f"redirects to {new.url}{path};"):
            get_json(f"{old.url}/ready", None, 5.0)


@pytest.mark.parametrize("target", ["/user/login/?next={path}", "http://[", "ftp://x{path}"])
def test_a_redirect_to_something_else_is_told_in_words(target: str) -> None:
    with (
        LocalServer(redirect_to(target, 302)) as server,
        closing(LabelStudioClient(server.url, KEY)) as client,
        pytest.raises(LabelStudioError, match="SAYMASK_LABEL_STUDIO_URL"),
    ):
        client.get_release()


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"null", b"3"])
def test_answers_of_another_program_are_told_in_words(body: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    for port in serve_bytes(answer):
        with closing(LabelStudioClient(f"http://127.0.0.1:{port}", KEY)) as client:
            for call in (client.get_release, client.get_user_name):
                with pytest.raises(LabelStudioError):
                    call()


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_label_studio_that_drips_is_given_up_at_the_deadline(part: str) -> None:
    def drip(connection: socket.socket) -> None:
        if part == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with suppress(OSError):
            for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
                connection.sendall(bytes([letter]))
                time.sleep(0.1)

    for port in serve_bytes(drip):
        for key in (KEY, JWT):
            with (
                closing(
                    LabelStudioClient(f"http://127.0.0.1:{port}", key, timeout_s=1.0)
                ) as client,
                pytest.raises(LabelStudioError, match=r"did not answer .* within 1 s"),
            ):
                client.get_release()
        with pytest.raises(httpx.TimeoutException):
            get_json(f"http://127.0.0.1:{port}/ready", None, 1.0)


def test_servers_are_told_who_asks() -> None:
    asked: Asked = []
    with LocalServer(studio_at("", asked)) as server:
        build_fetcher(server.url).fetch("/data/upload/1/cat.jpg", 1)
        with closing(LabelStudioClient(server.url, KEY)) as client:
            client.get_release()
    assert {agent for *_, agent in asked} == {f"saymask/{__version__}"}


@pytest.mark.parametrize(
    "name", ["key.png", "Fotos/Straße 7?.png", "写真/猫.jpg", "~~~>>>???ÿÿÿ.png", "🐶 &=+#%.jpg"]
)
def test_storage_addresses_with_any_name(name: str) -> None:
    asked: Asked = []
    reference = f"s3://bucket/{name}"
    with LocalServer(studio_at("", asked)) as server:
        build_fetcher(server.url).fetch(reference, 7)
    ((at, *_),) = asked
    (encoded,) = parse_qs(urlsplit(at).query)["fileuri"]
    # As Label Studio decodes it.
    assert base64.urlsafe_b64decode(encoded.encode()).decode() == reference


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("uri", "data"),
    [
        (f"data:image/jpeg;base64,{encode(JPEG + b'1')}", JPEG + b"1"),
        (f"data:image/jpeg;base64,{encode(JPEG + b'12').rstrip('=')}", JPEG + b"12"),
        (f"DATA:IMAGE/JPEG;BASE64,{encode(JPEG)}", JPEG),
        (f"data:;base64,{encode(JPEG)}", JPEG),
        (f"data:image/jpeg;name=a.jpg;charset=x; base64 ,{encode(JPEG)}", JPEG),
        (f"data:image/jpeg;base64,{encode(JPEG + b'123')[:4]}\r\n {encode(JPEG + b'123')[4:]}\n",
         JPEG + b"123"),
        (f"data:image/jpeg;base64,{encode(JPEG + b'12').replace('=', '%3D')}", JPEG + b"12"),
        (f"data:image/jpeg;base64,{encode(b'%c%c' % (251, 255)).replace('/', '%2F')}", b"\xfb\xff"),
        ("data:image/jpeg,%FF%D8%FFplain", JPEG + b"plain"),
        ("data:,%FF%D8%FF", JPEG),
        ("data:image/jpeg;base64x,plain", b"plain"),
        ("data:,plain#fragment", b"plain"),
    ],
)  # fmt: skip
def test_data_uris_are_read_as_browsers_read_them(uri: str, data: bytes) -> None:
    assert is_data_uri(uri)
    assert decode_data_uri(uri, 1000) == data


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,@@@", "data:image/png;base64,AAAAA", "data:image/png;base64,A===",
        "data:image/png;base64", "data:", "data:;base64,AA=A", "data:;base64,__8_",
    ],
)  # fmt: skip
def test_damaged_data_uris(uri: str) -> None:
    with pytest.raises(ImageUnreadable, match="damaged"):
        decode_data_uri(uri, 1000)


@pytest.mark.parametrize("uri", ["data:;base64," + "A" * 2000, "data:," + "x" * 1001])
def test_large_data_uris(uri: str) -> None:
    assert decode_data_uri(uri, 5000)
    for limit in (1000, 1):
        with pytest.raises(ImageTooLarge):
            decode_data_uri(uri, limit)


def test_a_data_uri_is_fetched() -> None:
    assert build_fetcher("").fetch(f"\n Data:;base64,{encode(JPEG)} ", 1) == JPEG


@pytest.mark.parametrize(
    "address",
    [
        "studio:8080", "http://", "http://host:port", "ftp://host", "http://host/?a=b",
        "http://h h/", "http://studio..example", f"http://{'a' * 64}.example",
    ],
)  # fmt: skip
def test_addresses_of_servers_are_checked(address: str) -> None:
    for name in ("label_studio_url", "label_studio_public_url"):
        with pytest.raises(ConfigError, match=f"SAYMASK_{name.upper()}: .*must be http://HOST"):
            load_settings(**{name: address})
    assert load_settings(label_studio_url=" http://host/path/ \n").label_studio_url == (
        "http://host/path"
    )


def test_an_answer_that_unpacks_to_gigabytes_is_given_up() -> None:
    packed = gzip.compress(b" " * 50_000_000)

    def answer(connection: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + packed)

    for port in serve_bytes(answer):
        with (
            closing(LabelStudioClient(f"http://127.0.0.1:{port}", KEY)) as client,
            pytest.raises(AnswerTooLarge, match="larger than 1 MB"),
        ):
            client.request("GET", "/api/version", max_bytes=10**6)


@pytest.mark.parametrize("date", ["Mon, 30 Nov 2026 18:28:09 -0000", "Mon, 30 Nov 2026 18:28:09"])
@pytest.mark.parametrize("wait", ["-1", "nan", "-inf", "soon", ""])
def test_odd_headers_of_a_busy_label_studio(date: str, wait: str) -> None:
    statuses = ["503 Busy", "200 OK"]
    body = b'{"release": "1.23.2"}'

    def answer(connection: socket.socket) -> None:
        head = f"HTTP/1.1 {statuses.pop(0)}\r\nDate: {date}\r\nRetry-After: {wait}"
        length = f"\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + length).encode() + body)

    for port in serve_bytes(answer):
        with closing(LabelStudioClient(f"http://127.0.0.1:{port}", KEY)) as client:
            assert client.get_release() == "1.23.2"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id": "x"}', b"[" * 100_000])
def test_a_creation_that_is_answered_oddly_is_told_in_words(body: bytes) -> None:
    answers = [b"[]", body]

    def answer(connection: socket.socket) -> None:
        content = answers.pop(0)
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)

    for port in serve_bytes(answer):
        with (
            closing(LabelStudioClient(f"http://127.0.0.1:{port}", KEY)) as client,
            pytest.raises(LabelStudioError, match="not valid"),
        ):
            client.find_or_create_project("Cats")


@pytest.mark.parametrize("ahead_s", [-3600, 0, 3600])
def test_a_token_is_exchanged_by_label_studio_s_clock(
    ahead_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is valid for five minutes, whatever our own clock says."""
    exchanged: list[str] = []
    passed_s = 0.0
    ours = SimpleNamespace(
        time=lambda: time.time() + passed_s, monotonic=lambda: time.monotonic() + passed_s
    )
    monkeypatch.setattr(auth_module, "time", ours)

    class Studio(Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            claims = json.dumps({"exp": time.time() + ahead_s + 300}).encode()
            exchanged.append(f"x.{base64.urlsafe_b64encode(claims).decode()}.{len(exchanged)}")
            self.send(json.dumps({"access": exchanged[-1]}).encode())

        def do_GET(self) -> None:
            self.send(json.dumps({"release": self.headers["Authorization"]}).encode())

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate((timestamp or time.time()) + ahead_s, usegmt=True)

    with LocalServer(Studio) as server, closing(LabelStudioClient(server.url, JWT)) as client:
        assert client.get_release() == client.get_release() == f"Bearer {exchanged[0]}"
        passed_s = 280.0
        assert client.get_release() == f"Bearer {exchanged[1]}"
    assert len(exchanged) == 2
