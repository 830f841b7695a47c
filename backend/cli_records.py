"""``saymask stats``, ``sync`` and ``records``: what was decided, and whether all of it is here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backend.app import build_fetcher
from backend.config import Settings, load_settings
from backend.errors import ConfigError, InvalidRequest
from backend.insight import Insight, gather
from backend.label_studio.client import LabelStudioClient
from backend.overlay import draw_record
from backend.recorder import Recorder
from backend.records.ledger import Ledger, RecordFilter, RecordView
from backend.records.outcomes import OUTCOME_WORDS
from backend.records.statistics import POLYGON_SECONDS, GroupBy, Quality
from backend.records.store import Store
from backend.records.sync_log import SyncLog
from backend.sync import Synchroniser

console = Console()
records_app = typer.Typer(no_args_is_help=True, help="Look at single decisions.")

ProjectOption = Annotated[int | None, typer.Option(help="Only this Label Studio project.")]
SinceOption = Annotated[
    str | None, typer.Option(help="Only since then: 2026-11-01, 2026-11-01T08:00, 7d or 12h.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]


@dataclass(frozen=True)
class Books:
    """The database opened for a command, everything that waited understood."""

    settings: Settings
    store: Store
    ledger: Ledger
    recorder: Recorder


@contextmanager
def open_books() -> Iterator[Books]:
    """Open, migrate, and understand what waits."""
    settings = load_settings()
    with closing(Store(settings.effective_database_url)) as store:
        store.migrate()
        ledger = Ledger(store.database)
        recorder = Recorder(ledger)
        recorder.process_waiting()
        yield Books(settings, store, ledger, recorder)


@contextmanager
def log_in(settings: Settings) -> Iterator[LabelStudioClient]:
    """A client of the Label Studio that the settings name.

    Raises:
        ConfigError: address or key are not set.
    """
    key = settings.label_studio_api_key.get_secret_value()
    if not settings.label_studio_url or not key:
        raise ConfigError(
            "Label Studio's address and key are not set.",
            "Set SAYMASK_LABEL_STUDIO_URL and SAYMASK_LABEL_STUDIO_API_KEY.",
        )
    with closing(LabelStudioClient(settings.label_studio_url, key)) as client:
        yield client


def parse_since(text: str | None) -> datetime | None:
    """A date, a time, or a span back from now such as ``7d`` or ``12h``; UTC where it says none.

    Raises:
        InvalidRequest: it is none of these.
    """
    if text is None:
        return None
    units = {"d": "days", "h": "hours", "m": "minutes"}
    if text[:-1].isdigit() and text[-1:] in units:
        try:
            return datetime.now(UTC) - timedelta(**{units[text[-1]]: int(text[:-1])})
        except OverflowError as error:
            raise InvalidRequest(f"{text!r} is too long ago.", "Leave --since out.") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} is no time.", "Write 2026-11-01, 2026-11-01T08:00, 7d or 12h."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def stats(
    project: ProjectOption = None,
    since: SinceOption = None,
    by: Annotated[str | None, typer.Option(help="One line per: annotator, day or model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Quality and cost of what was annotated.

    Example: saymask stats --project 1 --since 7d --by annotator
    """
    if by not in (None, "annotator", "day", "model"):
        raise InvalidRequest(f"--by {by} is unknown.", "Use annotator, day or model.")
    group: GroupBy | None = by  # type: ignore[assignment]
    with open_books() as books:
        chosen = RecordFilter(project_id=project, since=parse_since(since))
        insight = gather(books.store, books.ledger, chosen, group)
    if as_json:
        print(json.dumps(insight.as_dict(), indent=2, default=str))
        return
    _print_insight(insight, by)


def _print_insight(insight: Insight, by: str | None) -> None:
    table = Table(show_header=True, title=f"{insight.quality.samples} samples")
    table.add_column("" if by is None else by)
    groups = insight.groups or {"all": insight.quality}
    for name in ("samples", "@1", "@3", "@k", "IoU first", "edited", "drawn", "s", "s p90", "/h"):
        table.add_column(name, justify="right")
    for name, quality in groups.items():
        table.add_row(name, *_to_cells(quality))
    console.print(table)
    for outcome, count in insight.quality.outcomes.items():
        console.print(f"  {count:6d}  {OUTCOME_WORDS[outcome]}", highlight=False)  # type: ignore[index]
    ratio = insight.quality.against_polygons
    if ratio is not None:
        console.print(
            f"A polygon takes {POLYGON_SECONDS:.0f} s: {ratio:.1f} times the median here."
        )
    if insight.quality.dabs:
        console.print(f"{insight.quality.dabs} stray dabs of the brush were left out of masks.")
    if insight.shared:
        console.print(
            f"{insight.shared} expressions by several annotators,"
            f" {len(insight.disagreements)} disagreements."
        )
    waiting, problems = (insight.events.get(state, 0) for state in ("waiting", "problem"))
    if waiting or problems:
        console.print(f"Webhooks: {waiting} waiting, {problems} not understood (saymask status).")


def _to_cells(quality: Quality) -> list[str]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.0f} %"

    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    return [
        str(quality.samples),
        *(share(quality.acceptance_at[name]) for name in ("1", "3", "k")),
        number(quality.iou_first.median, 2),
        share(quality.edit_rate),
        share(quality.drawn_rate),
        number(quality.seconds.median, 1),
        number(quality.seconds.p90, 1),
        number(quality.per_hour, 0),
    ]


def sync(
    project: Annotated[int | None, typer.Option(help="This project; default: all known.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare annotations with Label Studio's and fill every gap; safe to repeat and to break off.

    Example: saymask sync --project 1
    """
    with open_books() as books, log_in(books.settings) as client:
        projects = [project] if project is not None else books.ledger.projects()
        synchroniser = Synchroniser(
            client, books.ledger, SyncLog(books.store.database), books.recorder
        )
        reports = []
        for project_id in projects:
            with progress_bar(f"project {project_id}", quiet=as_json) as bar:
                reports.append(synchroniser.sync(project_id, bar))
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2))
        return
    for report in reports:
        console.print(
            f"project {report.project_id}: {report.tasks} tasks, {report.annotations} annotations;"
            f" {report.missing} were missing, {report.outdated} outdated, {report.deleted} deleted"
            + (" (taken up where it broke off)" if report.taken_up else ""),
            highlight=False,
        )
        for problem in report.problems:
            console.print(f"  [red]not understood:[/red] {problem}", highlight=False)
    if not reports:
        console.print("No project is known yet; name one: saymask sync --project 1")


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Any]:
    """Calls with (done, total) move the bar; on stderr, so that stdout stays for the answer."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@records_app.command("list")
def list_records(
    project: ProjectOption = None,
    since: SinceOption = None,
    outcome: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(OUTCOME_WORDS)}; repeatable.")
    ] = None,
    annotator: Annotated[str | None, typer.Option(help="Label Studio's user id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Decisions, newest first.

    Example: saymask records list --outcome drawn_after_rejection --limit 10
    """
    chosen = RecordFilter(
        project_id=project,
        since=parse_since(since),
        outcomes=check_outcomes(outcome),
        annotator=annotator,
    )
    with open_books() as books:
        found = list(books.ledger.records(chosen, newest_first=True, limit=limit))
        total = books.ledger.count(chosen)
    if as_json:
        print(json.dumps([asdict(record) for record in found], indent=2, default=str))
        return
    table = Table(title=f"{len(found)} of {total} records")
    for column in ("id", "decided (UTC)", "project/task", "expression", "outcome", "by"):
        table.add_column(column)
    for column in ("rank", "IoU", "s"):
        table.add_column(column, justify="right")
    for record in found:
        table.add_row(
            str(record.id),
            f"{record.decided_at:%Y-%m-%d %H:%M}",
            f"{record.project_id}/{record.task_id}",
            record.expression,
            record.outcome,
            record.annotator or "",
            "" if record.rank is None else str(record.rank),
            "" if record.iou is None else f"{record.iou:.3f}",
            "" if record.seconds is None else f"{record.seconds:.1f}",
        )
    console.print(table)


def check_outcomes(given: list[str] | None) -> tuple[str, ...]:
    """Known outcomes only.

    Raises:
        InvalidRequest: one is unknown.
    """
    unknown = [name for name in given or () if name not in OUTCOME_WORDS]
    if unknown:
        raise InvalidRequest(
            f"There is no outcome {unknown[0]!r}.", f"Use one of {', '.join(OUTCOME_WORDS)}."
        )
    return tuple(given or ())


@records_app.command("show")
def show_record(record_id: int, as_json: JsonOption = False) -> None:
    """One decision, what was offered, and the history of its annotation.

    Example: saymask records show 12
    """
    with open_books() as books:
        record = _find(books, record_id)
        offer = books.ledger.offer(record.request_id) if record.request_id else None
        history = books.ledger.history(record.annotation_id)
    candidates = [
        {"rank": c.rank, "score": c.score, "region_id": c.region_id}
        for c in (offer.candidates if offer else ())
    ]
    past = [
        {
            "when": when.isoformat(),
            "source": source,
            "record": past.id if past else None,
            "expression": past.expression if past else None,
            "outcome": past.outcome if past else "deleted",
        }
        for when, source, past in history
    ]
    values = {**asdict(record), "candidates": candidates, "history": past}
    if as_json:
        print(json.dumps(values, indent=2, default=str))
        return
    for name, value in values.items():
        if name not in ("candidates", "history", "coco_rle"):
            console.print(f"{name:17} {value}", highlight=False, markup=False)
    console.print("candidates")
    for candidate in candidates:
        console.print(f"  {candidate['rank']}: {candidate['score']:.4f}  {candidate['region_id']}")
    console.print("history of the annotation")
    for item in past:
        console.print(
            f"  {item['when']}  {item['source']:8} record {item['record']}"
            f"  {item['outcome']}  {item['expression'] or ''}",
            highlight=False,
            markup=False,
        )


@records_app.command("overlay")
def overlay_record(
    record_id: int,
    out: Annotated[Path, typer.Option("-o", "--out", help="PNG or JPEG to write.")],
) -> None:
    """Draw photo, candidates and final mask.

    Example: saymask records overlay 12 -o decision.png
    """
    with open_books() as books:
        record = _find(books, record_id)
        offer = books.ledger.offer(record.request_id) if record.request_id else None
        with closing(build_fetcher(books.settings)) as fetcher:
            data = fetcher.fetch(record.photo, record.task_id)
    image = draw_record(data, record, offer)
    try:
        image.save(out)
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"{out} cannot be written: {error}.", "Name a .png or .jpg in a folder that exists."
        ) from error
    console.print(f"{out} ({image.width} x {image.height})")


@records_app.command("retry")
def retry_events() -> None:
    """Look again at every webhook that was not understood, for example after an update.

    Example: saymask records retry
    """
    with open_books() as books:
        count = books.ledger.retry_problems()
        books.recorder.process_waiting()
        left = books.ledger.count_events().get("problem", 0)
    console.print(f"{count} looked at again, {left} still not understood")


def _find(books: Books, record_id: int) -> RecordView:
    record = books.ledger.record(record_id)
    if record is None:
        raise InvalidRequest(f"There is no record {record_id}.", "See: saymask records list")
    return record
