"""What all commands share."""

from __future__ import annotations

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="saymask-worker: proposals, CLIP and ranking. Settings come from SAYMASK_... variables.",
)
models = typer.Typer(no_args_is_help=True, help="Weights: list, pull, verify.")
app.add_typer(models, name="models")
console = Console(stderr=True)
