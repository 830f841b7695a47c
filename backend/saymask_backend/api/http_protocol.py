"""HTTP/1.1 as uvicorn speaks it, with a time limit for the headers."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADERS_S = 10.0


class HeaderDeadlineProtocol(H11Protocol):
    """Closes a connection on which a request's headers do not arrive in time.

    The time counts from the connection, and on one that is kept from the first byte of the next
    request; uvicorn itself closes those that stay silent between two requests.
    """

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the time when the headers are there."""
        super().data_received(data)
        if self._awaits_headers():
            self._start_timer()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._stop_timer()
        super().connection_lost(exc)

    def _awaits_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(_HEADERS_S, self._close_if_incomplete)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _close_if_incomplete(self) -> None:
        self._header_timer = None
        if self._awaits_headers() and not self.transport.is_closing():
            self.transport.close()
