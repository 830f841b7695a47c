"""How saymask connects over HTTP: its name, certificates, redirects, and failures in words."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from saymask import __version__
from saymask.errors import ConfigError
from saymask.redaction import explain
from saymask_backend.label_studio.schema import to_utc

USER_AGENT = f"saymask/{__version__}"
# An HTTP date has whole seconds, and the answer took a while.
_CLOCK_PRECISION = timedelta(seconds=2)
CERTIFICATE_CURE = (
    "If the server has a certificate of your own authority, set SSL_CERT_FILE to the file of the"
    " authority's certificate (PEM) for saymask too, or add it to the system's store."
)


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
    """Return the reason of a failed connection and its cure.

    Args:
        error: raised by httpx.
        cure: where the certificate is not to blame.
    """
    reason = explain(error)
    return reason, CERTIFICATE_CURE if "certificate" in reason.lower() else cure


def find_new_address(response: httpx.Response, base_url: str, path: str) -> str | None:
    """Return the base address to which a server has moved; None where it does not tell.

    Args:
        response: to a call of ``path`` below ``base_url``.
        base_url: without a slash at the end.
        path: with a slash at the beginning.
    """
    if not response.has_redirect_location:
        return None
    try:
        target = urlsplit(urljoin(base_url + path, response.headers["location"]))
        if target.scheme not in ("http", "https") or not target.hostname:
            return None
    except ValueError:
        return None
    found, asked = target.path.rstrip("/"), urlsplit(path).path.rstrip("/")
    if not found.endswith(asked):
        return None
    netloc = target.netloc.rpartition("@")[2]
    address = urlunsplit((target.scheme, netloc, found.removesuffix(asked), "", ""))
    return address if address != base_url else None


def read_clock_offset(response: httpx.Response) -> timedelta:
    """Return how far our clock is ahead of a server's; zero where it does not tell, or by rounding.

    Args:
        response: that has just come.
    """
    try:
        theirs = to_utc(parsedate_to_datetime(response.headers["Date"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return timedelta(0)
    offset = datetime.now(UTC) - theirs
    return offset if abs(offset) > _CLOCK_PRECISION else timedelta(0)
