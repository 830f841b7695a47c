"""Processes of the local installation."""

from __future__ import annotations

import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


def test_what_others_need_is_stopped_after_them(tmp_path: Path) -> None:
    """A worker that ends while its queue is away waits for it, and had to be killed."""
    from saymask_backend.local_stack.processes import ProcessGroup

    wait = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: {});"
        " print(1, flush=True)\n"
    )
    client = wait.format("(time.sleep(1), print('left', flush=1), sys.exit())") + "time.sleep(60)"
    server = wait.format("(print('left', flush=1), sys.exit())") + "time.sleep(60)"
    said: list[str] = []
    group = ProcessGroup(tmp_path, said.append)
    parts = [
        group.start(name, [sys.executable, "-c", code], {}, serves_others=name == "server")
        for name, code in (("server", server), ("client", client))
    ]
    for part in parts:
        group.wait_until(part, lambda part=part: "1" in part.log.read_text(), 60, part.name)
    group.stop()
    first, last = parts[1].log.stat().st_mtime_ns, parts[0].log.stat().st_mtime_ns
    assert all("left" in part.log.read_text() for part in parts)
    assert first < last
    assert said == []


def test_the_start_says_what_took_longest() -> None:
    from saymask_backend.local_stack.up import _Steps

    said: list[str] = []
    steps = _Steps(said.append)
    with steps.step("queue"):
        pass
    with steps.step("Label Studio", " (half a minute the first time)"):
        time.sleep(0.01)
    steps.finish()
    assert said[2] == "Label Studio (half a minute the first time) ..."
    assert re.fullmatch(r"All is ready after 0 s; what took longest: Label Studio, 0 s\.", said[-1])
