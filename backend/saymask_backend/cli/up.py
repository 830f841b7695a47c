"""``saymask up``: everything on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saymask.errors import ConfigError
from saymask.private_files import DEFAULT_UP_DIR, UP_DIR_VARIABLE
from saymask.redaction import clean_address
from saymask_backend.cli.context import print_line
from saymask_backend.local_stack.up import UpOptions, run_up


def up(
    label_studio: Annotated[
        Path, typer.Option(help="The label-studio program.", envvar="SAYMASK_LABEL_STUDIO_PROGRAM")
    ],
    data_dir: Annotated[
        Path, typer.Option(help="Where everything is kept.", envvar=UP_DIR_VARIABLE)
    ] = Path(DEFAULT_UP_DIR),
    label_studio_port: Annotated[int, typer.Option(envvar="SAYMASK_LABEL_STUDIO_PORT")] = 8080,
    port: Annotated[int, typer.Option(envvar="SAYMASK_PORT")] = 9090,
    queue_port: Annotated[int, typer.Option(envvar="SAYMASK_QUEUE_PORT")] = 6390,
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="Use this queue, start none.")
    ] = "",
    background_workers: Annotated[
        int,
        typer.Option(
            min=0,
            envvar="SAYMASK_BACKGROUND_WORKERS",
            help="Workers that only prepare photos; 0 leaves it to the one that answers.",
        ),
    ] = 1,
) -> None:
    """Start queue, workers, backend and Label Studio with sample photos; Ctrl-C stops them.

    Commands in the same folder then find this installation.

    Example: saymask up --label-studio .venv-label-studio/bin/label-studio
    """
    try:
        redis_url = clean_address(redis_url)
    except ValueError as error:
        raise ConfigError(f"REDIS_URL {error}.", "Correct it, or leave it out.") from error
    options = UpOptions(
        data_dir.resolve(),
        label_studio,
        label_studio_port,
        port,
        queue_port,
        redis_url,
        background_workers,
    )
    run_up(options, print_line)
