"""What both command lines share: options, progress, output, and errors without secrets.

Answers go to stdout; progress, problems and errors go to stderr. In every command's ``--json``,
``failed`` names the items that it could not do, one ``name: reason`` each, and the exit status is
then 1; ``problems`` are annotations that cannot be interpreted.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from saymask.errors import InvalidRequest, SaymaskError
from saymask.image_files import to_printable
from saymask.redaction import hide
from saymask.settings import list_unknown_settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count only; change nothing.")]

console = Console()
stderr = Console(stderr=True)

_MAX_LINES = 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# A terminal of 80 columns is the narrowest for which tables are made.
_WIDE_COLUMNS = 110
# An epoch of a training run may take minutes.
_SPEED_PERIOD_S = 3600.0


def parse_one_of(names: Collection[str]) -> Callable[[str], str]:
    """Return a parser for a repeatable option, which Typer does not restrict to literals."""

    def parse(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, names))}.")
        return value

    return parse


def build_app(help_: str) -> typer.Typer:
    """Return a command line without commands."""
    return typer.Typer(
        help=help_, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )


def run_command_line(app: Callable[[], object]) -> None:
    """Run a command line; an error is printed as cause and cure, with exit status 2."""
    if unknown := list_unknown_settings():
        # Not an error: Kubernetes sets such variables for a service of this name.
        text = f"{', '.join(unknown)}: no such setting; docs/settings.md lists all."
        _print_labelled("ignored", text)
    try:
        app()
    except SaymaskError as error:
        _print_labelled("error", error.cause)
        if error.cure:
            _print_plain(stderr, error.cure)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _FULL:
            _print_bug()
            sys.exit(1)
        # Any file of any command, its temporary ones too.
        _print_labelled("error", f"{error.filename or 'A file'} cannot be written: {error}.")
        _print_plain(stderr, "Make room on that disk, or name a folder on another one.")
        sys.exit(2)
    except Exception:  # noqa: BLE001
        _print_bug()
        sys.exit(1)


@contextmanager
def show_progress(
    title: str, *, quiet: bool = False, in_bytes: bool = False, target: Console = stderr
) -> Iterator[Callable[..., None]]:
    """Show a progress bar, which the yielded function updates.

    That takes what an ``OnProgress`` does; and figures to show behind that, and another title.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
    )  # fmt: skip
    bar = Progress(*columns, console=target, disable=quiet, speed_estimate_period=_SPEED_PERIOD_S)
    with bar:
        task = bar.add_task(title, total=None, figures="")

        def update(
            done: int, total: int | None, figures: str = "", title: str | None = None
        ) -> None:
            bar.update(task, completed=done, total=total, figures=figures, description=title)

        yield update


@contextmanager
def show_step(title: str) -> Iterator[None]:
    """Show what takes a while: as long as it does on a terminal, elsewhere as a line."""
    if not stderr.is_terminal:
        _print_plain(stderr, f"{title} ...")
        yield
        return
    with stderr.status(title):
        yield


def is_wide() -> bool:
    """Whether the terminal has room for every column of a long table."""
    return console.width >= _WIDE_COLUMNS


def build_table(*texts: str, numbers: Sequence[str] = (), title: str | None = None) -> Table:
    """Return an empty table without frames, for terminals from 80 columns on.

    Args:
        texts: headings of columns whose long cells continue on the next line.
        numbers: headings of the columns after them, which are aligned to the right and never cut.
        title: above the table, as it is.
    """
    table = Table(
        title=None if title is None else escape(title), title_justify="left", box=None,
        pad_edge=False, padding=(0, 2 if is_wide() else 1, 0, 0),
    )  # fmt: skip
    for heading in texts:
        table.add_column(heading, overflow="fold", min_width=len(heading))
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    return table


def print_json(value: object) -> None:
    """Print a value as indented JSON; times and paths as text."""
    print(json.dumps(value, indent=2, default=_to_plain))


def print_line(text: str) -> None:
    """Print a line of text as it is, neither wrapped nor interpreted as markup."""
    _print_plain(console, text)


def print_problems(label: str, lines: Sequence[str]) -> None:
    """Print at most twenty problems in red."""
    for line in lines[:_MAX_LINES]:
        _print_labelled(label, line)
    if len(lines) > _MAX_LINES:
        _print_plain(stderr, f"and {len(lines) - _MAX_LINES} more")


def finish(
    report: object, text: str, *, as_json: bool, failed: Sequence[str] = (), is_ok: bool = True
) -> NoReturn:
    """Print what a command did, as JSON or as text, and end it.

    Args:
        report: for JSON.
        text: for people.
        as_json: whether to print JSON.
        failed: the items that could not be done; if there are any, the exit status is 1.
        is_ok: False also gives the exit status 1.
    """
    if as_json:
        print_json(report)
    else:
        print_line(text)
        print_problems("failed", failed)
    raise typer.Exit(0 if is_ok and not failed else 1)


@contextmanager
def explain_writing(path: Path) -> Iterator[None]:
    """Say in words that a file that the user named cannot be written.

    Raises:
        InvalidRequest: instead of OSError, and of ValueError, for a picture of an unknown suffix.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"{path} cannot be written: {error}.",
            "Name a file in a folder that exists; a picture ends in .png or .jpg.",
        ) from error


def _print_bug() -> None:
    """Print a bug's trace, without the secrets that libraries quote."""
    sys.stderr.write(hide(traceback.format_exc()))


def _print_labelled(label: str, text: str) -> None:
    # A text may quote the name of a file, which need not be UTF-8.
    line = f"[red]{label}:[/red] {escape(to_printable(text))}"
    stderr.print(line, highlight=False, soft_wrap=True)


def _print_plain(target: Console, text: str) -> None:
    target.print(to_printable(text), highlight=False, markup=False, soft_wrap=True)


def _to_plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
