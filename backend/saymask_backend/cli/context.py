"""What commands share: the opened database, Label Studio, options, progress and output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saymask.errors import ConfigError, InvalidRequest
from saymask.image_files import to_printable
from saymask.private_files import make_private_folder
from saymask_backend.config import Settings, check_http_address, load_settings
from saymask_backend.context import build_client
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.stores import Stores
from saymask_backend.services.record import Recorder

console = Console()

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]
ProjectOption = Annotated[int | None, typer.Option(help="Only this Label Studio project.")]
SinceOption = Annotated[
    str | None, typer.Option(help="Only since then: 2026-11-01, 2026-11-01T08:00, 7d or 12h.")
]
OutcomeOption = Annotated[
    list[str] | None, typer.Option(help=f"One of {', '.join(OUTCOME_LABELS)}; repeatable.")
]
AnnotatorOption = Annotated[str | None, typer.Option(help="Only this Label Studio user id.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count, change nothing.")]

_MAX_LINES = 20
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}

ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished items and of all."""


@dataclass(frozen=True)
class OpenRecords:
    """The migrated database, with every waiting event processed."""

    settings: Settings
    stores: Stores
    recorder: Recorder


@contextmanager
def open_records() -> Iterator[OpenRecords]:
    """Open the database, migrate it, and process waiting events."""
    settings = load_settings()
    with closing(Stores(settings.effective_database_url)) as stores:
        stores.migrate()
        recorder = Recorder(stores)
        recorder.process_waiting()
        yield OpenRecords(settings, stores, recorder)


@contextmanager
def log_in(settings: Settings) -> Iterator[LabelStudioClient]:
    """Open a client of the Label Studio that the settings name.

    Raises:
        ConfigError: address or key are not set.
    """
    with closing(build_client(settings)) as client:
        yield client


@contextmanager
def one_at_a_time(settings: Settings, project: int) -> Iterator[None]:
    """Let one command of this machine work on a project's tasks at a time; others wait.

    Two that see the same gap would both fill it.

    Raises:
        ConfigError: the data directory cannot be written.
    """
    try:
        make_private_folder(settings.data_dir)
        lock = FileLock(settings.data_dir / f"project-{project}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            Console(stderr=True).print(f"Waiting for another command about project {project}.")
            lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"{settings.data_dir} cannot be written: {error}.", "Check SAYMASK_DATA_DIR."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[ProgressCallback]:
    """Show progress on stderr, so that stdout holds the answer alone."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


def print_json(value: object) -> None:
    """Print a value as indented JSON; times and paths as text."""
    print(json.dumps(value, indent=2, default=str))


def print_line(text: str) -> None:
    """Print a line as it is, without markup or highlighting."""
    console.print(text, highlight=False, markup=False)


def print_problems(label: str, lines: Sequence[str]) -> None:
    """Print problems in red, at most twenty."""
    for line in lines[:_MAX_LINES]:
        console.print(f"[red]{label}:[/red] {escape(to_printable(line))}", highlight=False)
    if len(lines) > _MAX_LINES:
        console.print(f"and {len(lines) - _MAX_LINES} more")


def parse_since(text: str | None) -> datetime | None:
    """Parse a date, a time, or a span back from now such as ``7d``; UTC where no zone is given.

    Raises:
        InvalidRequest: it is none of these.
    """
    if text is None:
        return None
    if text[:-1].isdigit() and text[-1:] in _UNITS:
        try:
            return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        except OverflowError as error:
            raise InvalidRequest(f"{text!r} is too long ago.", "Leave --since out.") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} is not a time.", "Write 2026-11-01, 2026-11-01T08:00, 7d or 12h."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def check_outcomes(outcomes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the outcomes if all of them exist.

    Raises:
        InvalidRequest: one is unknown.
    """
    unknown = [name for name in outcomes or () if name not in OUTCOME_LABELS]
    if unknown:
        raise InvalidRequest(
            f"There is no outcome {unknown[0]!r}.", f"Use one of {', '.join(OUTCOME_LABELS)}."
        )
    return tuple(outcomes or ())


def check_address(option: str, value: str) -> str:
    """Return the address of a server, without a slash at the end.

    Raises:
        ConfigError: it is not one, or holds a password.
    """
    try:
        return check_http_address(value)
    except ValueError as error:
        raise ConfigError(f"{option} {error}.", "Write http://HOST:PORT.") from error


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Check the value of an option.

    Raises:
        InvalidRequest: it is not one of the choices.
    """
    if value not in choices:
        *others, last = choices
        raise InvalidRequest(f"{option} {value} is unknown.", f"Use {', '.join(others)} or {last}.")
