"""Acting as several users of one machine, where tests run as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FIRST, SECOND, GROUP = 65534, 65533, 65532
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Another user of this machine, until the end."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
