"""Logging in to Label Studio, as an ``httpx.Auth``."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from saymask.errors import ConfigError, SaymaskError
from saymask.redaction import clean_key
from saymask_backend.label_studio.guarded_http import find_new_address
from saymask_backend.label_studio.schema import to_utc

_REFRESH_PATH = "/api/token/refresh/"
_TOKEN_MARGIN_S = 30.0
# An HTTP date has whole seconds, and the answer took a while.
_CLOCK_PRECISION = timedelta(seconds=2)
ADDRESS_CURE = "Check SAYMASK_LABEL_STUDIO_URL and that it runs."


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

    Raises:
        ConfigError: the key holds characters that no header may have.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url = base_url
        try:
            self._api_key = clean_key(api_key)
        except ValueError as error:
            raise ConfigError(
                f"Label Studio's key {error}.", "Correct SAYMASK_LABEL_STUDIO_API_KEY."
            ) from error
        self._access = ""
        # Of ``time.monotonic()``.
        self._expires_at = 0.0

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the Authorization header, after exchanging the token where that is due.

        Threads that find the token expired exchange it each for itself: none waits for another's
        slow answer.

        Raises:
            LabelStudioError: the key was refused.
        """
        if self._api_key and "." not in self._api_key:
            request.headers["Authorization"] = f"Token {self._api_key}"
        elif self._api_key:
            if time.monotonic() > self._expires_at - _TOKEN_MARGIN_S:
                refresh = httpx.Request(
                    "POST",
                    self._base_url + _REFRESH_PATH,
                    json={"refresh": self._api_key},
                    headers={"User-Agent": request.headers["User-Agent"]},
                )
                self._store_access(refresh, (yield refresh))
            request.headers["Authorization"] = f"Bearer {self._access}"
        yield request

    def _store_access(self, refresh: httpx.Request, response: httpx.Response) -> None:
        response.read()
        check_moved(response, self._base_url, _REFRESH_PATH)
        if response.status_code != httpx.codes.OK:
            raise LabelStudioError(
                f"Label Studio refused the personal access token (HTTP {response.status_code}).",
                "Make a new one under Account & Settings, set SAYMASK_LABEL_STUDIO_API_KEY.",
            )
        try:
            access = str(response.json()["access"])
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise LabelStudioError(
                f"{refresh.url} did not answer as Label Studio does.", ADDRESS_CURE
            ) from error
        # Label Studio's clock issues the token and judges it; ours may be another.
        ahead_s = read_clock_offset(response).total_seconds()
        expires_at = time.monotonic() + _read_expiry(access) + ahead_s - time.time()
        # In this order: another thread must not take the old token for the new one's time.
        self._access, self._expires_at = access, expires_at


def check_moved(response: httpx.Response, base_url: str, path: str) -> None:
    """Check that Label Studio answers itself.

    Raises:
        LabelStudioError: it redirects; names the address to use, where that is known.
    """
    if not response.has_redirect_location:
        return
    address = find_new_address(response, base_url, path)
    if address is not None:
        raise LabelStudioError(
            f"Label Studio redirects from {base_url} to {address}.",
            f"Use this address: SAYMASK_LABEL_STUDIO_URL={address}",
        )
    raise LabelStudioError(
        f"{base_url}{path} redirects instead of answering as Label Studio does.",
        "Set SAYMASK_LABEL_STUDIO_URL to the address of Label Studio's first page; it may have to"
        " begin with https://.",
    )


def _read_expiry(access: str) -> float:
    """The ``exp`` claim of a JWT, by the issuer's clock; checking it is the server's task."""
    try:
        payload = access.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (IndexError, ValueError, OverflowError, KeyError, TypeError, binascii.Error) as error:
        raise LabelStudioError("Label Studio sent an access token that is not a JWT.") from error


def read_clock_offset(response: httpx.Response) -> timedelta:
    """Return how far our clock is ahead of a server's, by an answer that has just come.

    Zero where it has no date, or where the difference may be rounding.
    """
    try:
        theirs = to_utc(parsedate_to_datetime(response.headers["Date"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return timedelta(0)
    offset = datetime.now(UTC) - theirs
    return offset if abs(offset) > _CLOCK_PRECISION else timedelta(0)
