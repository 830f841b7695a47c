"""Secrets: checked where they enter, and removed from every message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr

_HIDDEN = "***"
# A shorter value is part of ordinary words; hiding it would spoil every message.
_MIN_HIDDEN_CHARS = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KEY = re.compile(r"[\x21-\x7e]*")
_SECRET_OPTION = re.compile(r"pass(word|wd|phrase)?$|pwd$|secret|token", re.IGNORECASE)
# What may follow the user and password in an address: host, port, then path or query.
_HOST_AND_REST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:\[\]]*)(:\d+)?(,[^/?#@]*)?([/?#].*)?")
_WHITESPACE = re.compile(r"\s")
# Up to the @ after it: a user without a slash, or a user and any password, but no port and path.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/]+$|[^/:]*:(?!\d+/))")
_AUTHORIZATION_IN_TEXT = re.compile(r"\b(Token|Bearer|Basic) [A-Za-z0-9._~+/=-]{20,}")
_BYTES_IN_TEXT = re.compile(r"\bb(['\"]).*\1", re.DOTALL)

_secrets: set[str] = set()


def clean_secret(value: str) -> str:
    """Return a password or shared secret as it is used, and hide it from now on.

    Spaces and line ends around it are removed: secrets read from files end with a line feed.

    Raises:
        ValueError: it holds a control character; the text does not show the value.
    """
    plain = clean_line(value)
    hide_from_now_on(plain)
    return plain


def clean_line(value: str) -> str:
    """Return a text without the spaces and line ends around it.

    Raises:
        ValueError: it holds a control character; the text does not show the value.
    """
    plain = value.strip()
    if _CONTROL.search(plain):
        raise ValueError("must be one line without control characters (the value is not shown)")
    return plain


def clean_key(value: str) -> str:
    """Return a key that is sent as an HTTP header; see ``clean_secret``.

    Raises:
        ValueError: it holds a space or a character that no header may have.
    """
    plain = clean_secret(value)
    if not _KEY.fullmatch(plain):
        raise ValueError(
            "must be one word of ASCII letters, digits and signs (the value is not shown)"
        )
    return plain


def clean_address(value: str) -> str:
    """Return the address of a database or queue, its user and password percent-encoded.

    The signs ``/``, ``?``, ``#`` and ``@`` may stand unescaped in the password as long as only one
    reading is possible. The password is hidden from now on, and so are options like sslpassword.

    Raises:
        ValueError: two readings are possible, or none; the text does not show the value.
    """
    plain = value.strip()
    scheme, separator, rest = plain.partition("://")
    credentials, at, host = rest.rpartition("@")
    for name, option in parse_qsl(host.partition("?")[2]):
        if _SECRET_OPTION.search(name):
            hide_from_now_on(option)
    if scheme.startswith(("sqlite", "unix")) or not (separator and at):
        return clean_line(plain)
    user, _, password = credentials.partition(":")
    hide_from_now_on(password)
    before_path = re.split(r"[/?#]", rest, maxsplit=1)[0]
    is_ambiguous = "@" in before_path and len(before_path) <= len(credentials)
    is_damaged = _CONTROL.search(plain) or not _HOST_AND_REST.fullmatch(host)
    if is_ambiguous or is_damaged:
        raise ValueError(
            "cannot be read (it is not shown); in user, password and options write @ as %40,"
            " / as %2F, ? as %3F, # as %23 and % as %25"
        )
    encoded = ":".join(quote(part, safe="%") for part in (user, password))
    return f"{scheme}://{encoded if ':' in credentials else quote(user, safe='%')}@{host}"


def check_http_address(value: str) -> str:
    """Return the address of a server, without a slash at the end.

    Raises:
        ValueError: it is not one; the text does not show what may be secret in it.
    """
    plain = value.strip()
    try:
        parts = urlsplit(plain)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_complete = is_complete and (parts.port is None or parts.port > 0)
        # Resolving refuses empty labels and those of more than 63 characters.
        (parts.hostname or "").encode("idna")
    except ValueError:
        is_complete = False
    if "@" in plain:
        hide_from_now_on(plain.partition("://")[2].rpartition("@")[0].partition(":")[2])
        raise ValueError("must hold neither user nor password (it is not shown)")
    if not is_complete or re.search(r"[\s?#]", plain):
        raise ValueError("must be http://HOST:PORT or https://HOST, with a path where there is one")
    return plain.rstrip("/")


def hide_from_now_on(secret: str) -> None:
    """Remember a secret, so that ``hide`` replaces it, encoded or not."""
    for form in (secret, unquote(secret), quote(secret, safe="")):
        _secrets.update(part for part in form.split() if len(part) >= _MIN_HIDDEN_CHARS)


def hide(text: str) -> str:
    """Return a text without known secrets, credentials in addresses, and authorization headers."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _AUTHORIZATION_IN_TEXT.sub(rf"\1 {_HIDDEN}", _remove_credentials(text))


def _remove_credentials(text: str) -> str:
    """Remove user and password from the addresses in a text, in a time linear in its length."""
    *before, last = text.split("@")
    kept = []
    for part in before:
        last_word_at = len(part) - len(_WHITESPACE.split(part)[-1])
        found = _CREDENTIALS.search(part, last_word_at)
        kept.append(part + "@" if found is None else part[: found.start()])
    return "".join(kept) + last


def explain(error: BaseException) -> str:
    """Return the first line of what a library says about a failure, without secrets.

    Byte strings are removed whole: HTTP libraries quote the headers that they refuse.
    """
    lines = _BYTES_IN_TEXT.sub(_HIDDEN, str(error)).strip().splitlines()
    return hide(lines[0] if lines else type(error).__name__).rstrip(".")


def _clean_with(clean: Callable[[str], str]) -> Callable[[SecretStr], SecretStr]:
    return lambda secret: SecretStr(clean(secret.get_secret_value()))


Secret = Annotated[SecretStr, AfterValidator(_clean_with(clean_secret))]
"""The type of a setting that holds a password; see ``clean_secret``."""

Key = Annotated[SecretStr, AfterValidator(_clean_with(clean_key))]
"""The type of a setting that holds a key; see ``clean_key``."""

SecretAddress = Annotated[str, AfterValidator(clean_address), Field(repr=False)]
"""The type of a setting that holds an address with a password; see ``clean_address``."""
