"""Talking to Label Studio: logging in, its API, and fetching photos wherever a task keeps them."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import socket
import threading
import time
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

import httpx

from backend.errors import (
    ConfigError,
    PhotoForbidden,
    PhotoTooLarge,
    PhotoUnreachable,
    PhotoUnreadable,
    SaymaskError,
)

_MAX_REDIRECTS = 5
_BUSY = (429, 502, 503, 504)
_READ_TRIES = 5
_LONGEST_WAIT_S = 60.0
_CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
# Where Label Studio serves photos; a task must not make us read its API with our token.
_PHOTO_PATH = re.compile(r"/(data|static|storage-data|(tasks|projects)/\d+/(resolve|presign))/")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TOKEN_MARGIN_S = 30.0


class LabelStudioError(SaymaskError):
    """Label Studio refused a call or cannot be reached."""

    http_status = 502


class NotFound(LabelStudioError):
    """Label Studio does not have what was asked for."""


def _read_retry_after(response: httpx.Response) -> float:
    """Seconds Label Studio asks us to wait; a second when it does not say."""
    try:
        return min(float(response.headers.get("Retry-After", "1")), _LONGEST_WAIT_S)
    except ValueError:
        return 1.0


class LabelStudioAuth:
    """Credentials of one Label Studio user.

    A personal access token is a refresh token: it is exchanged for an access token that lives
    five minutes. A legacy token (40 hex digits) is sent as it is.
    """

    def __init__(self, base_url: str, api_key: str, client: httpx.Client) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._client = client
        self._lock = threading.Lock()
        self._access = ""
        self._expires_at = 0.0

    def headers(self) -> dict[str, str]:
        """The Authorization header; empty when no key is set.

        Raises:
            LabelStudioError: the key was refused.
        """
        if not self._api_key:
            return {}
        if "." not in self._api_key:
            return {"Authorization": f"Token {self._api_key}"}
        with self._lock:
            if time.time() > self._expires_at - _TOKEN_MARGIN_S:
                self._refresh()
            return {"Authorization": f"Bearer {self._access}"}

    def _refresh(self) -> None:
        url = f"{self._base_url}/api/token/refresh/"
        try:
            response = self._client.post(url, json={"refresh": self._api_key})
        except httpx.HTTPError as error:
            raise LabelStudioError(
                f"Label Studio at {self._base_url} cannot be reached: {error}.",
                "Check SAYMASK_LABEL_STUDIO_URL and that it runs.",
            ) from error
        if response.status_code != httpx.codes.OK:
            raise LabelStudioError(
                f"Label Studio refused the personal access token (HTTP {response.status_code}).",
                "Make a new one under Account & Settings, set SAYMASK_LABEL_STUDIO_API_KEY.",
            )
        try:
            self._access = str(response.json()["access"])
        except (ValueError, KeyError, TypeError) as error:
            raise LabelStudioError(
                f"{url} did not answer as Label Studio does.", "Check SAYMASK_LABEL_STUDIO_URL."
            ) from error
        self._expires_at = _read_expiry(self._access)


def _read_expiry(access: str) -> float:
    """The ``exp`` claim of a JWT we just received; the signature is the server's business."""
    try:
        payload = access.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise LabelStudioError("Label Studio sent an access token that is no JWT.") from error


class LabelStudioClient:
    """The calls saymask makes to Label Studio's API."""

    def __init__(self, base_url: str, api_key: str, timeout_s: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._client = httpx.Client(timeout=timeout_s)
        self._auth = LabelStudioAuth(self.base_url, api_key, self._client)

    def close(self) -> None:
        self._client.close()

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """One API call; returns the decoded JSON (None for an empty body).

        Reading waits and tries again when Label Studio is too busy.

        Raises:
            NotFound: there is no such thing.
            LabelStudioError: unreachable, or the answer is an error; carries its text.
        """
        tries = _READ_TRIES if method == "GET" else 1
        for left in reversed(range(tries)):
            try:
                response = self._client.request(
                    method, self.base_url + path, headers=self._auth.headers(), **arguments
                )
            except httpx.HTTPError as error:
                raise LabelStudioError(
                    f"Label Studio at {self.base_url} cannot be reached: {error}.",
                    "Check SAYMASK_LABEL_STUDIO_URL and that it runs.",
                ) from error
            if response.status_code not in _BUSY or not left:
                break
            time.sleep(_read_retry_after(response))
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"Label Studio has no {path}.", "Check the number.")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise LabelStudioError(
                f"Label Studio answered {response.status_code} to {method} {path}:"
                f" {response.text[:300]}",
                "Set SAYMASK_LABEL_STUDIO_API_KEY to a personal access token (or a legacy token,"
                " if the organization allows them) of a user who may see the project.",
            )
        if response.is_error:
            raise LabelStudioError(
                f"Label Studio answered {response.status_code} to {method} {path}:"
                f" {response.text[:500]}"
            )
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise LabelStudioError(f"{self.base_url}{path} answered no JSON.") from error


class PhotoFetcher:
    """Fetches the bytes of a photo from wherever the task refers to.

    Known references: ``/data/upload/...`` and other paths of Label Studio, ``http(s)://``,
    ``s3://`` and ``gs://`` (through Label Studio, which presigns them), ``data:`` URIs.

    Args:
        base_url, api_key: of Label Studio; both may be empty.
        private_hosts: hosts whose private addresses are allowed.
        max_bytes, timeout_s: limits of one photo.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        private_hosts: tuple[str, ...],
        max_bytes: int,
        timeout_s: float,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = httpx.Client(
            # A proxy would resolve names itself, past the check of addresses.
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
        )
        self._auth = LabelStudioAuth(self._base_url, api_key, self._client)
        self._private_hosts = private_hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    def close(self) -> None:
        self._client.close()

    def fetch(self, reference: str, task_id: int) -> bytes:
        """Bytes of the photo.

        Raises:
            PhotoUnreachable, PhotoForbidden, PhotoTooLarge, PhotoUnreadable, LabelStudioError,
            ConfigError.
        """
        try:
            return self._fetch(reference, task_id)
        except ValueError as error:
            # Malformed addresses: ports, brackets, labels and code points no host name may have.
            raise PhotoUnreachable(
                f"{_shorten(reference)} is no valid address: {error}.", "Correct the task's data."
            ) from error

    def _fetch(self, reference: str, task_id: int) -> bytes:
        if reference.startswith("data:"):
            return self._decode_data_uri(reference)
        scheme = urlsplit(reference).scheme.lower()
        if scheme in _CLOUD_SCHEMES:
            encoded = base64.b64encode(reference.encode()).decode()
            return self._download(
                self._at_label_studio(f"/tasks/{task_id}/resolve/?fileuri={encoded}")
            )
        if scheme in ("http", "https"):
            return self._download(reference)
        if _PHOTO_PATH.match(reference) and ".." not in unquote(reference):
            return self._download(self._at_label_studio(reference))
        raise PhotoUnreachable(
            f"{_shorten(reference)} is no photo address saymask can read.",
            "Use an upload, local files, http(s), s3 or gs.",
        )

    def _at_label_studio(self, path: str) -> str:
        if not self._base_url:
            raise ConfigError(
                f"The photo {_shorten(path)} lives in Label Studio, whose address is not set.",
                "Set SAYMASK_LABEL_STUDIO_URL and SAYMASK_LABEL_STUDIO_API_KEY.",
            )
        return self._base_url + path

    def _is_label_studio(self, url: str) -> bool:
        ours, theirs = urlsplit(self._base_url), urlsplit(url)
        return bool(self._base_url) and (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)

    def _download(self, url: str) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        for _ in range(_MAX_REDIRECTS + 1):
            self._check_host(url)
            if time.monotonic() > deadline:
                raise self._too_slow(url)
            try:
                headers = self._auth.headers() if self._is_label_studio(url) else {}
                with self._client.stream("GET", url, headers=headers) as response:
                    if response.has_redirect_location:
                        url = urljoin(url, response.headers["location"])
                        continue
                    self._check_status(response, url)
                    return self._read(response, url, deadline)
            except httpx.TimeoutException as error:
                raise self._too_slow(url) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise PhotoUnreachable(
                    f"The photo at {_shorten(url)} could not be fetched: {error}.",
                    "Check that the address works from the machine the backend runs on.",
                ) from error
        raise PhotoUnreachable(f"The photo at {_shorten(url)} redirects without end.")

    def _too_slow(self, url: str) -> PhotoUnreachable:
        return PhotoUnreachable(
            f"The photo at {_shorten(url)} took longer than {self._timeout_s:g} s.",
            "Try again, or raise SAYMASK_PHOTO_TIMEOUT_S.",
        )

    def _check_status(self, response: httpx.Response, url: str) -> None:
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PhotoForbidden(
                f"{_shorten(url)} answered {response.status_code}.",
                "Set SAYMASK_LABEL_STUDIO_API_KEY to a token of a user who may see the project."
                " A legacy token must be enabled in the organization."
                if self._is_label_studio(url)
                else "Make the photo public or presign its address.",
            )
        if response.status_code != httpx.codes.OK:
            raise PhotoUnreachable(
                f"{_shorten(url)} answered {response.status_code}.", "Is the photo still there?"
            )

    def _read(self, response: httpx.Response, url: str, deadline: float) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for piece in response.iter_bytes():
            size += len(piece)
            if size > self._max_bytes:
                raise PhotoTooLarge(
                    f"The photo at {_shorten(url)} is larger than {self._max_bytes / 1e6:g} MB.",
                    "Shrink it, or raise SAYMASK_PHOTO_MAX_MB.",
                )
            if time.monotonic() > deadline:
                raise self._too_slow(url)
            pieces.append(piece)
        if size == 0:
            raise PhotoUnreadable(f"The photo at {_shorten(url)} is empty (zero bytes).")
        return b"".join(pieces)

    def _check_host(self, url: str) -> None:
        """Refuse addresses inside private networks: a task must not read what only we can."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host:
            raise PhotoForbidden(f"{_shorten(url)} is no http(s) address.")
        if self._is_label_studio(url) or host in self._private_hosts:
            return
        try:
            found = socket.getaddrinfo(host, parts.port or 0, type=socket.SOCK_STREAM)
        except OSError as error:
            raise PhotoUnreachable(
                f"The host {host} of the photo is not known: {error}."
            ) from error
        for *_, address in found:
            if not _is_public(str(address[0])):
                raise PhotoForbidden(
                    f"The photo's host {host} has the private address {address[0]}.",
                    "If that is meant, add the host to SAYMASK_PHOTO_PRIVATE_HOSTS.",
                )

    def _decode_data_uri(self, reference: str) -> bytes:
        head, _, body = reference.partition(",")
        if len(body) > self._max_bytes * 4 / 3 + 4:
            raise PhotoTooLarge(f"The photo in the task is larger than {self._max_bytes} bytes.")
        try:
            raw = (
                base64.b64decode(body, validate=True)
                if head.endswith(";base64")
                else (unquote_to_bytes(body))
            )
        except binascii.Error as error:
            raise PhotoUnreadable(f"The data: address of the photo is damaged: {error}.") from error
        if not raw:
            raise PhotoUnreadable("The photo in the task is empty (zero bytes).")
        return raw


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.split("%")[0])
    return parsed.is_global and not parsed.is_multicast and parsed not in _NAT64


def _shorten(reference: str) -> str:
    """For messages: without query (it may hold a signature) and not too long."""
    plain = reference.split("?", maxsplit=1)[0]
    return plain if len(plain) <= 120 else plain[:117] + "..."
