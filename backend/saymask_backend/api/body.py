"""Time limits for headers and bodies; bodies are JSON, bounded, and decoded off the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar, cast

import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from saymask.errors import CallAbandoned, InvalidRequest

Result = TypeVar("Result")

_MEGA = 1_000_000
_HEADERS_TIMEOUT_S = 10.0
_BODY_TIMEOUT_S = 30.0
# A longer body takes one of few places while it is read, decoded and used.
_LARGE_BYTES = 1_000_000
_LARGE_PLACES = 2
_THREADS = 8
# How long the rest of a body is discarded after an answer, before the connection is closed: a
# caller that still sends would otherwise lose the answer.
_LINGER_S = 2.0


class BodyTooLarge(InvalidRequest):
    """The body is longer than its kind of request allows."""

    http_status = 413


class BodyTooSlow(InvalidRequest):
    """The body did not arrive in time."""

    http_status = 408


class NotJson(InvalidRequest):
    """The body is declared to be something else than JSON."""

    http_status = 415


class BodyReader:
    """Reads the bodies of one kind of request.

    Short bodies have separate threads, so that long ones delay none of them. Of the long ones
    only a few are in memory at a time; the others wait, unread.

    Args:
        max_mb: longest body, megabytes; no more is kept in memory.
        too_large_cure: cure in the error about a body that is too long.
    """

    def __init__(self, max_mb: float, too_large_cure: str) -> None:
        self._max_mb = max_mb
        self._cure = too_large_cure
        self._short = anyio.CapacityLimiter(_THREADS)
        self._long = anyio.CapacityLimiter(_LARGE_PLACES)
        self._places = asyncio.Semaphore(_LARGE_PLACES)

    async def read(self, request: Request, use: Callable[[Any], Result]) -> Result:
        """Return the result of a function of the decoded body.

        Args:
            request: whose body is read.
            use: called in a thread; the decoded body is freed when it returns.

        Raises:
            NotJson: refused, because a browser sends other types to any address without asking.
            BodyTooLarge, BodyTooSlow, InvalidRequest.
            CallAbandoned: the caller went away.
            whatever ``use`` raises.
        """
        _check_type(request)
        announced = request.headers.get("Content-Length", "0")
        if announced.isdecimal() and int(announced) > self._max_mb * _MEGA:
            raise self._too_large()
        body = bytearray()
        limiter = self._short
        async with AsyncExitStack() as stack:
            async for piece in _stream(request):
                body += piece
                if len(body) > self._max_mb * _MEGA:
                    raise self._too_large()
                if len(body) > _LARGE_BYTES and limiter is self._short:
                    limiter = self._long
                    await stack.enter_async_context(self._places)
            return await anyio.to_thread.run_sync(_decode_and_use, body, use, limiter=limiter)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._max_mb:g} MB.", self._cure)


class BodyDeadlineMiddleware:
    """Gives each request's body a time in which it must have arrived as a whole.

    After that, reading it raises ``BodyTooSlow``. When an answer is sent before the body has
    arrived, the connection is closed after it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        body = _TimedBody(receive)

        async def answer(message: Message) -> None:
            if body.is_complete:
                await send(message)
            elif message["type"] == "http.response.start":
                close = (b"connection", b"close")
                await send({**message, "headers": [*message.get("headers", ()), close]})
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                await send({**message, "more_body": True})
                await body.discard(_LINGER_S)
                await send({"type": "http.response.body"})
            else:
                await send(message)

        await self._app(scope, body.receive, answer)


class HeaderDeadlineProtocol(H11Protocol):
    """Closes a connection on which a request's headers do not arrive in time.

    The time counts from the connection, and on one that is kept from the first byte of the next
    request; uvicorn itself closes those that stay silent between two requests.
    """

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timer when the headers are complete."""
        super().data_received(data)
        if self._awaits_headers():
            self._start_timer()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _awaits_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(_HEADERS_TIMEOUT_S, self._close_if_incomplete)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _close_if_incomplete(self) -> None:
        self._header_timer = None
        if self._awaits_headers() and not self.transport.is_closing():
            self.transport.close()


class _TimedBody:
    """The body of one request, with a deadline."""

    def __init__(self, receive: Receive) -> None:
        self.is_complete = False
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + _BODY_TIMEOUT_S

    async def receive(self) -> Message:
        if self.is_complete:
            return await self._receive()
        try:
            return await self._receive_until(self._deadline)
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The body did not arrive within {_BODY_TIMEOUT_S:g} s.", "Send it faster."
            ) from error

    async def discard(self, seconds: float) -> None:
        """Throw the rest away for a while."""
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            while not self.is_complete:
                await self._receive_until(deadline)
        except TimeoutError:
            return

    async def _receive_until(self, deadline: float) -> Message:
        async with asyncio.timeout_at(deadline):
            message = await self._receive()
        self.is_complete = message["type"] != "http.request" or not message.get("more_body")
        return message


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _check_type(request: Request) -> None:
    content_type = request.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise NotJson(
            f"The body is {content_type or 'of no type'}.", "Send Content-Type: application/json."
        )


async def _stream(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise CallAbandoned("The caller went away before the body was sent.") from error


def _decode_and_use(body: bytearray, use: Callable[[Any], Result]) -> Result:
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
    # The raw bytes are as large as what was decoded from them.
    body.clear()
    return use(decoded)
