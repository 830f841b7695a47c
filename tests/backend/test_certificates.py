"""Label Studio behind a self-signed certificate or a proxy."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from saymask.errors import ConfigError, SaymaskError
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.client import LabelStudioClient
from tests.backend.http import KEY, Handler, LocalServer
from tests.backend.test_addresses import build_fetcher, studio_at


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for this machine."""
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(folder / "key.pem"), "-out", str(folder / "own.pem"),
        "-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return folder / "own.pem"


@pytest.fixture
def secure_url(certificate: Path) -> Iterator[str]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.parent / "key.pem")
    with LocalServer(studio_at("", []), tls) as server:
        yield server.url


def ask(url: str) -> list[Callable[[], object]]:
    """The API and the photos of a Label Studio, and the state of a backend."""
    client = LabelStudioClient(url, KEY)
    fetcher = build_fetcher(url)
    return [client.get_release, lambda: fetcher.fetch("/data/upload/1/cat.jpg", 1)]


def test_a_certificate_of_one_s_own_is_named(secure_url: str) -> None:
    for call in ask(secure_url):
        with pytest.raises(SaymaskError, match=r"certificate verify failed.*SSL_CERT_FILE"):
            call()


def test_a_certificate_of_one_s_own_is_trusted_everywhere(
    secure_url: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        for call in ask(secure_url):
            assert call()
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(certificate)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(certificate.read_bytes())
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    for call in ask(secure_url):
        assert call()


def test_certificates_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "missing.pem", tmp_path / "odd.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        for build in (lambda: LabelStudioClient("http://x", KEY), lambda: build_fetcher("")):
            with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
                build()
        (tmp_path / "odd.pem").write_text("no certificate")


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "ALL_PROXY"])
def test_label_studio_behind_a_proxy(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    class Proxy(Handler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Proxy-Authorization"]))
            self.send(json.dumps({"release": "1.23.2"}).encode())

    for name in ("http_proxy", "all_proxy", "no_proxy", "NO_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with LocalServer(Proxy) as server:
        monkeypatch.setenv(proxy, f"http://user:word@127.0.0.1:{server.port}")
        with closing(LabelStudioClient("http://studio.invalid:8080", KEY)) as client:
            assert client.get_release() == "1.23.2"
        login = base64.b64encode(b"user:word").decode()
        assert seen == [("http://studio.invalid:8080/api/version", f"Basic {login}")]
        monkeypatch.setenv("NO_PROXY", "studio.invalid")
        with (
            closing(LabelStudioClient("http://studio.invalid:8080", KEY)) as client,
            pytest.raises(LabelStudioError, match="cannot be reached"),
        ):
            client.get_release()


def test_a_proxy_that_is_not_http_is_refused_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("all_proxy", raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080")
    with pytest.raises(ConfigError, match="HTTP proxy cannot be used") as caught:
        LabelStudioClient("http://studio.invalid:8080", KEY)
    assert "secret" not in str(caught.value)
