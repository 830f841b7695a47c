"""Processes of the local installation."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import free_port


def test_a_free_port_is_free() -> None:
    from saymask_backend.local_stack.processes import StackError, require_free_port

    port = free_port()
    require_free_port(port, "SAYMASK_PORT")
    server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
    with pytest.raises(StackError, match=f"SAYMASK_PORT={port + 1}"):
        require_free_port(port, "SAYMASK_PORT")
    server.server_close()
