"""HTTP for untrusted addresses, safe against SSRF, and with a total deadline for all requests."""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from saymask import __version__
from saymask.errors import ConfigError, ImageForbidden
from saymask.redaction import explain

USER_AGENT = f"saymask/{__version__}"
CERTIFICATE_CURE = (
    "If the server has a certificate of your own authority, set SSL_CERT_FILE to the file of the"
    " authority's certificate (PEM) for saymask too, or add it to the system's store."
)
# Addresses outside these are special; inside them, 6to4 embeds an IPv4 address.
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_SPECIAL_IPV6 = tuple(map(ipaddress.ip_network, ("2001::/23", "2002::/16", "2001:db8::/32")))
# httpx's own defaults.
_MAX_CONNECTIONS = 100
_KEEPALIVE_S = 5.0

# Of ``time.monotonic()``; requests are sent and read in the thread that makes them.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)

IsTrusted = Callable[[str, int], bool]
"""Whether a host and port may have any address."""


def build_tls() -> ssl.SSLContext:
    """Build what decides which servers are trusted, the same for all connections.

    Trusted are the public authorities, the system's store, and what ``SSL_CERT_FILE`` and
    ``SSL_CERT_DIR`` name.

    Raises:
        ConfigError: one of these is not a file or folder of certificates.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if file:
            context.load_verify_locations(cafile=file)
        if folder:
            context.load_verify_locations(capath=folder)
    except OSError as error:
        raise ConfigError(
            f"The certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {explain(error)}.",
            "Name a PEM file, or a folder that `openssl rehash` has prepared.",
        ) from error
    return context


def explain_failure(error: Exception, cure: str) -> tuple[str, str]:
    """Return the reason of a failed connection, and its cure, unless it is the certificate's."""
    reason = explain(error)
    return reason, CERTIFICATE_CURE if "certificate" in reason.lower() else cure


def find_new_address(response: httpx.Response, base_url: str, path: str) -> str | None:
    """Return the base address to which a server has moved; None if unknown.

    ``response`` answers a call of ``path``, which begins with a slash, below ``base_url``.
    """
    if not response.has_redirect_location:
        return None
    try:
        target = urlsplit(urljoin(base_url + path, response.headers["location"]))
        if target.scheme not in ("http", "https") or not target.hostname:
            return None
    except ValueError:
        return None
    target_path, asked = target.path.rstrip("/"), urlsplit(path).path.rstrip("/")
    if not target_path.endswith(asked):
        return None
    netloc = target.netloc.rpartition("@")[2]
    address = urlunsplit((target.scheme, netloc, target_path.removesuffix(asked), "", ""))
    return address if address != base_url else None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the total time of this thread's requests, seconds; not the time between bytes."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the open internet."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        if parsed not in _GLOBAL_IPV6 or any(parsed in network for network in _SPECIAL_IPV6):
            return False
    return parsed.is_global and not parsed.is_multicast


class DeadlineTransport(httpx.BaseTransport):
    """Sends requests within the ``time_limit`` of the thread.

    ``is_trusted`` is for untrusted addresses: a name is then resolved once, its addresses are
    checked, and the connection goes to one that was checked, so that a name that changes its
    address in between gains nothing. None for a server of our own choice.
    """

    def __init__(
        self, tls: ssl.SSLContext, is_trusted: IsTrusted | None = None, proxy: str | None = None
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=_Backend(is_trusted),
            proxy=_build_proxy(proxy) if proxy else None,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises ImageForbidden if the host has a private address."""
        url = request.url
        with _as_httpx_errors():
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Stream(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, is_trusted: IsTrusted | None) -> None:
        self._backend = httpcore.SyncBackend()
        self._is_trusted = is_trusted

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        error: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in self._resolve(host, port, timeout):
            left_s = _limit(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._backend.connect_tcp(
                    address, port, left_s, local_address, socket_options
                )
                return _DeadlineStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as problem:
                error = problem
        raise error or httpcore.ConnectError(f"{host} has no address")

    def _resolve(self, host: str, port: int, timeout: float | None) -> list[str]:
        resolved = _look_up(host, port, _limit(timeout, httpcore.ConnectTimeout))
        addresses = [str(address[0]) for *_, address in resolved]
        if self._is_trusted is not None and not self._is_trusted(host, port):
            for address in addresses:
                if not is_public(address):
                    raise ImageForbidden(
                        f"The photo's host {host} has the private address {address}.",
                        "If that is intended, add the host to SAYMASK_PHOTO_PRIVATE_HOSTS.",
                    )
        return addresses


def _look_up(host: str, port: int, timeout: float | None) -> list[Any]:
    """The addresses of a host, resolved in another thread: the resolver itself has no deadline."""
    resolved: Future[list[Any]] = Future()

    def resolve() -> None:
        try:
            resolved.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError, OverflowError) as error:
            resolved.set_exception(error)

    threading.Thread(target=resolve, name="resolver", daemon=True).start()
    try:
        return resolved.result(timeout)
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(f"the address of {host} was not found in time") from error
    except OSError as error:
        raise httpcore.ConnectError(f"the host {host} is not known ({error})") from error


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _limit(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _limit(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left_s = _limit(timeout, httpcore.ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, left_s)
        return _DeadlineStream(stream)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


def _limit(timeout: float | None, error: type[httpcore.TimeoutException]) -> float | None:
    """The time that is left for one operation."""
    left_s = _deadline.get() - time.monotonic()
    if left_s <= 0:
        raise error("the deadline has passed")
    if left_s == math.inf:
        return timeout
    return left_s if timeout is None else min(timeout, left_s)


def read_at_most(pieces: Iterable[bytes], max_bytes: int) -> bytes | None:
    """Return the whole content of an answer; None as soon as it is longer."""
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > max_bytes:
            return None
    return bytes(content)


def find_proxy(url: str) -> str | None:
    """Return the HTTP proxy that the environment names for an address, or None."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def get_json(url: str, login: tuple[str, str] | None, seconds: float) -> Any:
    """Return the JSON that an address answers with, for a user and a password or None.

    Raises:
        httpx.HTTPError: no answer in time, or a redirect.
        ValueError: it is not JSON.
        ConfigError: the certificates or the proxy cannot be used.
    """
    transport = DeadlineTransport(build_tls(), proxy=find_proxy(url))
    headers = {"User-Agent": USER_AGENT}
    with httpx.Client(transport=transport, timeout=seconds) as client, time_limit(seconds):
        response = client.get(url, auth=login, headers=headers)
    if response.has_redirect_location:
        base_url = url.removesuffix(urlsplit(url).path)
        address = find_new_address(response, base_url, urlsplit(url).path)
        raise httpx.HTTPError(f"it redirects to {address or 'another address'}; use that one")
    return response.json()


def _build_proxy(address: str) -> httpcore.Proxy:
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
        if proxy.url.scheme not in ("http", "https"):
            raise ValueError("SOCKS proxies need a package that is not installed")
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigError(
            "The address of the HTTP proxy cannot be used (it is not shown).",
            "Let HTTP_PROXY, HTTPS_PROXY or ALL_PROXY name an http:// or https:// proxy, or name"
            " Label Studio in NO_PROXY.",
        ) from error
    return httpcore.Proxy(str(proxy.url), auth=proxy.raw_auth, headers=proxy.headers.raw)


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(str(error)) from error
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise httpx.TransportError(str(error) or type(error).__name__) from error
