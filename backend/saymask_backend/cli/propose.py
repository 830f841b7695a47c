"""``saymask propose`` and ``verify``: expressions without typing, and how many labels are wrong."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from saymask.command_line import (
    DryRunOption,
    JsonOption,
    finish,
    print_problems,
    show_progress,
)
from saymask.contract import MAX_K, Describer
from saymask.errors import counted
from saymask_backend.cli.context import RequiredProject, log_in, one_at_a_time, open_records
from saymask_backend.cli.project import open_services
from saymask_backend.services import propose as proposing
from saymask_backend.services.propose import ProposeOptions
from saymask_backend.services.propose_false import propose_false
from saymask_backend.services.verify import ReadReport, Verifier


def propose(
    project: RequiredProject,
    per_image: Annotated[
        int, typer.Option(min=1, max=MAX_K, help="At most this many expressions for each photo.")
    ] = 2,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out expressions below this confidence.")
    ] = 0.6,
    one_per_task: Annotated[
        bool, typer.Option("--one-per-task", help="Create a task for each, for the label stream.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of wordings.")] = 0,
    describer: Annotated[
        Describer,
        typer.Option(help="What writes expressions: rules, or the workers' SAYMASK_ENDPOINT_URL."),
    ] = "rules",
    negatives: Annotated[
        bool,
        typer.Option("--negatives", help="False expressions: accepted ones with a word changed."),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Propose expressions and masks for every photo without annotations, to be confirmed.

    Workers do it while no annotator waits. Repeating it continues where it stopped. With
    --negatives it proposes false expressions instead, made from accepted ones, each in its own
    task; --confidence, --describer and --one-per-task have no effect on these.

    Example: saymask propose --project 3 --per-image 2 --one-per-task
    """
    options = ProposeOptions(per_image, confidence, seed, one_per_task, describer)
    with open_services() as services, one_at_a_time(services.settings, project):
        started = time.monotonic()
        client, queue, images, stores = (
            services.client, services.queue, services.images, services.stores,
        )  # fmt: skip
        with show_progress("proposing", quiet=as_json) as bar:
            if negatives:
                report = propose_false(
                    client, queue, images, stores, project, options, bar, dry_run=dry_run
                )
            else:
                fields = services.settings.expression_fields
                report = proposing.propose(
                    client, queue, images, stores.requests, project, fields, options, bar,
                    dry_run=dry_run,
                )  # fmt: skip
        seconds = time.monotonic() - started
    rate = f" ({60 * report.photos / seconds:.1f} photos a minute)" if report.photos else ""
    text = proposing.describe(report, dry_run=dry_run) + rate
    if report.url and report.expressions:
        text += f"\n{report.url} shows them: Label Tasks As Displayed"
    values = {**asdict(report), "seconds": round(seconds, 2)}
    finish(values, text, as_json=as_json, failed=report.failed)


def verify(
    project: RequiredProject,
    sample: Annotated[int, typer.Option(min=0, help="Add this many records, drawn at random.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --sample.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Have second annotators check records, and estimate the label error rate.

    With --sample, records are added to a project in which annotators see only photo and expression
    and click what it means. Without it, their verdicts so far are summarised.

    Example: saymask verify --project 3 --sample 200
    """
    with (
        open_records() as opened,
        log_in(opened.settings) as client,
        one_at_a_time(opened.settings, project),
    ):
        verifier = Verifier(client, opened.stores)
        with show_progress("verification", quiet=as_json) as bar:
            drawn = verifier.draw(project, sample, seed, bar) if sample else None
            report = verifier.read(project, bar)
    failed = drawn.failed if drawn is not None else ()
    text = _describe(report)
    if drawn is not None:
        text = (
            f"added {drawn.added} of {counted(drawn.records, 'record')} with a mask:"
            f" {client.base_url}/projects/{drawn.project_id}/data\n{text}"
        )
    values = {**asdict(report), "added": drawn.added if drawn is not None else 0, "failed": failed}
    if not as_json:
        print_problems("not interpreted", report.problems)
    finish(values, text, as_json=as_json, failed=failed, is_ok=not report.problems)


def _describe(report: ReadReport) -> str:
    text = "Nothing is verified yet." if report.summary is None else report.summary.describe()
    if report.unanswered or report.outdated:
        text += (
            f"\nNot counted: {counted(report.unanswered, 'annotation')} without an answer,"
            f" {report.outdated} about what was changed or deleted since."
        )
    return text
