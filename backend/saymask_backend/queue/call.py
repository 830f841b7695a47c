"""The HTTP call on whose behalf something is done."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field


def new_call_id() -> str:
    """Return an id that no other call has."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class Call:
    """A call that waits for an answer.

    Attributes:
        id: names it in logs, from Label Studio's request to the worker's stages.
        arrived: ``time.monotonic()`` when it arrived; deadlines count from here.
        disconnected: set when the caller has closed the connection.
    """

    id: str = field(default_factory=new_call_id)
    arrived: float = field(default_factory=time.monotonic)
    disconnected: threading.Event = field(default_factory=threading.Event)
