"""What commands share: the opened database, Label Studio, and options that select records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from saymask.command_line import parse_one_of, stderr
from saymask.errors import ConfigError, InvalidRequest
from saymask.private_files import make_private_folder
from saymask.redaction import check_http_address
from saymask_backend.config import Settings, load_settings
from saymask_backend.context import build_client
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.stores import Stores
from saymask_backend.services.record import Recorder

# A database's integers have 32 bits.
MAX_ID = 2**31 - 1
ProjectOption = Annotated[
    int | None, typer.Option(min=1, max=MAX_ID, help="Only this Label Studio project.")
]
RequiredProject = Annotated[
    int, typer.Option("--project", min=1, max=MAX_ID, help="The Label Studio project.")
]
SinceOption = Annotated[
    str | None, typer.Option(help="Only since 2026-11-01, 2026-11-01T08:00, 7d or 12h ago.")
]
OutcomeOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Only this outcome: {', '.join(OUTCOME_LABELS)}; can be repeated.",
        parser=parse_one_of(OUTCOME_LABELS),
        metavar="OUTCOME",
    ),
]
AnnotatorOption = Annotated[str | None, typer.Option(help="Only this Label Studio user id.")]

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


@dataclass(frozen=True)
class OpenRecords:
    """The migrated database, with every waiting event processed."""

    settings: Settings
    stores: Stores
    recorder: Recorder


@contextmanager
def open_records(*, creates: bool = False) -> Iterator[OpenRecords]:
    """Open the database, migrate it, and process waiting events.

    Raises:
        ConfigError: there is none, and none is to be created.
    """
    settings = load_settings()
    with closing(Stores(settings.effective_database_url, creates=creates)) as stores:
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
            stderr.print(f"Waiting for another command about project {project}.")
            lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"{settings.data_dir} cannot be written: {error}.", "Check SAYMASK_DATA_DIR."
        ) from error
    try:
        yield
    finally:
        lock.release()


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


def check_address(option: str, value: str) -> str:
    """Return the address of a server, without a slash at the end.

    Raises:
        ConfigError: it is not one, or holds a password.
    """
    try:
        return check_http_address(value)
    except ValueError as error:
        raise ConfigError(f"{option} {error}.", "Write http://HOST:PORT.") from error
