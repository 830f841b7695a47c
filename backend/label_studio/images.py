"""Fetching images from wherever tasks keep them, and nothing else on the private network."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
import time
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

import httpx

from backend.label_studio.auth import LabelStudioAuth
from saymask.errors import (
    ConfigError,
    ImageForbidden,
    ImageTooLarge,
    ImageUnreachable,
    ImageUnreadable,
)

_MAX_REDIRECTS = 5
_CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
# Where Label Studio serves images; a task must not make us read its API with our token.
_IMAGE_PATH = re.compile(r"/(data|static|storage-data|(tasks|projects)/\d+/(resolve|presign))/")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_MAX_SHOWN_CHARS = 120


class ImageFetcher:
    """Fetches the bytes of an image from the address in a task.

    Known addresses: ``/data/upload/...`` and other paths of Label Studio, ``http(s)://``,
    ``s3://`` and ``gs://`` (through Label Studio, which presigns them), ``data:`` URIs.

    Args:
        base_url: of Label Studio, or empty.
        api_key: of a Label Studio user, or empty.
        private_hosts: hosts whose private addresses are allowed.
        max_bytes: largest file.
        timeout_s: longest wait for one image.
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
        self._auth = LabelStudioAuth(self._base_url, api_key)
        self._private_hosts = private_hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def fetch(self, reference: str, task_id: int) -> bytes:
        """Return the bytes of an image.

        Args:
            reference: the address in the task's data.
            task_id: of the task.

        Raises:
            ImageUnreachable, ImageForbidden, ImageTooLarge, ImageUnreadable, LabelStudioError,
            ConfigError.
        """
        try:
            return self._fetch(reference, task_id)
        except ValueError as error:
            # Malformed addresses: ports, brackets, labels and code points no host name may have.
            raise ImageUnreachable(
                f"{_shorten(reference)} is not a valid address: {error}.",
                "Correct the task's data.",
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
        if _IMAGE_PATH.match(reference) and ".." not in unquote(reference):
            return self._download(self._at_label_studio(reference))
        raise ImageUnreachable(
            f"{_shorten(reference)} is not an address that saymask can read photos from.",
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
                auth = self._auth if self._is_label_studio(url) else None
                with self._client.stream("GET", url, auth=auth) as response:
                    if response.has_redirect_location:
                        url = urljoin(url, response.headers["location"])
                        continue
                    self._check_status(response, url)
                    return self._read(response, url, deadline)
            except httpx.TimeoutException as error:
                raise self._too_slow(url) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ImageUnreachable(
                    f"The photo at {_shorten(url)} could not be fetched: {error}.",
                    "Check that the address works from the machine the backend runs on.",
                ) from error
        raise ImageUnreachable(f"The photo at {_shorten(url)} redirects without end.")

    def _too_slow(self, url: str) -> ImageUnreachable:
        return ImageUnreachable(
            f"The photo at {_shorten(url)} took longer than {self._timeout_s:g} s.",
            "Try again, or raise SAYMASK_PHOTO_TIMEOUT_S.",
        )

    def _check_status(self, response: httpx.Response, url: str) -> None:
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ImageForbidden(
                f"{_shorten(url)} answered {response.status_code}.",
                "Set SAYMASK_LABEL_STUDIO_API_KEY to a token of a user who may see the project."
                " A legacy token must be enabled in the organization."
                if self._is_label_studio(url)
                else "Make the photo public or presign its address.",
            )
        if response.status_code != httpx.codes.OK:
            raise ImageUnreachable(
                f"{_shorten(url)} answered {response.status_code}.", "Is the photo still there?"
            )

    def _read(self, response: httpx.Response, url: str, deadline: float) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for piece in response.iter_bytes():
            size += len(piece)
            if size > self._max_bytes:
                raise ImageTooLarge(
                    f"The photo at {_shorten(url)} is larger than {self._max_bytes / 1e6:g} MB.",
                    "Shrink it, or raise SAYMASK_PHOTO_MAX_MB.",
                )
            if time.monotonic() > deadline:
                raise self._too_slow(url)
            pieces.append(piece)
        if size == 0:
            raise ImageUnreadable(f"The photo at {_shorten(url)} is empty (zero bytes).")
        return b"".join(pieces)

    def _check_host(self, url: str) -> None:
        """Refuse private addresses: a task must not read what only this machine can reach."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host:
            raise ImageForbidden(f"{_shorten(url)} is not an http(s) address.")
        if self._is_label_studio(url) or host in self._private_hosts:
            return
        try:
            addresses = socket.getaddrinfo(host, parts.port or 0, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ImageUnreachable(
                f"The host {host} of the photo is not known: {error}."
            ) from error
        for *_, address in addresses:
            if not _is_public(str(address[0])):
                raise ImageForbidden(
                    f"The photo's host {host} has the private address {address[0]}.",
                    "If that is intended, add the host to SAYMASK_PHOTO_PRIVATE_HOSTS.",
                )

    def _decode_data_uri(self, reference: str) -> bytes:
        head, _, body = reference.partition(",")
        if len(body) > self._max_bytes * 4 / 3 + 4:
            raise ImageTooLarge(f"The photo in the task is larger than {self._max_bytes} bytes.")
        try:
            raw = (
                base64.b64decode(body, validate=True)
                if head.endswith(";base64")
                else unquote_to_bytes(body)
            )
        except binascii.Error as error:
            raise ImageUnreadable(f"The data: address of the photo is damaged: {error}.") from error
        if not raw:
            raise ImageUnreadable("The photo in the task is empty (zero bytes).")
        return raw


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.split("%")[0])
    return parsed.is_global and not parsed.is_multicast and parsed not in _NAT64


def _shorten(reference: str) -> str:
    """For messages: shortened, and without the query, which may hold a signature."""
    plain = reference.split("?", maxsplit=1)[0]
    return plain if len(plain) <= _MAX_SHOWN_CHARS else plain[: _MAX_SHOWN_CHARS - 3] + "..."
