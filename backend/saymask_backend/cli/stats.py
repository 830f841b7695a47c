"""``saymask stats`` and ``sync``: quality and cost, and whether every annotation is recorded."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from saymask.command_line import (
    JsonOption,
    build_table,
    console,
    print_json,
    print_line,
    print_problems,
    show_progress,
)
from saymask.errors import InvalidLabelConfig, counted
from saymask.left_out import LeftOut
from saymask_backend.cli.context import (
    ProjectOption,
    SinceOption,
    log_in,
    open_records,
    parse_since,
)
from saymask_backend.config import load_settings
from saymask_backend.label_studio.rest import NotFound
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.statistics import POLYGON_SECONDS, GroupBy, Quality
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.report import QualityReport, Reporter
from saymask_backend.services.sync import Synchroniser, SyncReport

_COLUMNS = ("samples", "@1", "@3", "@k", "IoU", "edited", "drawn", "s", "s p90", "/h")


def stats(
    project: ProjectOption = None,
    since: SinceOption = None,
    by: Annotated[GroupBy | None, typer.Option(help="Show one line for each of these.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show quality and cost of the annotations.

    Example: saymask stats --project 1 --since 7d --by annotator
    """
    with open_records() as opened:
        record_filter = RecordFilter(project_id=project, since=parse_since(since))
        report = Reporter(opened.stores).build_report(record_filter, by)
    if as_json:
        print_json(report.to_json())
        return
    _print_table(report, by)
    _print_details(report)


def _print_table(report: QualityReport, by: str | None) -> None:
    title = counted(report.quality.samples, "sample")
    table = build_table(by or "", numbers=_COLUMNS, title=title)
    for name, quality in (report.groups or {"all": report.quality}).items():
        table.add_row(escape(name), *_to_cells(quality))
    console.print(table)


def _print_details(report: QualityReport) -> None:
    quality = report.quality
    for outcome, label in OUTCOME_LABELS.items():
        if outcome in quality.outcomes:
            print_line(f"  {quality.outcomes[outcome]:6d}  {label}")
    for name, counts in report.sources.items():
        print_line(
            f"  {counts['accepted']:6d}  accepted from {name}, which offered candidates to"
            f" {counted(counts['offered'], 'request')}"
        )
    if quality.proposals:
        fates = ", ".join(f"{count} {name}" for name, count in quality.proposals.items())
        print_line(f"Of proposed expressions: {fates}.")
    if report.verification is not None:
        print_line(report.verification.describe())
    ratio = quality.against_polygons
    if ratio is not None:
        print_line(f"A polygon takes {POLYGON_SECONDS:.0f} s: {ratio:.1f} times the median here.")
    if quality.dabs:
        print_line(f"{counted(quality.dabs, 'stray dab')} of the brush left out of masks.")
    if report.shared:
        print_line(
            f"{counted(report.shared, 'expression')} by several annotators,"
            f" {counted(len(report.disagreements), 'disagreement')}."
        )
    waiting, problems = (report.events.get(state, 0) for state in ("waiting", "problem"))
    if waiting or problems:
        print_line(
            f"{counted(waiting, 'event')} waiting, {problems} not interpreted"
            " (saymask records problems)."
        )


def _to_cells(quality: Quality) -> list[str]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.0f} %"

    def decimal(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    return [
        str(quality.samples),
        *(share(quality.acceptance_at[name]) for name in ("1", "3", "k")),
        decimal(quality.iou_first.median, 2),
        share(quality.edit_rate),
        share(quality.drawn_rate),
        decimal(quality.seconds.median, 1),
        decimal(quality.seconds.p90, 1),
        decimal(quality.per_hour, 0),
    ]


def sync(
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the records with Label Studio's annotations and fill every gap.

    It can be interrupted and repeated at any time.

    Example: saymask sync --project 1
    """
    reports: list[SyncReport] = []
    failed, skipped = LeftOut(), LeftOut()
    # It also fills a new database.
    with log_in(load_settings()) as client, open_records(creates=True) as opened:
        synchroniser = Synchroniser(client, opened.stores, opened.recorder)
        known = [project] if project is not None else opened.stores.list_projects()
        for project_id in known:
            name = f"project {project_id}"
            with failed.guard(name), show_progress(name, quiet=as_json) as bar:
                try:
                    reports.append(synchroniser.sync(project_id, bar))
                except (NotFound, InvalidLabelConfig) as error:
                    if project is not None:
                        raise
                    # Deleted, or not for saymask: that is no fault of a project among many.
                    skipped.add(name, error)
    if as_json:
        print_json({"projects": reports, "failed": failed.lines, "skipped": skipped.lines})
    else:
        for report in reports:
            _print_report(report)
        if not known:
            print_line("No project is known yet; name one: saymask sync --project 1")
        print_problems("skipped", skipped.lines)
        print_problems("failed", failed.lines)
    raise typer.Exit(1 if failed or any(report.problems for report in reports) else 0)


def _print_report(report: SyncReport) -> None:
    print_line(
        f"project {report.project_id}: {counted(report.tasks, 'task')},"
        f" {counted(report.annotations, 'annotation')};"
        f" {report.missing} missing, {report.outdated} outdated, {report.deleted} deleted"
        + (" (resumed where it was interrupted)" if report.taken_up else "")
    )
    print_problems("  not recorded", report.problems)
