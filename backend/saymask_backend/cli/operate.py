"""Running an installation: ``saymask up``, ``serve``, ``status``, ``backup`` and ``restore``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn

from saymask.command_line import (
    JsonOption,
    build_table,
    console,
    finish,
    print_json,
    print_line,
    show_progress,
)
from saymask.errors import ConfigError, QueueUnavailable, counted
from saymask.logs import configure_logging
from saymask.private_files import DEFAULT_UP_DIR, UP_DIR_VARIABLE
from saymask.redaction import clean_address, explain
from saymask_backend.api.app import create_app
from saymask_backend.api.body import HeaderDeadlineProtocol
from saymask_backend.cli.context import check_address
from saymask_backend.config import load_settings
from saymask_backend.label_studio.guarded_http import get_json
from saymask_backend.local_stack.up import UpOptions, run_up
from saymask_backend.records.backup import restore_backup, write_backup
from saymask_backend.records.stores import Stores

_READY_TIMEOUT_S = 10.0
FileArgument = Annotated[Path, typer.Argument(help="A .zip file.")]
_WORKER_COLUMNS = ("name", "queues", "state", "encoder", "proposals", "device")


def serve(
    host: Annotated[str | None, typer.Option(help="Address; default SAYMASK_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default SAYMASK_PORT.")] = None,
) -> None:
    """Run the backend.

    Example: SAYMASK_LABEL_STUDIO_URL=http://localhost:8080 saymask serve --port 9090
    """
    options = {"host": host, "port": port}
    settings = load_settings(**{name: v for name, v in options.items() if v is not None})
    configure_logging(settings.log_format)
    app = create_app(settings)
    # First, so that a database that cannot be used is an error in words.
    with closing(Stores(settings.effective_database_url)) as stores:
        stores.migrate()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        http=HeaderDeadlineProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )


def status(
    url: Annotated[str | None, typer.Option(help="Address of a running backend.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a running backend for its state. Exit status 0 means ready.

    Example: saymask status --json
    """
    settings = load_settings()
    address = check_address("--url", url or f"http://{settings.host}:{settings.port}")
    try:
        answer = get_json(f"{address}/ready", settings.login, _READY_TIMEOUT_S)
        workers = answer["workers"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise QueueUnavailable(
            f"No backend answers at {address}: {explain(error)}.", "Start it: saymask serve"
        ) from error
    if as_json:
        print_json(answer)
    else:
        texts = ("worker", "queues", "state", "encoder", "proposals", "device")
        table = build_table(*texts, numbers=("MB", "jobs"))
        for worker in workers:
            table.add_row(
                *(worker[key] for key in _WORKER_COLUMNS),
                f"{worker['rss_mb']:.0f}",
                str(worker["jobs_done"]),
            )
        console.print("ready" if answer["ready"] else "not ready", answer["model_version"])
        console.print(answer["queue_error"] or answer["queues"])
        console.print(table)
    raise typer.Exit(0 if answer["ready"] else 1)


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


def backup(file: FileArgument, as_json: JsonOption = False) -> None:
    """Write everything in the database to one file, also while the backend runs.

    Label Studio's own data is not in it.

    Example: saymask backup saymask-2026-11-25.zip
    """
    with closing(Stores(load_settings().effective_database_url, creates=False)) as stores:
        stores.migrate()
        with show_progress("writing", quiet=as_json) as bar:
            counts = write_backup(stores.database, file, bar)
    _finish(counts, f"in {file}", as_json=as_json)


def restore(file: FileArgument, as_json: JsonOption = False) -> None:
    """Fill a new, empty database from a backup of this or an earlier version.

    Example: SAYMASK_DATABASE_URL=postgresql://host/new saymask restore saymask-2026-11-25.zip
    """
    with (
        closing(Stores(load_settings().effective_database_url)) as stores,
        show_progress("reading", quiet=as_json) as bar,
    ):
        counts = restore_backup(stores.database, file, bar)
    _finish(counts, "restored", as_json=as_json)


def _finish(counts: dict[str, int], what: str, *, as_json: bool) -> None:
    lines = [f"  {count:8d}  {table}" for table, count in counts.items()]
    finish(
        counts,
        "\n".join([*lines, f"{counted(sum(counts.values()), 'row')} {what}"]),
        as_json=as_json,
    )
