"""Fetching images from the addresses in tasks, and nothing else on the private network."""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urljoin, urlsplit

import httpx

from saymask.errors import (
    ConfigError,
    ImageError,
    ImageForbidden,
    ImageTooLarge,
    ImageUnreachable,
    ImageUnreadable,
)
from saymask.image_files import find_suffix, strip_secrets
from saymask_backend.label_studio.auth import LabelStudioAuth
from saymask_backend.label_studio.guarded_http import (
    USER_AGENT,
    DeadlineTransport,
    build_tls,
    explain_failure,
    find_new_address,
    read_at_most,
    time_limit,
)

_MAX_REDIRECTS = 5
_CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
# Where Label Studio serves images; a task must not make us read its API with our token.
_IMAGE_PATH = re.compile(r"/(data|static|storage-data|(tasks|projects)/\d+/(resolve|presign))/")
_PARENT_FOLDER = re.compile(r"(^|[/\\=&?])\.\.([/\\&#]|$)")
_MAX_SHOWN_CHARS = 120
_PORTS = {"http": 80, "https": 443}
_NETWORK_CURE = "Check that the address works from the machine the backend runs on."
_PUBLIC_URL_CURE = (
    "If this is Label Studio under another name, set SAYMASK_LABEL_STUDIO_PUBLIC_URL to its"
    " address up to this path."
)
# A compressed answer could unpack to any size.
_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}

_SCHEME = re.compile(r"data:", re.IGNORECASE)
_BASE64_AT_END = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_LINE_ENDS = re.compile(r"[\t\n\r]")
_WHITESPACE = re.compile(rb"[\t\n\f\r ]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
# A ``data:`` address holds each byte as %XX, or even that as base64.
_LONGEST_FORM = 4


class ImageFetcher:
    """Fetches the bytes of an image from the address in a task.

    Known addresses: ``/data/upload/...`` and other paths of Label Studio, with or without the path
    below which it is opened; ``http(s)://``; ``s3://``, ``gs://`` and ``azure-blob://`` (through
    Label Studio, which presigns them); ``data:`` URIs.

    Args:
        base_url: of Label Studio, or empty.
        api_key: of a Label Studio user, or empty.
        private_hosts: hosts whose private addresses are allowed.
        max_bytes: largest file.
        timeout_s: longest wait for one image.
        public_url: under which people open Label Studio, if that is another address.

    Raises:
        ConfigError: the key or the certificates cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        private_hosts: tuple[str, ...],
        max_bytes: int,
        timeout_s: float,
        public_url: str = "",
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._public_url = public_url.rstrip("/")
        self._tls = build_tls()
        self._auth = LabelStudioAuth(self._base_url, api_key)
        self._private_hosts = private_hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    def fetch(self, reference: str, task_id: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            ImageUnreachable, ImageForbidden, ImageTooLarge, ImageUnreadable, LabelStudioError,
            ConfigError.
        """
        reference = reference.strip()
        try:
            return self._fetch(reference, task_id)
        except (ImageForbidden, ImageUnreachable) as error:
            if self._may_be_label_studio(reference):
                raise type(error)(error.cause, f"{error.cure} {_PUBLIC_URL_CURE}") from error
            raise
        except ValueError as error:
            # Malformed addresses: ports, brackets, labels and code points no host name may have.
            # The error quotes them, and what it quotes may be part of a password.
            raise ImageUnreachable(
                f"{_shorten(reference)} is not a valid address.", "Correct the task's data."
            ) from error

    def _fetch(self, reference: str, task_id: int) -> bytes:
        if is_data_uri(reference):
            data = decode_data_uri(reference, self._max_bytes)
            return _check_image(data, "The photo in the task")
        scheme = urlsplit(reference).scheme.lower()
        if scheme in _CLOUD_SCHEMES:
            # In the alphabet for addresses: names in other scripts give / and + in the usual one.
            encoded = base64.urlsafe_b64encode(reference.encode()).decode()
            path = f"/tasks/{task_id}/resolve/?fileuri={encoded}"
            return self._download(self._at_label_studio(path))
        if scheme in ("http", "https"):
            return self._download(self._to_our_address(reference))
        image_path = _find_image_path(reference)
        if image_path is not None:
            return self._download(self._at_label_studio(image_path))
        raise ImageUnreachable(
            f"{_shorten(reference)} is not an address that saymask can read photos from.",
            "Use an upload, local files, http(s), s3, gs or azure-blob.",
        )

    def _at_label_studio(self, path: str) -> str:
        if not self._base_url:
            raise ConfigError(
                f"The photo {_shorten(path)} is in Label Studio, whose address is not set.",
                "Set SAYMASK_LABEL_STUDIO_URL and SAYMASK_LABEL_STUDIO_API_KEY.",
            )
        return self._base_url + path

    def _to_our_address(self, url: str) -> str:
        """Replace the address under which people open Label Studio by the one that we use."""
        if not (self._base_url and self._public_url):
            return url
        public, given = urlsplit(self._public_url), urlsplit(url)
        if _origin(public) != _origin(given) or not given.path.startswith(public.path + "/"):
            return url
        query = f"?{given.query}" if given.query else ""
        return self._base_url + given.path.removeprefix(public.path) + query

    def _is_label_studio(self, url: str) -> bool:
        """Whether an address is on Label Studio's server, which alone gets the token."""
        return bool(self._base_url) and _origin(urlsplit(self._base_url)) == _origin(urlsplit(url))

    def _is_trusted(self, host: str, port: int) -> bool:
        """Whether a host may have a private address."""
        ours = urlsplit(self._base_url)
        return host in self._private_hosts or (host, port) == _origin(ours)[1:]

    def _download(self, url: str) -> bytes:
        """Download, with redirects, within the time for one image."""
        transport = DeadlineTransport(self._tls, self._is_trusted)
        # No proxy: it would resolve names itself, past the check of addresses.
        client = httpx.Client(transport=transport, timeout=self._timeout_s, trust_env=False)
        try:
            with client, time_limit(self._timeout_s):
                return self._follow(client, url)
        except httpx.TimeoutException as error:
            raise ImageUnreachable(
                f"The photo at {_shorten(url)} took longer than {self._timeout_s:g} s.",
                "Its server is slow: try again later.",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason, cure = explain_failure(error, _NETWORK_CURE)
            raise ImageUnreachable(
                f"The photo at {_shorten(url)} could not be fetched: {reason}.", cure
            ) from error

    def _follow(self, client: httpx.Client, url: str) -> bytes:
        new_address: str | None = None
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                self._check_address(url)
                auth = self._auth if self._is_label_studio(url) else None
                with client.stream("GET", url, auth=auth, headers=_HEADERS) as answer:
                    if not answer.has_redirect_location:
                        self._check_status(answer, url)
                        return self._read(answer, url)
                    if self._is_label_studio(url):
                        path = url.removeprefix(self._base_url)
                        new_address = find_new_address(answer, self._base_url, path)
                    url = self._to_our_address(urljoin(url, answer.headers["location"]))
            raise ImageUnreachable(f"The photo at {_shorten(url)} redirects too many times.")
        except ImageError as error:
            if new_address is None:
                raise
            raise type(error)(
                f"Label Studio redirects from {self._base_url} to {new_address}, and there:"
                f" {error.cause}",
                f"Use this address: SAYMASK_LABEL_STUDIO_URL={new_address}",
            ) from error

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
                f"{_shorten(url)} sends the photo compressed, against the request.",
                "Turn off compression of images on that server.",
            )
        data = read_at_most(response.iter_raw(), self._max_bytes)
        if data is None:
            raise ImageTooLarge(
                f"The photo at {_shorten(url)} is larger than {self._max_bytes / 1e6:g} MB.",
                "Shrink it, or raise SAYMASK_PHOTO_MAX_MB.",
            )
        return _check_image(data, f"The file at {_shorten(url)}")

    def _check_address(self, url: str) -> None:
        """Refuse other schemes than http(s), and anything but images on Label Studio's server."""
        parts = urlsplit(url)
        if parts.port == 0 or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImageForbidden(f"{_shorten(url)} is not an http(s) address.")
        if self._is_label_studio(url) and not self._is_image(url):
            raise ImageForbidden(
                f"{_shorten(url)} is not where Label Studio keeps photos.",
                "Use an upload, local files or cloud storage; if it asks for a login, set"
                " SAYMASK_LABEL_STUDIO_API_KEY.",
            )

    def _is_image(self, url: str) -> bool:
        """Whether an address on Label Studio's server is where it keeps images."""
        base_path, path = urlsplit(self._base_url).path, urlsplit(url).path
        is_below = path.startswith(base_path + "/")
        is_image_path = _IMAGE_PATH.match(path.removeprefix(base_path)) is not None
        return is_below and is_image_path and not _leaves_folder(url)

    def _may_be_label_studio(self, reference: str) -> bool:
        """Whether an address of another server looks like Label Studio's images."""
        if not reference.lower().startswith(("http://", "https://")):
            return False
        url = self._to_our_address(reference)
        is_known = self._is_label_studio(url) and self._is_image(url)
        return _IMAGE_PATH.search(urlsplit(url).path) is not None and not is_known


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _find_image_path(reference: str) -> str | None:
    """The part of a reference inside Label Studio that follows the address of Label Studio.

    Where Label Studio is opened below a path, tasks keep that path too.
    """
    parts = urlsplit(reference)
    found = _IMAGE_PATH.search(parts.path)
    if parts.scheme or reference.startswith("//") or found is None or _leaves_folder(reference):
        return None
    return reference[reference.index(found[0]) :] if parts.path.startswith("/") else None


def _leaves_folder(reference: str) -> bool:
    return bool(_PARENT_FOLDER.search(unquote(unquote(reference))))


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


def is_data_uri(reference: str) -> bool:
    """Return whether a reference holds the image itself."""
    return bool(_SCHEME.match(reference))


def decode_data_uri(reference: str, max_bytes: int) -> bytes:
    """Return the bytes in a ``data:`` URI, read as browsers do (WHATWG, "data: URL processor").

    Raises:
        ImageTooLarge: there are more than ``max_bytes``.
        ImageUnreadable: it is damaged.
    """
    too_large = ImageTooLarge(
        f"The photo in the task is larger than {max_bytes / 1e6:g} MB.",
        "Shrink it, or raise SAYMASK_PHOTO_MAX_MB.",
    )
    if len(reference) > max_bytes * _LONGEST_FORM + 10_000:
        raise too_large
    head, comma, body = _LINE_ENDS.sub("", reference).partition("#")[0].partition(",")
    if not comma:
        raise ImageUnreadable("The data: address of the photo is damaged: it has no comma.")
    data = unquote_to_bytes(body)
    if _BASE64_AT_END.search(head):
        data = _decode_base64(data)
    if len(data) > max_bytes:
        raise too_large
    return data


def _decode_base64(encoded: bytes) -> bytes:
    """Decode with or without padding, as browsers do; they ignore whitespace and nothing else."""
    plain = _WHITESPACE.sub(b"", encoded)
    if len(plain) % 4 == 0:
        plain = re.sub(rb"={1,2}$", b"", plain)
    if len(plain) % 4 == 1 or not _BASE64.fullmatch(plain):
        raise ImageUnreadable(
            "The data: address of the photo is damaged: it is not base64.",
            "Import the task again, with the whole photo.",
        )
    return base64.b64decode(plain + b"=" * (-len(plain) % 4))
