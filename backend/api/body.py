"""Reading request bodies: JSON only, up to a limit, decoded off the event loop."""

from __future__ import annotations

import json
from typing import Any

import anyio.to_thread
from fastapi import Request

from saymask.errors import InvalidRequest

_MEGA = 1_000_000


class BodyTooLarge(InvalidRequest):
    """The body is longer than the settings allow."""

    http_status = 413


class NotJson(InvalidRequest):
    """The body is declared to be something else than JSON."""

    http_status = 415


async def read_json(request: Request, max_mb: float, limiter: anyio.CapacityLimiter) -> Any:
    """Return the decoded body.

    Args:
        request: whose body is read.
        max_mb: longest body, megabytes; no more is kept in memory.
        limiter: of the threads that decode.

    Raises:
        NotJson: a browser sends other types to any address without asking; so they are refused.
        BodyTooLarge, InvalidRequest.
    """
    content_type = request.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise NotJson(
            f"The body is {content_type or 'of no type'}.", "Send Content-Type: application/json."
        )
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_mb * _MEGA:
            raise BodyTooLarge(
                f"The body is larger than {max_mb:g} MB.", "Raise SAYMASK_BODY_MAX_MB."
            )
        pieces.append(piece)
    return await anyio.to_thread.run_sync(_decode, b"".join(pieces), limiter=limiter)


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
