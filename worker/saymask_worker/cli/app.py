"""What all commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="saymask-worker: proposals, CLIP and ranking. Settings come from SAYMASK_... variables.",
)
models = typer.Typer(no_args_is_help=True, help="Weights: list, pull, verify.")
app.add_typer(models, name="models")
console = Console(stderr=True)

_MAX_LINES = 20


@contextmanager
def show_progress(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; what is yielded is called with the number of finished items and of all."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_failed(lines: Sequence[str]) -> None:
    """Print the first of what failed."""
    for line in lines[:_MAX_LINES]:
        console.print(f"[red]failed:[/red] {escape(line)}", highlight=False)
    if len(lines) > _MAX_LINES:
        console.print(f"and {len(lines) - _MAX_LINES} more")
