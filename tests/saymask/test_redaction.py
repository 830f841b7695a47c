"""Secrets: what is accepted, and what no message shows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from saymask import redaction
from saymask.errors import ConfigError
from saymask.logs import JsonFormatter, TextFormatter
from saymask.redaction import clean_address, clean_key, clean_secret, explain, hide

ODD = "a/b?c#d@e%f g:h+'\""


@pytest.fixture(autouse=True)
def no_earlier_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_secrets", set())
    return iter([None])


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}\t", "{}"])
def test_spaces_and_line_ends_around_a_secret_are_removed(around: str) -> None:
    assert clean_secret(around.format("MARKED-secret")) == "MARKED-secret"
    assert clean_key(around.format("MARKED.key")) == "MARKED.key"
    address = clean_address(around.format("redis://:MARKED-word@host:6379/0"))
    assert address == "redis://:MARKED-word@host:6379/0"


@pytest.mark.parametrize("clean", [clean_secret, clean_key, clean_address])
@pytest.mark.parametrize("odd", ["MARKED\nsecret", "MARKED\x00secret", "MARKED\u2028secret"])
def test_control_characters_are_refused_without_showing_the_value(clean: object, odd: str) -> None:
    value = f"redis://:{odd}@host/0" if clean is clean_address else odd
    with pytest.raises(ValueError, match="not shown") as caught:
        clean(value)  # type: ignore[operator]
    assert "MARKED" not in str(caught.value)


def test_a_key_is_one_word() -> None:
    for odd in ("MARKED key", "MARKED-ключ"):
        with pytest.raises(ValueError, match="one word") as caught:
            clean_key(odd)
        assert "MARKED" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "redis://127.0.0.1:6379/0", "redis://[::1]:6379/0", "unix:///run/redis.sock?db=1",
        "sqlite:////tmp/a@b/x?y#z.db", "postgresql:///name", "", "postgresql://u:p%40q@h1:1,h2:2/db",
        "redis://user:word@host:6379/0?health_check_interval=2", "postgresql://user@host/name",
    ],
)  # fmt: skip
def test_well_formed_addresses_stay_as_they_are(address: str) -> None:
    assert clean_address(address) == address


@pytest.mark.parametrize("sign", [*"/?#@:+&='\" ", "@@", "/x#y", "ö", "%z"])
@pytest.mark.parametrize("host", ["host:6379/0", "[::1]:6379/0", "host"])
def test_reserved_signs_in_a_password_are_understood(sign: str, host: str) -> None:
    password = f"before{sign}behind"
    address = clean_address(f"redis://user:{password}@{host}")
    parts = urlsplit(address)
    assert (parts.username, unquote(parts.password or "")) == ("user", password)
    assert parts.hostname in ("host", "::1")


@pytest.mark.parametrize(
    "address",
    [
        "redis://:MARKED@one/two@host:6379/0", "postgresql://u:MARKED@host/db?options=MARKED@x",
        "redis://:MARKED@host:port/0", "redis://:MARKED@[host/0",
    ],
)  # fmt: skip
def test_addresses_with_two_readings_or_none_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="%40") as caught:
        clean_address(address)
    assert "MARKED" not in str(caught.value)


def test_what_libraries_quote_is_hidden() -> None:
    clean_key("MARKED-key-of-someone")
    clean_address(f"postgresql://user:MARKED-{ODD.replace('@', '')}@host/db?password=MARKED-option")
    quoted = [
        "Illegal header value b'Token MARKED-key-of-someone\\n'",
        'Illegal header value b"Token \'unknown-but-long-enough"',
        "Port could not be cast: http://user:MARKED-unknown@host/x",
        "at redis://:MARKED/un?known@host:6379/0",
        "Authorization: Bearer eyJMARKEDMARKEDMARKEDMARKED.x.y",
        "password=MARKED-option, MARKED-key-of-someone",
        "MARKED-a/b?c#de%f g:h+'\"",
        "first line\nMARKED-second line",
    ]
    for text in quoted:
        said = explain(httpx.LocalProtocolError(text))
        assert "MARKED" not in said
        assert "unknown" not in said
    assert explain(ValueError()) == "ValueError"
    kept = "http://host:8080/users/a@b says Basic authentication, see https://x.example/@y"
    assert hide(kept) == kept


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter("%(message)s")])
def test_messages_and_logs_hide_secrets(formatter: logging.Formatter) -> None:
    clean_secret("MARKED-secret")
    error = ConfigError("wrong: MARKED-secret", "not MARKED-secret")
    assert "MARKED" not in f"{error} {error!r} {error.cause} {error.cure}"
    try:
        raise RuntimeError("MARKED-secret")
    except RuntimeError as problem:
        trace = (type(problem), problem, problem.__traceback__)
    record = logging.LogRecord("x", logging.INFO, "", 1, "said %s", ("MARKED-secret",), trace)
    line = formatter.format(record)
    assert "MARKED-secret" not in line
    assert "RuntimeError" in line
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == "said ***"


def test_a_message_of_megabytes_is_cleaned_at_once_and_shortened() -> None:
    """A search that begins anew at every address would take hours."""
    for text in ("://a:" * 200_000, "://" * 300_000 + " @", " @" * 200_000):
        assert len(hide(text)) <= len(text)
        error = ConfigError(text, text)
        assert len(str(error)) < 20_000


@pytest.mark.parametrize("option", ["password", "PASSWORD", "sslpassword", "passwd", "auth_token"])
def test_options_that_hold_secrets_are_hidden(option: str) -> None:
    clean_address(f"postgresql://user:word@host/db?{option}=MARKED-option&connect_timeout=10")
    assert hide("it says MARKED-option, connect_timeout=10") == "it says ***, connect_timeout=10"
