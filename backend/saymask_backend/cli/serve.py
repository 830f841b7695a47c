"""``saymask serve`` and ``status``."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import httpx
import typer
import uvicorn
from rich.table import Table

from saymask.errors import QueueUnavailable
from saymask.logs import configure_logging
from saymask.redaction import explain
from saymask_backend.api.app import create_app
from saymask_backend.api.body import HeaderDeadlineProtocol
from saymask_backend.cli.context import JsonOption, check_address, console, print_json
from saymask_backend.config import load_settings
from saymask_backend.label_studio.guarded_http import get_json
from saymask_backend.records.stores import Stores

_READY_TIMEOUT_S = 10.0
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
