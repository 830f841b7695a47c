"""Starting processes, seeing that they live, and leaving none behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import SaymaskError

_STOP_S = 10.0


class StackError(SaymaskError):
    """A part of the stack could not be started or has died."""


@dataclass
class Part:
    """A running part; ``restart`` says whether it is started again when it dies."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    restart: bool
    process: subprocess.Popen[bytes]


class Stack:
    """The processes of one run, stopped in reverse order of their start.

    Args:
        log_dir: each part writes ``<name>.log`` there.
        say: prints a line for people.
    """

    def __init__(self, log_dir: Path, say: Callable[[str], None]) -> None:
        self._log_dir = log_dir
        self._say = say
        self._parts: list[Part] = []
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(
        self, name: str, command: list[str], environment: dict[str, str], *, restart: bool = False
    ) -> Part:
        """Start a part.

        Raises:
            StackError: the program is not there.
        """
        log = self._log_dir / f"{name}.log"
        part = Part(
            name, command, environment, log, restart, _spawn(name, command, environment, log)
        )
        self._parts.append(part)
        return part

    def wait_until(
        self, part: Part, check: Callable[[], bool], timeout_s: float, what: str
    ) -> None:
        """Wait until ``check`` holds.

        Raises:
            StackError: the part died, or the time is over; quotes the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if check():
                return
            if part.process.poll() is not None:
                raise _died(part, what)
            time.sleep(0.2)
        raise StackError(
            f"{what} was not ready within {timeout_s:g} s:\n{_tail(part.log)}",
            f"The whole log is in {part.log}",
        )

    def watch(self, should_stop: Callable[[], bool]) -> None:
        """Stay until told to stop; a part that dies is started again if it may be.

        Raises:
            StackError: a part died that cannot be started again.
        """
        while not should_stop():
            for part in self._parts:
                status = part.process.poll()
                if status is None:
                    continue
                if not part.restart:
                    raise _died(part, part.name)
                self._say(f"{part.name} stopped with exit status {status}; starting it again")
                part.process = _spawn(part.name, part.command, part.environment, part.log)
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop every part, last started first; one that does not listen is killed."""
        for part in reversed(self._parts):
            _signal_group(part.process, signal.SIGTERM)
        for part in reversed(self._parts):
            try:
                part.process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                self._say(f"{part.name} did not stop within {_STOP_S:g} s and was killed")
                _signal_group(part.process, signal.SIGKILL)
                part.process.wait()
        self._parts.clear()


def _died(part: Part, what: str) -> StackError:
    return StackError(
        f"{what} stopped with exit status {part.process.returncode}:\n{_tail(part.log)}",
        f"The whole log is in {part.log}",
    )


def _spawn(
    name: str, command: list[str], environment: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        try:
            # A session of its own: Ctrl-C reaches us alone, and we stop the parts in order.
            return subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StackError(
                f"{name} could not be started ({command[0]}): {error.strerror}.",
                "Run make up again; it installs what is missing.",
            ) from error


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def require_free_port(port: int, variable: str) -> None:
    """Refuse to start when something listens there already.

    Raises:
        StackError: names the variable that moves it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise StackError(
                f"Port {port} is taken by another program.",
                f"Stop that program, or choose another port: {variable}={port + 1} make up",
            )
