"""Who may call which endpoint."""

from __future__ import annotations

import base64
import ipaddress
import secrets
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param

from saymask.errors import ConfigError, InvalidRequest, SaymaskError
from saymask_backend.config import Settings
from saymask_backend.label_studio.connect import SECRET_HEADER


class NotAuthorized(SaymaskError):
    """Wrong or missing credentials."""

    http_status = 401


class ForeignRequest(InvalidRequest):
    """A web page of another site sent the request through a browser."""

    http_status = 403


class AccessPolicy:
    """Decides which requests are let in.

    Args:
        settings: with the credentials.

    Raises:
        ConfigError: credentials are set by half, or missing where others can reach the backend.
    """

    def __init__(self, settings: Settings) -> None:
        self._user = settings.basic_auth_user
        self._password = settings.basic_auth_password.get_secret_value()
        self._secret = settings.webhook_secret.get_secret_value()
        self._hosts = {"localhost", settings.host, *settings.allowed_hosts}
        self._check_complete()
        if not self._user and not _is_loopback(settings.host):
            raise ConfigError(
                f"The backend would listen on {settings.host} without credentials.",
                "Set SAYMASK_BASIC_AUTH_USER, SAYMASK_BASIC_AUTH_PASSWORD and"
                " SAYMASK_WEBHOOK_SECRET, then run saymask connect; or listen on 127.0.0.1.",
            )

    def _check_complete(self) -> None:
        values = {
            "SAYMASK_BASIC_AUTH_USER": self._user,
            "SAYMASK_BASIC_AUTH_PASSWORD": self._password,
        }
        if any(values.values()):
            # Label Studio does not log in to call the webhook.
            values["SAYMASK_WEBHOOK_SECRET"] = self._secret
        missing = [name for name, value in values.items() if not value]
        if any(values.values()) and missing:
            raise ConfigError(
                f"Credentials are set, but not {' and '.join(missing)}.",
                "User, password and webhook secret belong together: set all three.",
            )

    async def check_sender(self, request: Request) -> None:
        """Refuse what a web page sends through an annotator's browser.

        Label Studio's server sends no Origin. A page that had its own name point to this machine
        (DNS rebinding) sends that name as Host; without credentials only known names are let in.

        Raises:
            ForeignRequest: the Origin is another site, or the Host a name we do not know.
        """
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        if origin is not None and _netloc(origin) != host:
            raise ForeignRequest(f"A page of {origin[:100]} may not call saymask.")
        name = _host_name(host)
        if not self._user and name not in self._hosts and not _is_address(name):
            raise ForeignRequest(
                f"The Host {host[:100]!r} is not known.",
                "Call the backend by its address, or add the name to SAYMASK_ALLOWED_HOSTS.",
            )

    async def check_login(self, request: Request) -> None:
        """Check the basic credentials that Label Studio sends on every call but the webhook.

        Raises:
            NotAuthorized: they are wrong or missing, and the settings demand them.
        """
        if not self._user:
            return
        scheme, param = get_authorization_scheme_param(request.headers.get("Authorization"))
        try:
            given = base64.b64decode(param, validate=True) if scheme.lower() == "basic" else b""
        except ValueError:
            given = b""
        if not secrets.compare_digest(given, f"{self._user}:{self._password}".encode()):
            raise NotAuthorized(
                "Wrong user or password.",
                "Give Label Studio the backend's SAYMASK_BASIC_AUTH_USER and _PASSWORD.",
            )

    async def check_secret(self, request: Request) -> None:
        """Check the webhook's secret.

        Raises:
            NotAuthorized: it is wrong or missing, and the settings demand it.
        """
        if not self._secret:
            return
        # HTTP headers have no encoding; clients send other letters than ASCII in one of these.
        given = request.headers.get(SECRET_HEADER, "").encode("latin-1")
        if not any(secrets.compare_digest(given, one) for one in _encode(self._secret)):
            raise NotAuthorized(
                "The webhook's secret is missing or wrong.",
                f"Set the header {SECRET_HEADER} on the webhook in Label Studio.",
            )


def _encode(secret: str) -> list[bytes]:
    encodings = [secret.encode()]
    with suppress(UnicodeEncodeError):
        encodings.append(secret.encode("latin-1"))
    return encodings


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
