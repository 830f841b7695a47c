"""Calls of Label Studio's API: deadlines, retries, pages, and errors in words."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import httpx

from saymask.left_out import LeftOut
from saymask_backend.label_studio.auth import (
    ADDRESS_CURE,
    CallRefused,
    LabelStudioAuth,
    LabelStudioError,
    check_moved,
    read_clock_offset,
)
from saymask_backend.label_studio.guarded_http import (
    USER_AGENT,
    DeadlineTransport,
    build_tls,
    explain_failure,
    find_proxy,
    read_at_most,
    time_limit,
)
from saymask_backend.label_studio.schema import Body, Numbered, validate

log = logging.getLogger(__name__)

PAGE_SIZE = 100
_BUSY_STATUSES = (429, 502, 503, 504)
_READ_TRIES = 5
_MAX_RETRY_AFTER_S = 60.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_HEADERS_OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")
# What is decoded of an answer takes four times its length in memory.
_MAX_PAGE_BYTES, _MAX_ANSWER_BYTES = 32_000_000, 256_000_000

Object = TypeVar("Object", bound=Body)


class NotFound(CallRefused):
    """Label Studio does not have the requested object."""


class InvalidAnswer(LabelStudioError):
    """An object of Label Studio's API has an unknown shape."""

    concerns_all = False


class AnswerTooLarge(LabelStudioError):
    """An answer is too long to be read into memory."""

    concerns_all = False


@dataclass(frozen=True)
class Page:
    """One page of a list, or a part of a page that is too large to be read at once.

    Attributes:
        following: number of the page after this; the first is 1.
        items: as they came, without those of earlier pages.
        total: number of items in all, as far as Label Studio says.
        asked_at: before it was asked for, by our clock.
        left_out: why the one item of this part could not be read, or None.
    """

    following: int
    items: list[Any]
    total: int
    asked_at: datetime
    left_out: AnswerTooLarge | None = None


class RestClient:
    """Makes calls as one user, each within ``timeout_s`` in total.

    Every method raises ``LabelStudioError`` when Label Studio cannot be reached, refuses the call
    or answers in an unknown shape, and ``NotFound`` when the object does not exist.
    """

    def __init__(self, base_url: str, api_key: str, timeout_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._clock_offset = timedelta(0)
        self._client = httpx.Client(
            transport=DeadlineTransport(build_tls(), proxy=find_proxy(self.base_url)),
            auth=LabelStudioAuth(self.base_url, api_key),
            headers={"User-Agent": USER_AGENT},
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def to_our_time(self, moment: datetime) -> datetime:
        """Convert a time of Label Studio's clock to ours, by the newest answer's date."""
        return moment + self._clock_offset

    def request(
        self,
        method: str,
        path: str,
        timeout_s: float | None = None,
        max_bytes: int = _MAX_ANSWER_BYTES,
        **arguments: Any,
    ) -> Any:
        """Make one API call; returns the decoded JSON (None for an empty body).

        Reading waits and tries again while Label Studio is too busy. An answer may have
        ``max_bytes``, unpacked. ``arguments`` are those of ``httpx.Client.stream``.
        """
        tries = _READ_TRIES if method == "GET" else 1
        while True:
            tries -= 1
            response = self._send(method, path, timeout_s or self._timeout_s, max_bytes, arguments)
            if response.status_code not in _BUSY_STATUSES or not tries:
                break
            time.sleep(_read_retry_after(response))
        check_moved(response, self.base_url, path)
        _check_status(response, method, path)
        try:
            return response.json() if response.content else None
        except (ValueError, RecursionError) as error:
            raise LabelStudioError(
                f"The answer of {self.base_url}{path} is not valid JSON.", ADDRESS_CURE
            ) from error

    def _send(
        self, method: str, path: str, seconds: float, max_bytes: int, arguments: dict[str, Any]
    ) -> httpx.Response:
        try:
            with (
                time_limit(seconds),
                self._client.stream(
                    method, self.base_url + path, timeout=seconds, **arguments
                ) as answer,
            ):
                response = _read_answer(answer, path, max_bytes)
        except httpx.TimeoutException as error:
            raise LabelStudioError(
                f"Label Studio at {self.base_url} did not answer {path} within {seconds:g} s.",
                ADDRESS_CURE,
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason, cure = explain_failure(error, ADDRESS_CURE)
            raise LabelStudioError(
                f"Label Studio at {self.base_url} cannot be reached: {reason}.", cure
            ) from error
        self._clock_offset = read_clock_offset(response)
        return response

    def iterate_pages(
        self,
        path: str,
        params: dict[str, Any] | None = None,
        page_size: int = PAGE_SIZE,
        first: int = 1,
        timeout_s: float | None = None,
    ) -> Iterator[Page]:
        """Yield the pages of a list to its end, whatever number of items Label Studio puts on one.

        Label Studio has three kinds: a plain list, which is whole, ``results`` with ``count``, and
        ``tasks`` with ``total``; after the last page comes "not found". Every item is yielded once,
        although a list that changes while it is read may show one twice.
        """
        ask = partial(self._ask_page, path, params or {}, timeout_s)
        seen: set[str] = set()
        per_page = 0
        for number in itertools.count(first):
            try:
                whole = ask(number, page_size)
            except AnswerTooLarge:
                whole, parts = None, _ask_parts(ask, number, per_page or page_size)
            else:
                parts = iter([whole] if whole is not None else [])
            has_more = False
            for page in parts:
                by_key = {_identify(item): item for item in page.items}
                new = [item for key, item in by_key.items() if key not in seen]
                seen.update(by_key)
                if new or page.left_out is not None:
                    has_more = True
                    yield replace(page, items=new)
            if whole is not None:
                per_page = max(per_page, len(whole.items))
                reached = (number - 1) * per_page + len(whole.items)
                has_more = has_more and not 0 < whole.total <= reached
            if not has_more:
                return

    def _ask_page(
        self,
        path: str,
        params: dict[str, Any],
        timeout_s: float | None,
        number: int,
        page_size: int,
    ) -> Page | None:
        """One page of a list; None behind its end."""
        query = {**params, "page": number, "page_size": page_size}
        max_bytes = _MAX_PAGE_BYTES if page_size > 1 else _MAX_ANSWER_BYTES
        asked_at = datetime.now(UTC)
        try:
            answer = self.request("GET", path, timeout_s, max_bytes, params=query)
        except NotFound:
            if number == 1:
                raise
            return None
        return Page(number + 1, *_read_page(answer, path), asked_at)

    def list_objects(
        self, path: str, model: type[Object], what: str, **params: Any
    ) -> list[Object]:
        """Return a whole list; an odd object is logged and left out."""
        left_out = LeftOut()
        objects = [
            item
            for page in self.iterate_pages(path, params)
            for item in read_each(page, model, what, left_out)
        ]
        for line in left_out.lines:
            log.warning("Label Studio's %s", line)
        return objects

    def create_once(
        self, find: Callable[[], list[int]], path: str, values: dict[str, Any]
    ) -> tuple[int, bool]:
        """Return the id of an object that is to exist once, and whether it was created now.

        Of several, whose ids ``find`` returns, the oldest counts. If two create one at a time, the
        later one is deleted: both end with the same. ``path`` has no slash at the end.
        """
        existing = find()
        if existing:
            return min(existing), False
        own = read_object(Numbered, self.request("POST", path, json=values)).id
        oldest = min(find(), default=own)
        if oldest >= own:
            return own, True
        self.request("DELETE", f"{path}/{own}")
        return oldest, False


def read_object(model: type[Object], answer: Any) -> Object:
    """Validate an object of the API."""
    return validate(model.model_validate, answer, InvalidAnswer, "Label Studio's answer")


def read_each(page: Page, model: type[Object], what: str, left_out: LeftOut) -> Iterator[Object]:
    """Validate the objects of a page one by one; odd ones are left out."""

    def describe(item: Any) -> str:
        return f"{what} {item.get('id')}" if isinstance(item, dict) else f"{what} {item!r:.40}"

    if page.left_out is not None:
        left_out.add(f"a {what}", str(page.left_out))
    return left_out.convert(page.items, partial(read_object, model), describe)


def _check_status(response: httpx.Response, method: str, path: str) -> None:
    if response.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(f"Label Studio has no {path}.", "Check the number.")
    answered = f"Label Studio answered {response.status_code} to {method} {path}:"
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise LabelStudioError(
            f"{answered} {response.text[:300]}",
            "Set SAYMASK_LABEL_STUDIO_API_KEY to a personal access token (or a legacy token,"
            " if the organization allows them) of a user who may see the project.",
        )
    if response.is_error:
        is_busy = response.status_code in _BUSY_STATUSES
        raise (LabelStudioError if is_busy else CallRefused)(f"{answered} {response.text[:500]}")


def _ask_parts(ask: Callable[[int, int], Page | None], number: int, size: int) -> Iterator[Page]:
    """The items of a page that is too large, one at a time."""
    end = number * size
    for position in range(end - size + 1, end + 1):
        asked_at = datetime.now(UTC)
        try:
            page = ask(position, 1)
        except AnswerTooLarge as error:
            page = Page(position, [], 0, asked_at, error)
        if page is None:
            return
        yield replace(page, following=number + (position == end))


def _read_page(answer: Any, path: str) -> tuple[list[Any], int]:
    """The items of a page, and their number on all pages; 0 where that is not said."""
    if isinstance(answer, list):
        return answer, len(answer)
    if isinstance(answer, dict):
        for name, count in (("results", "count"), ("tasks", "total")):
            items, total = answer.get(name), answer.get(count)
            if isinstance(items, list):
                return items, total if isinstance(total, int) else 0
    raise LabelStudioError(f"Label Studio's answer to {path} is not a list.")


def _identify(item: Any) -> str:
    """A key that is equal for the same item on two pages."""
    item_id = item.get("id") if isinstance(item, dict) else None
    return str(item_id) if type(item_id) is int else json.dumps(item, sort_keys=True)


def _read_answer(answer: httpx.Response, path: str, max_bytes: int) -> httpx.Response:
    """An answer with its whole content."""
    content = read_at_most(answer.iter_bytes(), max_bytes)
    if content is None:
        raise AnswerTooLarge(
            f"Label Studio's answer to {path} is larger than {max_bytes / 1e6:g} MB.",
            "Distribute the annotations over several tasks, or draw smoother outlines.",
        )
    headers = {k: v for k, v in answer.headers.items() if k not in _HEADERS_OF_TRANSFER}
    return httpx.Response(
        answer.status_code, headers=headers, content=content, request=answer.request
    )


def _read_retry_after(response: httpx.Response) -> float:
    """Seconds that Label Studio asks to wait; one second when it does not say."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _MAX_RETRY_AFTER_S) if _SECONDS.fullmatch(asked) else 1.0
