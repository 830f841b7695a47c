"""``saymask records``: single decisions; ``saymask decisions``: those about a batch's rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from saymask.command_line import (
    JsonOption,
    build_app,
    build_table,
    console,
    explain_writing,
    finish,
    is_wide,
    print_json,
    print_line,
    show_progress,
)
from saymask.errors import ConfigError, InvalidRequest, counted
from saymask_backend.cli.context import (
    AnnotatorOption,
    OpenRecords,
    OutcomeOption,
    ProjectOption,
    RequiredProject,
    SinceOption,
    open_records,
    parse_since,
)
from saymask_backend.context import build_fetcher
from saymask_backend.records.annotations import HistoryEntry
from saymask_backend.records.types import Offer, RecordFilter, RecordView
from saymask_backend.services.draw_decision import draw_decision
from saymask_backend.services.export import Exporter

app = build_app("Look at single decisions.")


@app.command("list")
def list_records(
    project: ProjectOption = None,
    since: SinceOption = None,
    outcome: OutcomeOption = None,
    annotator: AnnotatorOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List decisions, newest first.

    Example: saymask records list --outcome drawn_after_rejection --limit 10
    """
    record_filter = RecordFilter(
        project_id=project,
        since=parse_since(since),
        outcomes=tuple(outcome or ()),
        annotator=annotator,
    )
    with open_records() as opened:
        store = opened.stores.records
        records = list(store.iterate_records(record_filter, newest_first=True, limit=limit))
        total = store.count_records(record_filter)
    if as_json:
        print_json([record.to_json() for record in records])
        return
    texts = ["id", "decided (UTC)", "project/task", "expression"]
    texts = [*texts, "outcome", "by"] if is_wide() else [*texts[:-1], "expression, outcome, by"]
    title = f"{len(records)} of {counted(total, 'record')}"
    table = build_table(*texts, numbers=("rank", "IoU", "s"), title=title)
    for record in records:
        table.add_row(*_to_cells(record))
    console.print(table)


def _to_cells(record: RecordView) -> list[str]:
    """The cells of a row; in a narrow terminal outcome and annotator stand below the expression."""
    expression, annotator = escape(record.expression), escape(record.annotator or "")
    decision = [expression, record.outcome, annotator]
    if not is_wide():
        decision = ["\n".join((expression, ", by ".join(filter(None, decision[1:]))))]
    date = "%Y-%m-%d %H:%M" if is_wide() else "%Y-%m-%d\n%H:%M"
    return [
        str(record.id),
        f"{record.decided_at:{date}}",
        f"{record.project_id}/{record.task_id}",
        *decision,
        "" if record.rank is None else str(record.rank),
        "" if record.iou is None else f"{record.iou:.3f}",
        "" if record.seconds is None else f"{record.seconds:.1f}",
    ]


@app.command("show")
def show_record(record_id: int, as_json: JsonOption = False) -> None:
    """Show one decision, what was offered, and the history of its annotation.

    Example: saymask records show 12
    """
    with open_records() as opened:
        record, offer = _load(opened, record_id)
        history = opened.stores.annotations.load_history(record.annotation_id, record.project)
    if as_json:
        values = {**record.to_json(), "candidates": _describe_candidates(offer)}
        print_json({**values, "history": [_describe_entry(entry) for entry in history]})
        return
    for name, value in record.to_json().items():
        if name != "coco_rle":
            print_line(f"{name:17} {value}")
    print_line("candidates")
    for candidate in _describe_candidates(offer):
        print_line(f"  {candidate['rank']}: {candidate['score']:.4f}  {candidate['region_id']}")
    print_line("history of the annotation")
    for entry in map(_describe_entry, history):
        print_line(
            f"  {entry['when']}  {entry['source']:8} record {entry['record']}"
            f"  {entry['outcome']}  {entry['expression'] or ''}"
        )


def _describe_candidates(offer: Offer | None) -> list[dict[str, object]]:
    candidates = offer.candidates if offer else ()
    return [{"rank": c.rank, "score": c.score, "region_id": c.region_id} for c in candidates]


def _describe_entry(entry: HistoryEntry) -> dict[str, object]:
    record = entry.record
    return {
        "when": entry.at.isoformat(),
        "source": entry.source,
        "record": record.id if record else None,
        "expression": record.expression if record else None,
        "outcome": record.outcome if record else "deleted",
    }


@app.command("overlay")
def overlay_record(
    record_id: int,
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG or JPEG to write.")],
) -> None:
    """Draw photo, candidates and final mask.

    Example: saymask records overlay 12 -o decision.png
    """
    with open_records() as opened:
        record, offer = _load(opened, record_id)
        data = build_fetcher(opened.settings).fetch(record.image, record.task_id)
    picture = draw_decision(data, record, offer)
    with explain_writing(out):
        picture.save(out)
    print_line(f"{out} ({picture.width} x {picture.height})")


@app.command("problems")
def list_problems(
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List webhooks and synced annotations that could not be interpreted, with the reasons.

    Example: saymask records problems
    """
    with open_records() as opened:
        problems = opened.stores.events.list_problems(limit)
    if as_json:
        print_json([asdict(problem) for problem in problems])
        return
    for item in problems:
        print_line(
            f"{item.received_at:%Y-%m-%d %H:%M}  event {item.id}, {item.source}, project"
            f" {item.project_id}, task {item.task_id}, annotation {item.annotation_id}:"
            f" {item.problem}"
        )
    if not problems:
        print_line("Everything was interpreted.")


@app.command("retry")
def retry_events() -> None:
    """Process everything again that could not be interpreted or was set aside.

    Example: saymask records retry
    """
    with open_records() as opened:
        events = opened.stores.events
        count = events.retry_problems()
        opened.recorder.process_waiting()
        left = events.count_events_by_state().get("problem", 0)
    print_line(f"{count} processed again, {left} still not interpreted")


def decisions(
    rows: Annotated[str, typer.Argument(help="The folder that saymask-worker batch wrote.")],
    project: RequiredProject,
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    as_json: JsonOption = False,
) -> None:
    """Write what people decided about the rows of a batch, to be joined with them.

    sha256 and expression are those of the batch's rows.

    Example: saymask decisions rows --project 3 --out decisions.parquet
    """
    try:
        from saymask_backend.services.batch_decisions import write_decisions
    except ImportError as error:
        raise ConfigError(f"{error}.", "pip install 'saymask[batch]'") from error
    record_filter = RecordFilter(project_id=project)
    with open_records() as opened:
        records = opened.stores.records
        image_dir = opened.settings.image_dir
        exporter = Exporter(opened.stores, build_fetcher(opened.settings), image_dir)
        with show_progress("reading photos", quiet=as_json) as bar:
            exporter.hash_unread_images(record_filter, bar, skip_missing=True)
        with explain_writing(out):
            report = write_decisions(rows, records.iterate_records(record_filter), out)
    unmatched = f"\n{counted(report.unmatched, 'record')} about other expressions"
    text = f"{counted(report.decisions, 'decision')} in {out}"
    text += unmatched if report.unmatched else ""
    finish(report, text, as_json=as_json)


def _load(opened: OpenRecords, record_id: int) -> tuple[RecordView, Offer | None]:
    """A record and what was offered for it."""
    record = opened.stores.records.load_record(record_id)
    if record is None:
        raise InvalidRequest(f"There is no record {record_id}.", "See: saymask records list")
    request_id = record.request_id
    return record, opened.stores.requests.load_offer(request_id) if request_id else None
