"""Fetching images from wherever tasks keep them, and nothing else on the private network."""

from __future__ import annotations

import base64
import binascii
import re
import ssl
import time
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

import httpx

from backend.label_studio.auth import LabelStudioAuth
from backend.label_studio.guarded_http import GuardedTransport
from saymask.errors import (
    ConfigError,
    ImageForbidden,
    ImageTooLarge,
    ImageUnreachable,
    ImageUnreadable,
)
from saymask.image_files import find_suffix, strip_secrets

_MAX_REDIRECTS = 5
_CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
# Where Label Studio serves images; a task must not make us read its API with our token.
_IMAGE_PATH = re.compile(r"/(data|static|storage-data|(tasks|projects)/\d+/(resolve|presign))/")
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
        self._tls = ssl.create_default_context()
        self._auth = LabelStudioAuth(self._base_url, api_key)
        self._private_hosts = private_hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

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
        if _is_image_path(reference):
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

    def _is_trusted(self, host: str, port: int) -> bool:
        """Whether a host may have a private address."""
        ours = urlsplit(self._base_url)
        our_port = ours.port or {"http": 80, "https": 443}.get(ours.scheme)
        return host in self._private_hosts or (host, port) == (ours.hostname, our_port)

    def _download(self, url: str) -> bytes:
        """Download, with redirects, within the time for one image.

        Each download has a client of its own: its deadline counts for all its connections.
        """
        deadline = time.monotonic() + self._timeout_s
        transport = GuardedTransport(self._is_trusted, deadline, self._tls)
        # No proxy: it would resolve names itself, past the check of addresses.
        client = httpx.Client(transport=transport, timeout=self._timeout_s, trust_env=False)
        try:
            with client:
                return self._follow(client, url)
        except httpx.TimeoutException as error:
            raise ImageUnreachable(
                f"The photo at {_shorten(url)} took longer than {self._timeout_s:g} s.",
                "Try again, or raise SAYMASK_PHOTO_TIMEOUT_S.",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ImageUnreachable(
                f"The photo at {_shorten(url)} could not be fetched: {error}.",
                "Check that the address works from the machine the backend runs on.",
            ) from error

    def _follow(self, client: httpx.Client, url: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            self._check_address(url)
            auth = self._auth if self._is_label_studio(url) else None
            # A compressed answer could unpack to any size.
            headers = {"Accept-Encoding": "identity"}
            with client.stream("GET", url, auth=auth, headers=headers) as response:
                if response.has_redirect_location:
                    url = urljoin(url, response.headers["location"])
                    continue
                self._check_status(response, url)
                return self._read(response, url)
        raise ImageUnreachable(f"The photo at {_shorten(url)} redirects without end.")

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

    def _read(self, response: httpx.Response, url: str) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ImageUnreachable(
                f"{_shorten(url)} sends the photo compressed though it was asked not to.",
                "Switch that off for images at the server.",
            )
        pieces: list[bytes] = []
        size = 0
        for piece in response.iter_raw():
            size += len(piece)
            if size > self._max_bytes:
                raise ImageTooLarge(
                    f"The photo at {_shorten(url)} is larger than {self._max_bytes / 1e6:g} MB.",
                    "Shrink it, or raise SAYMASK_PHOTO_MAX_MB.",
                )
            pieces.append(piece)
        return _check_image(b"".join(pieces), f"The file at {_shorten(url)}")

    def _check_address(self, url: str) -> None:
        """Refuse what is not http(s), and whatever in Label Studio is not an image."""
        parts = urlsplit(url)
        if parts.port == 0 or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImageForbidden(f"{_shorten(url)} is not an http(s) address.")
        if self._is_label_studio(url):
            path = parts.path.removeprefix(urlsplit(self._base_url).path)
            if not _is_image_path(path):
                raise ImageForbidden(
                    f"{_shorten(url)} is not where Label Studio keeps photos.",
                    "Use an upload, local files or cloud storage; if it asks for a login, set"
                    " SAYMASK_LABEL_STUDIO_API_KEY.",
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
        return _check_image(raw, "The photo in the task")


def _is_image_path(path: str) -> bool:
    return bool(_IMAGE_PATH.match(path)) and ".." not in unquote(unquote(path))


def _check_image(data: bytes, what: str) -> bytes:
    if not data:
        raise ImageUnreadable(f"{what} is empty (zero bytes).")
    if find_suffix(data) is None:
        raise ImageUnreadable(
            f"{what} is not an image that saymask can read.",
            "Use JPEG, PNG, WebP, BMP, GIF, TIFF or PPM.",
        )
    return data


def _shorten(reference: str) -> str:
    """For messages: shortened, and without what may be secret."""
    plain = strip_secrets(reference).split("?", maxsplit=1)[0]
    return plain if len(plain) <= _MAX_SHOWN_CHARS else plain[: _MAX_SHOWN_CHARS - 3] + "..."
