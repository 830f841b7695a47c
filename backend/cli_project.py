"""``saymask connect``, ``doctor``, ``preannotate`` and ``prepare``: one project, before and between
the work of annotators."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from backend.ahead import PrepareReport, preannotate, prepare_project
from backend.app import build_fetcher
from backend.cli_records import JsonOption, log_in, progress_bar
from backend.config import Settings, load_settings
from backend.dispatch import Dispatcher
from backend.errors import ConfigError, InvalidRequest
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.connecting import TITLE, Check, Connector, Wanted
from backend.label_studio.project import find_or_create_project
from backend.records.store import Store
from backend.services import PhotoShelf, Services

console = Console()
_MARKS = {"ok": "[green]ok[/green]     ", "changed": "[yellow]changed[/yellow]",
          "problem": "[red]problem[/red]", "unknown": "[dim]skipped[/dim]"}  # fmt: skip

UrlOption = Annotated[
    str | None,
    typer.Option("--label-studio", help="Its address; default SAYMASK_LABEL_STUDIO_URL."),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="A token; default SAYMASK_LABEL_STUDIO_API_KEY.")
]
BackendOption = Annotated[
    str | None,
    typer.Option("--backend-url", help="The backend, as Label Studio reaches it."),
]


def connect(
    label_studio: UrlOption = None,
    api_key: KeyOption = None,
    project: Annotated[int | None, typer.Option(help="Connect this project.")] = None,
    create: Annotated[
        str | None, typer.Option(help="Connect the project of this title, made if there is none.")
    ] = None,
    backend_url: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a Label Studio project work with saymask, and prove it. Safe to repeat.

    Example: saymask connect --label-studio http://localhost:8080 --api-key KEY --create "My photos"
    """
    if (project is None) == (create is None):
        raise InvalidRequest("Which project?", "Give --project N or --create TITLE.")
    settings = _with(load_settings(), label_studio, api_key)
    with log_in(settings) as client:
        connector = Connector(client, _wanted(settings, backend_url, may_change=True))
        checks = [*connector.check_label_studio(), *connector.check_backend()]
        if all(check.state != "problem" for check in checks):
            number = project
            if create is not None:
                number, is_new = find_or_create_project(client, create)
                text = f"{number}, {'made now' if is_new else 'it was there'}"
                checks.append(Check("project", "changed" if is_new else "ok", text))
            if number is not None:
                checks += connector.check_project(number)
                if not as_json:
                    console.print(f"{client.base_url}/projects/{number}/data", highlight=False)
    _report(checks, as_json=as_json)


def doctor(
    label_studio: UrlOption = None,
    api_key: KeyOption = None,
    project: Annotated[
        int | None,
        typer.Option(help="Only this one; by default every project the backend is attached to."),
    ] = None,
    backend_url: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong; change nothing. Exit status 0 means all is well.

    Example: saymask doctor --project 3
    """
    settings = _with(load_settings(), label_studio, api_key)
    with log_in(settings) as client:
        connector = Connector(client, _wanted(settings, backend_url, may_change=False))
        checks = [*connector.check_label_studio(), *connector.check_backend()]
        if checks[0].state != "problem" and checks[1].state != "problem":
            for number in [project] if project is not None else _attached_projects(client):
                found = connector.check_project(number)
                checks += [
                    Check(f"project {number}: {c.name}", c.state, c.text, c.cure) for c in found
                ]
    _report(checks, as_json=as_json)


def preannotate_(
    project: Annotated[int, typer.Option(help="The Label Studio project.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, make nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict every task whose data holds an expression (SAYMASK_EXPRESSION_FIELDS) and that has
    neither annotation nor prediction of this model version. Go on at any time by repeating it.

    Example: saymask preannotate --project 3 --dry-run
    """
    with _workshop() as (client, services, _photos, _dispatcher, settings):
        started = time.monotonic()
        with progress_bar("predicting", quiet=as_json or dry_run) as bar:
            report = preannotate(
                client, services, project, settings.expression_fields, bar, dry_run=dry_run
            )
        took = time.monotonic() - started
    if as_json:
        print(json.dumps({**asdict(report), "seconds": round(took, 2)}, indent=2))
    else:
        what = "would get" if dry_run else "got"
        console.print(
            f"{report.made} tasks {what} predictions for {report.expressions} expressions"
            + (
                f" ({report.expressions / took:.2f} a second)"
                if report.made and not dry_run
                else ""
            )
            + f"; {report.current} have one, {report.annotated} are annotated, {report.without}"
            f" hold no expression in {', '.join(settings.expression_fields)}",
            highlight=False,
        )
        _print_failed(report.failed)
    raise typer.Exit(1 if report.failed else 0)


def prepare(
    project: Annotated[int, typer.Option(help="The Label Studio project.")],
    as_json: JsonOption = False,
) -> None:
    """Have every photo of a project prepared, behind whatever annotators ask for.

    Example: saymask prepare --project 3
    """
    with _workshop() as (client, _services, photos, dispatcher, _settings):
        started = time.monotonic()
        with progress_bar("preparing", quiet=as_json) as bar:
            report: PrepareReport = prepare_project(client, dispatcher, photos, project, bar)
        took = time.monotonic() - started
    if as_json:
        print(json.dumps({**asdict(report), "seconds": round(took, 2)}, indent=2))
    else:
        console.print(f"{report.prepared} photos are prepared ({took:.0f} s)", highlight=False)
        _print_failed(report.failed)
    raise typer.Exit(1 if report.failed else 0)


def _print_failed(failed: tuple[str, ...]) -> None:
    for line in failed[:20]:
        console.print(f"[red]failed:[/red] {escape(line)}", highlight=False)
    if len(failed) > 20:
        console.print(f"and {len(failed) - 20} more")


@contextmanager
def _workshop() -> Iterator[tuple[LabelStudioClient, Services, PhotoShelf, Dispatcher, Settings]]:
    """Database, queue and Label Studio, as the backend has them."""
    settings = load_settings()
    with (
        log_in(settings) as client,
        closing(Store(settings.effective_database_url)) as store,
        closing(build_fetcher(settings)) as fetcher,
        closing(Dispatcher(settings.redis_url, settings.deadline_s)) as dispatcher,
    ):
        store.migrate()
        photos = PhotoShelf(fetcher, dispatcher)
        yield client, Services(store, dispatcher, photos, settings.k), photos, dispatcher, settings


def _with(settings: Settings, url: str | None, key: str | None) -> Settings:
    overrides: dict[str, object] = {}
    if url is not None:
        overrides["label_studio_url"] = url
    if key is not None:
        overrides["label_studio_api_key"] = key
    return load_settings(**overrides) if overrides else settings


def _wanted(settings: Settings, backend_url: str | None, *, may_change: bool) -> Wanted:
    url = backend_url or f"http://{settings.host}:{settings.port}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url} is no address.", "Write http://host:port.")
    return Wanted(
        backend_url=url.rstrip("/"),
        user=settings.basic_auth_user,
        password=settings.basic_auth_password.get_secret_value(),
        secret=settings.webhook_secret.get_secret_value(),
        may_change=may_change,
    )


def _attached_projects(client: LabelStudioClient) -> list[int]:
    found = client.request("GET", "/api/projects", params={"page_size": 1000})["results"]
    numbers = [int(project["id"]) for project in found]
    return [
        number
        for number in numbers
        if any(
            one.get("title") == TITLE
            for one in client.request("GET", "/api/ml", params={"project": number})
        )
    ]


def _report(checks: list[Check], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            console.print(
                f"{_MARKS[check.state]}  {escape(check.name)}: {escape(check.text)}",
                highlight=False,
            )
            if check.cure and check.state == "problem":
                console.print(f"         {escape(check.cure)}", highlight=False)
        if all(check.state != "problem" for check in checks):
            console.print("All is well. Open a photo, type what you mean, press Enter.")
    raise typer.Exit(1 if any(check.state == "problem" for check in checks) else 0)
