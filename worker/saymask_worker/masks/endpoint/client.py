"""Asking an OpenAI-compatible chat server about an image, for an answer in JSON."""

from __future__ import annotations

import ipaddress
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field, ValidationError

from saymask.errors import EndpointError
from saymask.redaction import explain, hide_from_now_on
from saymask_worker.config.settings import EndpointConfig

T = TypeVar("T")

# Both attempts together; Label Studio gives up after 100 s.
_DEADLINE_S = 60.0
# After a server was too slow it is not asked for this long: others would wait as well.
_PAUSE_S = 60.0
_CONNECT_S = 5.0
_MAX_ANSWER_BYTES = 1_000_000
_MAX_TOKENS = 1_000
_EXCERPT_CHARS = 200
_ATTEMPTS = 2
# After models that think aloud have done so.
_END_OF_THOUGHT = "</think>"


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    """What we read of a chat completion."""

    choices: list[_Choice] = Field(min_length=1)


class ChatClient:
    """Asks one server. It follows no redirect, so that the key goes to no other address.

    Args:
        config: the server and its model.
        deadline_s: for one question, with its second attempt, seconds.
    """

    def __init__(self, config: EndpointConfig, deadline_s: float = _DEADLINE_S) -> None:
        self._config, self._deadline_s = config, deadline_s
        # Processes that are sent settings have not read them, where keys are hidden otherwise.
        hide_from_now_on(config.key)
        self._paused_until = -math.inf
        # A proxy of the environment cannot reach this machine's own addresses.
        self._uses_proxies = not _is_local(config.url)

    def ask(
        self, image_url: str, text: str, schema: Mapping[str, Any], read: Callable[[Any], T]
    ) -> T:
        """Ask about an image, and once more where the answer cannot be used.

        Args:
            image_url: the image itself, as a ``data:`` address.
            text: the question.
            schema: JSON schema of the answer.
            read: converts the answer's JSON; a ValueError says what is wrong with it.

        Raises:
            EndpointError: no answer in time, none that ``read`` accepts, or a refusal.
        """
        now = time.monotonic()
        if now < self._paused_until:
            raise self._fail(f"was too slow; it is asked again after {_PAUSE_S:.0f} s")
        ends_at = now + self._deadline_s
        problem = ""
        for _ in range(_ATTEMPTS):
            body = self._post(self._build_request(image_url, text, schema), ends_at)
            try:
                return read(_find_json(_read_content(body)))
            except ValueError as error:
                problem = explain(error)
        raise EndpointError(
            f"The model {self._config.model} gives no usable answer: {problem}.",
            "Check SAYMASK_ENDPOINT_MODEL and SAYMASK_ENDPOINT_COORDINATES with: saymask-worker"
            " endpoint",
        )

    def _build_request(
        self, image_url: str, text: str, schema: Mapping[str, Any]
    ) -> dict[str, object]:
        content = [
            {"type": "image_url", "image_url": {"url": image_url}},
            {"type": "text", "text": text},
        ]
        return {
            "model": self._config.model,
            "messages": [{"role": "user", "content": content}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            },
            "temperature": 0,
            "max_tokens": _MAX_TOKENS,
        }

    def _post(self, request: Mapping[str, object], ends_at: float) -> bytes:
        """The body of the answer."""
        key = self._config.key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise self._time_out()
        timeout = httpx.Timeout(left_s, connect=min(_CONNECT_S, left_s))
        url = f"{self._config.url}/chat/completions"
        try:
            with (
                httpx.Client(timeout=timeout, trust_env=self._uses_proxies) as client,
                client.stream("POST", url, json=request, headers=headers) as response,
            ):
                body = self._read_body(response, ends_at)
        except httpx.TimeoutException as error:
            raise self._time_out() from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._fail(f"cannot be asked ({explain(error)})") from error
        if response.status_code != httpx.codes.OK:
            raise self._refuse(response.status_code, body)
        return body

    def _read_body(self, response: httpx.Response, ends_at: float) -> bytes:
        body = b""
        for part in response.iter_bytes():
            body += part
            if len(body) > _MAX_ANSWER_BYTES:
                raise self._fail(f"sent more than {_MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > ends_at:
                raise self._time_out()
        return body

    def _time_out(self) -> EndpointError:
        self._paused_until = time.monotonic() + _PAUSE_S
        return self._fail(f"gave no answer within {self._deadline_s:g} s")

    def _refuse(self, status: int, body: bytes) -> EndpointError:
        """The error for a status; what servers say about a wrong key may hold a part of it."""
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return self._fail(f"refuses the key ({status})", "Set SAYMASK_ENDPOINT_KEY.")
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return self._fail("refuses further questions for now (429)", "Try again later.")
        if httpx.codes.is_redirect(status):
            return self._fail(
                f"redirects ({status}), which is not followed",
                "Set SAYMASK_ENDPOINT_URL to the final address.",
            )
        said = " ".join(body.decode("utf-8", "replace").split())
        if self._config.key:
            said = said.replace(self._config.key, "***")
        return self._fail(f"answered with status {status}: {said[:_EXCERPT_CHARS]}")

    def _fail(self, what: str, cure: str = "") -> EndpointError:
        cure = cure or "Check SAYMASK_ENDPOINT_URL and SAYMASK_ENDPOINT_MODEL, and the server."
        return EndpointError(f"The chat server {self._config.url} {what}.", cure)


def _is_local(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_content(body: bytes) -> str:
    try:
        return _Completion.model_validate_json(body).choices[0].message.content
    except ValidationError as error:
        raise ValueError("it is not a chat completion with a text") from error


def _find_json(text: str) -> Any:
    """Return the first JSON object of a text; servers without structured output add words."""
    text = text.rpartition(_END_OF_THOUGHT)[2]
    start = text.find("{")
    if start < 0:
        raise ValueError("there is no JSON in it")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError("its JSON is broken") from error
