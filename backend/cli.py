"""``saymask``: the backend's command line."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend import cli_export, cli_import, cli_project, cli_records
from backend.app import create_app
from backend.config import load_settings
from backend.errors import QueueUnavailable, SaymaskError
from backend.label_studio.label_config import default_label_config
from backend.records.store import Store
from backend.stack.up import UpOptions, run_up

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="saymask: the Label Studio ML backend. Settings come from SAYMASK_... variables.",
)
console = Console()
app.command()(cli_project.connect)
app.command()(cli_project.doctor)
app.command("preannotate")(cli_project.preannotate_)
app.command()(cli_project.prepare)
app.command()(cli_records.stats)
app.command()(cli_records.sync)
app.command()(cli_export.export)
app.command("import")(cli_import.import_)
app.add_typer(cli_records.records_app, name="records")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; default SAYMASK_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default SAYMASK_PORT.")] = None,
) -> None:
    """Run the backend.

    Example: SAYMASK_LABEL_STUDIO_URL=http://localhost:8080 saymask serve --port 9090
    """
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load_settings(**given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Every request is in the database; httpx would log each photo's address a second time.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # First, so that a database that cannot be used is an error in words.
    with closing(Store(settings.effective_database_url)) as store:
        store.migrate()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="info",
        access_log=False,
        timeout_graceful_shutdown=5,
    )


_WORKER_COLUMNS = ("name", "queues", "state", "encoder", "proposals", "device")


@app.command()
def status(
    url: Annotated[str | None, typer.Option(help="Address of a running backend.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Ask a running backend how it is. Exit status 0 means ready.

    Example: saymask status --json
    """
    settings = load_settings()
    address = (url or f"http://{settings.host}:{settings.port}").rstrip("/")
    try:
        answer = httpx.get(f"{address}/ready", timeout=10).json()
        workers = answer["workers"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise QueueUnavailable(
            f"No backend answers at {address}: {error}.", "Start it: saymask serve"
        ) from error
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        table = Table("worker", "queues", "state", "encoder", "proposals", "device", "MB", "jobs")
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


@app.command()
def up(
    label_studio: Annotated[
        Path, typer.Option(help="The label-studio program.", envvar="SAYMASK_LABEL_STUDIO_PROGRAM")
    ],
    data_dir: Annotated[
        Path, typer.Option(help="Where everything is kept.", envvar="SAYMASK_UP_DIR")
    ] = Path(".saymask"),
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

    Example: saymask up --label-studio .venv-label-studio/bin/label-studio
    """
    options = UpOptions(
        data_dir.resolve(),
        label_studio,
        label_studio_port,
        port,
        queue_port,
        redis_url,
        background_workers,
    )
    run_up(options, lambda line: console.print(line, highlight=False, markup=False))


@app.command("label-config")
def label_config() -> None:
    """Print the labelling config to paste into a project's settings."""
    print(default_label_config())


def main() -> None:
    """Entry point: errors in words, not in traces."""
    try:
        app()
    except SaymaskError as error:
        console.print(f"[red]error:[/red] {escape(error.cause)}", highlight=False)
        if error.cure:
            console.print(error.cure, highlight=False, markup=False)
        sys.exit(2)
