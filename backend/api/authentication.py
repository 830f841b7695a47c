"""Who may call which endpoint."""

from __future__ import annotations

import base64
import secrets

from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param

from backend.config import Settings
from backend.label_studio.connect import SECRET_HEADER
from saymask.errors import SaymaskError


class NotAuthorized(SaymaskError):
    """Wrong or missing credentials."""

    http_status = 401


def check_login(request: Request, settings: Settings) -> None:
    """Check the basic credentials that Label Studio sends on every call but the webhook.

    Raises:
        NotAuthorized: they are wrong or missing, and the settings demand them.
    """
    if not settings.basic_auth_user:
        return
    scheme, param = get_authorization_scheme_param(request.headers.get("Authorization"))
    try:
        given = base64.b64decode(param, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        given = b""
    password = settings.basic_auth_password.get_secret_value()
    expected = f"{settings.basic_auth_user}:{password}"
    if not secrets.compare_digest(given, expected.encode()):
        raise NotAuthorized(
            "Wrong user or password.",
            "Give Label Studio the backend's SAYMASK_BASIC_AUTH_USER and _PASSWORD.",
        )


def check_secret(request: Request, settings: Settings) -> None:
    """Check the webhook's secret.

    Raises:
        NotAuthorized: it is wrong or missing, and the settings demand it.
    """
    expected = settings.webhook_secret.get_secret_value()
    given = request.headers.get(SECRET_HEADER, "")
    if expected and not secrets.compare_digest(given.encode(), expected.encode()):
        raise NotAuthorized(
            "The webhook's secret is missing or wrong.",
            f"Set the header {SECRET_HEADER} on the webhook in Label Studio.",
        )
