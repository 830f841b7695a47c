"""Logging in to Label Studio, as an ``httpx.Auth``."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Generator

import httpx

from saymask.errors import SaymaskError

_TOKEN_MARGIN_S = 30.0


class LabelStudioError(SaymaskError):
    """Label Studio cannot be reached, or does not accept the user."""

    http_status = 502
    concerns_all = True


class CallRefused(LabelStudioError):
    """Label Studio does not accept one call: it concerns the object that the call is about."""

    concerns_all = False


class LabelStudioAuth(httpx.Auth):
    """Credentials of one Label Studio user.

    A personal access token is a refresh token: it is exchanged for an access token that lives
    five minutes. A legacy token (40 hex digits) is sent as it is. Without a key, nothing is sent.

    Args:
        base_url: of Label Studio, without a slash at the end.
        api_key: of the user, or empty.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self._refresh_url = f"{base_url}/api/token/refresh/"
        self._api_key = api_key
        self._lock = threading.Lock()
        self._access = ""
        self._expires_at = 0.0

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the Authorization header, after exchanging the token where that is due.

        Raises:
            LabelStudioError: the key was refused.
        """
        if self._api_key and "." not in self._api_key:
            request.headers["Authorization"] = f"Token {self._api_key}"
        elif self._api_key:
            with self._lock:
                if time.time() > self._expires_at - _TOKEN_MARGIN_S:
                    refresh = httpx.Request(
                        "POST", self._refresh_url, json={"refresh": self._api_key}
                    )
                    self._store_access(refresh, (yield refresh))
                request.headers["Authorization"] = f"Bearer {self._access}"
        yield request

    def _store_access(self, refresh: httpx.Request, response: httpx.Response) -> None:
        response.read()
        if response.status_code != httpx.codes.OK:
            raise LabelStudioError(
                f"Label Studio refused the personal access token (HTTP {response.status_code}).",
                "Make a new one under Account & Settings, set SAYMASK_LABEL_STUDIO_API_KEY.",
            )
        try:
            self._access = str(response.json()["access"])
        except (ValueError, KeyError, TypeError) as error:
            raise LabelStudioError(
                f"{refresh.url} did not answer as Label Studio does.",
                "Check SAYMASK_LABEL_STUDIO_URL.",
            ) from error
        self._expires_at = _read_expiry(self._access)


def _read_expiry(access: str) -> float:
    """The ``exp`` claim of a JWT that was just issued; checking it is the server's task."""
    try:
        payload = access.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise LabelStudioError("Label Studio sent an access token that is not a JWT.") from error
