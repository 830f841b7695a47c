"""Starting processes, watching them, and leaving none behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saymask.errors import SaymaskError
from saymask.private_files import make_private_folder

_STOP_TIMEOUT_S = 10.0
_TAIL_LINES = 15


class StackError(SaymaskError):
    """A process of the stack could not be started or has died."""


@dataclass
class ManagedProcess:
    """A running process.

    Attributes:
        restart: it is started again when it dies.
        serves_others: others need it to end in order, so it is stopped after them.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    restart: bool
    serves_others: bool
    process: subprocess.Popen[bytes]


class ProcessGroup:
    """The processes of one run.

    Args:
        log_dir: each process writes ``<name>.log`` there.
        say: prints a line for people.
    """

    def __init__(self, log_dir: Path, say: Callable[[str], None]) -> None:
        self._log_dir = log_dir
        self._say = say
        self._processes: list[ManagedProcess] = []
        make_private_folder(log_dir)

    def start(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        *,
        restart: bool = False,
        serves_others: bool = False,
    ) -> ManagedProcess:
        """Start a process.

        Args:
            name: of its log file.
            command: program and arguments.
            environment: added to this process's own.
            restart: start it again when it dies.
            serves_others: stop it after those that do not.

        Raises:
            StackError: the program does not exist.
        """
        log = self._log_dir / f"{name}.log"
        process = _spawn(name, command, environment, log)
        managed = ManagedProcess(name, command, environment, log, restart, serves_others, process)
        self._processes.append(managed)
        return managed

    def wait_until(
        self, managed: ManagedProcess, check: Callable[[], bool], timeout_s: float, what: str
    ) -> None:
        """Wait until ``check`` holds.

        Raises:
            StackError: the process died, or the time is over; quotes the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if check():
                return
            if managed.process.poll() is not None:
                raise _died(managed, what)
            time.sleep(0.2)
        raise StackError(
            f"{what} was not ready within {timeout_s:g} s:\n{_tail(managed.log)}",
            f"The whole log is in {managed.log}",
        )

    @property
    def processes(self) -> tuple[ManagedProcess, ...]:
        """All that were started, in order."""
        return tuple(self._processes)

    def watch(self, should_stop: Callable[[], bool]) -> None:
        """Watch until told to stop; a process that dies is started again if it may be.

        Raises:
            StackError: a process died that must not be started again.
        """
        while not should_stop():
            for managed in self._processes:
                status = managed.process.poll()
                if status is None:
                    continue
                if not managed.restart:
                    raise _died(managed, managed.name)
                self._say(f"{managed.name} stopped with exit status {status}; starting it again")
                self.restart(managed)
            time.sleep(0.5)

    def restart(self, managed: ManagedProcess) -> None:
        """Start a process again that has ended."""
        managed.process = _spawn(managed.name, managed.command, managed.environment, managed.log)

    def stop(self) -> None:
        """Stop every process, those that serve others last; one that does not react is killed."""
        for serves_others in (False, True):
            together = [m for m in self._processes if m.serves_others == serves_others]
            for managed in together:
                _signal_group(managed.process, signal.SIGTERM)
            for managed in together:
                self._await_end(managed)
        self._processes.clear()

    def _await_end(self, managed: ManagedProcess) -> None:
        try:
            managed.process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._say(f"{managed.name} did not stop within {_STOP_TIMEOUT_S:g} s and was killed")
            _signal_group(managed.process, signal.SIGKILL)
            managed.process.wait()


def _died(managed: ManagedProcess, what: str) -> StackError:
    return StackError(
        f"{what} stopped with exit status {managed.process.returncode}:\n{_tail(managed.log)}",
        f"The whole log is in {managed.log}",
    )


def _spawn(
    name: str, command: list[str], environment: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        try:
            # A new session: Ctrl-C reaches us alone, and we stop the parts in order.
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


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])


def require_free_port(port: int, variable: str) -> None:
    """Check that nothing listens on a port.

    Raises:
        StackError: something does; names the variable that changes the port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise StackError(
                f"Port {port} is taken by another program.",
                f"Stop that program, or choose another port: {variable}={port + 1} make up",
            )
