"""``saymask connect``, ``doctor``, ``preannotate`` and ``prepare``: one project."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import typer
from rich.markup import escape

from saymask.command_line import (
    DryRunOption,
    JsonOption,
    console,
    finish,
    print_json,
    print_line,
    show_progress,
)
from saymask.errors import InvalidRequest, counted
from saymask.left_out import LeftOut
from saymask_backend.cli.context import (
    MAX_ID,
    RequiredProject,
    check_address,
    log_in,
    one_at_a_time,
)
from saymask_backend.config import Settings, load_settings
from saymask_backend.context import build_fetcher
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.connect import Check, ConnectOptions, Connector
from saymask_backend.label_studio.label_config import default_label_config
from saymask_backend.label_studio.mask_values import MaskTag
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.records.stores import Stores
from saymask_backend.services.preannotate import PreannotateReport, preannotate
from saymask_backend.services.prepare import prepare_project
from saymask_backend.services.segment import Segmenter
from saymask_backend.services.upload_image import ImageUploader

_MARKS = {
    "ok": "[green]ok[/green]     ",
    "changed": "[yellow]changed[/yellow]",
    "problem": "[red]problem[/red]",
    "unknown": "[dim]skipped[/dim]",
}

UrlOption = Annotated[
    str | None,
    typer.Option("--label-studio", help="Address; default SAYMASK_LABEL_STUDIO_URL."),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="A token; default SAYMASK_LABEL_STUDIO_API_KEY.")
]
BackendOption = Annotated[
    str | None,
    typer.Option("--backend-url", help="Address at which Label Studio reaches the backend."),
]


def connect(
    label_studio: UrlOption = None,
    api_key: KeyOption = None,
    project: Annotated[
        int | None, typer.Option(min=1, max=MAX_ID, help="Connect this project.")
    ] = None,
    create: Annotated[
        str | None, typer.Option(help="Connect the project of this title; create it if missing.")
    ] = None,
    mask_tag: Annotated[
        MaskTag, typer.Option(help="For masks, in the labelling config of a new project.")
    ] = "BrushLabels",
    backend_url: BackendOption = None,
    suggestions: Annotated[
        Literal["together", "one"] | None,
        typer.Option(
            help="How suggestions are shown: separate ones together, or one at a time, for work"
            " with the keyboard. A new project shows them together.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set up a Label Studio project for saymask and test it. Repeating it is harmless.

    Examples:
    saymask connect --label-studio http://localhost:8080 --api-key KEY --create "My photos"

    saymask connect --project 1 --suggestions one
    """
    if (project is None) == (create is None):
        raise InvalidRequest("Which project?", "Give --project N or --create TITLE.")
    settings = _load_settings(label_studio, api_key)
    with log_in(settings) as client:
        options = replace(
            _build_options(settings, backend_url, may_change=True),
            shows_one=None if suggestions is None else suggestions == "one",
            mask_tag=mask_tag,
        )
        connector = Connector(client, options)
        checks = [*connector.check_label_studio(), *connector.check_backend()]
        if not _has_problem(checks):
            project_id = project
            if create is not None:
                project_id, is_new = client.find_or_create_project(
                    create, default_label_config(mask_tag)
                )
                text = f"{project_id}, {'created now' if is_new else 'it exists'}"
                checks.append(Check("project", "changed" if is_new else "ok", text))
            if project_id is not None:
                checks += connector.check_project(project_id)
                if not as_json:
                    print_line(f"{client.base_url}/projects/{project_id}/data")
    _report(checks, as_json=as_json)


def doctor(
    label_studio: UrlOption = None,
    api_key: KeyOption = None,
    project: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_ID,
            help="Only this project; by default all that the backend is attached to.",
        ),
    ] = None,
    backend_url: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find problems without changing anything. Exit status 0 means that there are none.

    Example: saymask doctor --project 3
    """
    settings = _load_settings(label_studio, api_key)
    with log_in(settings) as client:
        connector = Connector(client, _build_options(settings, backend_url, may_change=False))
        studio_checks = connector.check_label_studio()
        checks = [*studio_checks, *connector.check_backend()]
        if not _has_problem(studio_checks):
            left_out = LeftOut()
            projects = (
                [project] if project is not None else connector.list_attached_projects(left_out)
            )
            checks += [Check("projects", "problem", line) for line in left_out.lines]
            checks += [
                Check(f"project {project_id}: {c.name}", c.state, c.text, c.cure)
                for project_id in projects
                for c in connector.check_project(project_id)
            ]
    _report(checks, as_json=as_json)


def preannotate_project(
    project: RequiredProject,
    expression: Annotated[
        list[str] | None,
        typer.Option(help="For every task whose data holds none; can be repeated."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict every task whose data holds an expression (SAYMASK_EXPRESSION_FIELDS).

    Tasks with annotations, or with a prediction of this model version, are skipped, so repeating
    it continues where it stopped. Another --expression replaces the predictions of the last one.

    Examples:
    saymask preannotate --project 3 --dry-run

    saymask preannotate --project 3 --expression "the licence plate"
    """
    with open_services() as services, one_at_a_time(services.settings, project):
        started = time.monotonic()
        with show_progress("predicting", quiet=as_json or dry_run) as bar:
            report = preannotate(
                services.client,
                services.segmenter,
                project,
                services.stores.requests,
                services.settings.expression_fields,
                services.queue.get_model_version(),
                bar,
                expressions=expression or (),
                dry_run=dry_run,
            )
        seconds = time.monotonic() - started
    rate = f" ({report.expressions / seconds:.2f} a second)" if not dry_run else ""
    fields = ", ".join(services.settings.expression_fields)
    text = _describe(report, "would get" if dry_run else "got", rate, fields)
    values = {**asdict(report), "seconds": round(seconds, 2)}
    finish(values, text, as_json=as_json, failed=report.failed)


def _describe(report: PreannotateReport, verb: str, rate: str, fields: str) -> str:
    return (
        f"{counted(report.predicted, 'task')} {verb} predictions for"
        f" {counted(report.expressions, 'expression')}"
        f"{rate if report.predicted else ''}; {report.up_to_date} with one already,"
        f" {report.annotated} annotated, {report.no_expression} without an expression in {fields}"
    )


def prepare(project: RequiredProject, as_json: JsonOption = False) -> None:
    """Prepare every photo of a project while no annotator waits.

    Example: saymask prepare --project 3
    """
    with open_services() as services:
        started = time.monotonic()
        with show_progress("preparing", quiet=as_json) as bar:
            report = prepare_project(services.client, services.queue, services.images, project, bar)
        seconds = time.monotonic() - started
    text = f"{counted(report.prepared, 'photo')} prepared ({seconds:.0f} s)"
    values = {**asdict(report), "seconds": round(seconds, 2)}
    finish(values, text, as_json=as_json, failed=report.failed)


@dataclass(frozen=True)
class Services:
    """Label Studio, queue and use cases, as the backend has them."""

    settings: Settings
    client: LabelStudioClient
    queue: JobQueue
    images: ImageUploader
    segmenter: Segmenter
    stores: Stores


@contextmanager
def open_services() -> Iterator[Services]:
    """Open everything that commands about one project need."""
    settings = load_settings()
    with (
        log_in(settings) as client,
        closing(Stores(settings.effective_database_url)) as stores,
        closing(
            JobQueue(
                settings.redis_url,
                settings.deadline_s,
                background_grace_s=settings.background_grace_s,
            )
        ) as queue,
    ):
        stores.migrate()
        images = ImageUploader(build_fetcher(settings), queue)
        segmenter = Segmenter(stores.requests, queue, images)
        yield Services(settings, client, queue, images, segmenter, stores)


def _load_settings(url: str | None, key: str | None) -> Settings:
    options = {"label_studio_url": url, "label_studio_api_key": key}
    return load_settings(**{name: v for name, v in options.items() if v is not None})


def _build_options(
    settings: Settings, backend_url: str | None, *, may_change: bool
) -> ConnectOptions:
    url = backend_url or f"http://{settings.host}:{settings.port}"
    return ConnectOptions(
        backend_url=check_address("--backend-url", url),
        user=settings.basic_auth_user,
        password=settings.basic_auth_password.get_secret_value(),
        secret=settings.webhook_secret.get_secret_value(),
        may_change=may_change,
    )


def _has_problem(checks: list[Check]) -> bool:
    return any(check.state == "problem" for check in checks)


def _report(checks: list[Check], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            line = f"{_MARKS[check.state]}  {escape(check.name)}: {escape(check.text)}"
            console.print(line, highlight=False, soft_wrap=True)
            if check.cure and check.state == "problem":
                print_line(f"         {check.cure}")
        if not _has_problem(checks):
            print_line("All is well. Open a photo, type what you mean, press Enter.")
    raise typer.Exit(1 if _has_problem(checks) else 0)
