"""``saymask propose`` and ``verify``: expressions without typing, and how many labels are wrong."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from saymask.contract import MAX_K
from saymask_backend.cli.context import (
    DryRunOption,
    JsonOption,
    log_in,
    one_at_a_time,
    open_records,
    print_json,
    print_line,
    print_problems,
    progress_bar,
)
from saymask_backend.cli.project import open_services
from saymask_backend.services import propose as proposing
from saymask_backend.services.propose import ProposeOptions
from saymask_backend.services.verify import ReadReport, Verifier

PROJECT = Annotated[int, typer.Option(help="The Label Studio project.")]


def propose(
    project: PROJECT,
    per_image: Annotated[
        int, typer.Option(min=1, max=MAX_K, help="At most so many expressions for a photo.")
    ] = 2,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Expressions of less confidence are left out.")
    ] = 0.6,
    one_per_task: Annotated[
        bool, typer.Option("--one-per-task", help="A new task for each, for the label stream.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another seed chooses other wordings.")] = 0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Propose expressions with their masks for every photo without annotations, to be confirmed.

    Workers do it behind all requests of annotators. Repeating it continues where it stopped.

    Example: saymask propose --project 3 --per-image 2 --one-per-task
    """
    options = ProposeOptions(per_image, confidence, seed, one_per_task)
    with open_services() as services, one_at_a_time(services.settings, project):
        started = time.monotonic()
        with progress_bar("proposing", quiet=as_json) as bar:
            report = proposing.propose(
                services.client,
                services.queue,
                services.images,
                services.stores.requests,
                project,
                services.settings.expression_fields,
                options,
                bar,
                dry_run=dry_run,
            )
        seconds = time.monotonic() - started
    if as_json:
        print_json({**asdict(report), "seconds": round(seconds, 2)})
    else:
        rate = f" ({60 * report.photos / seconds:.1f} photos a minute)" if report.photos else ""
        print_line(proposing.describe(report, dry_run=dry_run) + rate)
        if report.url and report.expressions:
            print_line(f"{report.url} shows them: Label Tasks As Displayed")
        print_problems("failed", report.failed)
    raise typer.Exit(1 if report.failed else 0)


def verify(
    project: Annotated[int, typer.Option(help="The project whose records are verified.")],
    sample: Annotated[
        int, typer.Option(min=0, help="Add so many records, drawn at random, to be verified.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Have a second person click what each expression means, and tell the label error rate.

    With --sample a project is made, or filled up, in which people see photo and expression alone.
    Without it, what they said so far is read and summarised.

    Example: saymask verify --project 3 --sample 200
    """
    with (
        open_records() as opened,
        log_in(opened.settings) as client,
        one_at_a_time(opened.settings, project),
    ):
        verifier = Verifier(client, opened.stores)
        with progress_bar("verification", quiet=as_json) as bar:
            drawn = verifier.draw(project, sample, seed, bar) if sample else None
            report = verifier.read(project, bar)
    failed = drawn.failed if drawn is not None else ()
    if as_json:
        added = drawn.added if drawn is not None else 0
        print_json({**asdict(report), "added": added, "failed": failed})
    else:
        if drawn is not None:
            print_line(
                f"{drawn.added} of {drawn.records} records with a mask were added:"
                f" {client.base_url}/projects/{drawn.project_id}/data"
            )
        _print_read(report)
        print_problems("not added", failed)
    raise typer.Exit(1 if failed or report.problems else 0)


def _print_read(report: ReadReport) -> None:
    if report.summary is None:
        print_line("Nothing is verified yet.")
    else:
        print_line(report.summary.describe())
    if report.unanswered or report.outdated:
        print_line(
            f"Not counted: {report.unanswered} annotations without an answer, {report.outdated}"
            " about records that were changed or deleted since."
        )
    print_problems("not read", report.problems)
