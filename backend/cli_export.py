"""``saymask export``: records to data sets."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from backend.app import build_fetcher
from backend.cli_records import Books, check_outcomes, open_books, parse_since, progress_bar
from backend.errors import InvalidRequest, SaymaskError
from backend.export.merge import MERGE_RULES
from backend.export.run import (
    FORMATS,
    ExportPlan,
    ExportSummary,
    Images,
    count_export,
    outcomes_of,
    run_export,
)
from backend.export.splits import parse_split
from backend.label_studio.client import PhotoFetcher
from backend.records.ledger import RecordFilter

console = Console()


def export(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    out: Annotated[Path, typer.Argument(help="A directory that does not exist yet.")],
    project: Annotated[int | None, typer.Option(help="Only this Label Studio project.")] = None,
    since: Annotated[str | None, typer.Option(help="Only since: 2026-11-01, 7d or 12h.")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    min_iou: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least IoU of the accepted candidate and the final mask."),
    ] = None,
    annotator: Annotated[str | None, typer.Option(help="Only this user id.")] = None,
    split: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "80/10/10",
    seed: Annotated[int, typer.Option(help="Another one deals the photos anew.")] = 0,
    images: Annotated[str, typer.Option(help="copy, link (kept once for all exports), none.")] = (
        "copy"
    ),
    merge: Annotated[
        str, typer.Option(help="Several annotators: latest, majority (of pixels) or all.")
    ] = "latest",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Polygons where they give the mask back exactly.")
    ] = False,
    categories: Annotated[
        Path | None, typer.Option(help='JSON, head noun to category: {"kitty": "cat"}.')
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the photos, where it is one.")] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out photos that cannot be read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Write the records as a data set.

    Example: saymask export refcoco ./cats --project 1 --split 80/10/10 --merge majority
    """
    if format_ not in FORMATS:
        raise InvalidRequest(f"There is no format {format_!r}.", f"Use {', '.join(FORMATS)}.")
    if images not in get_args(Images):
        raise InvalidRequest(f"--images {images} is unknown.", "Use copy, link or none.")
    if merge not in MERGE_RULES:
        raise InvalidRequest(f"--merge {merge} is unknown.", f"Use {', '.join(MERGE_RULES)}.")
    chosen = RecordFilter(
        project_id=project,
        since=parse_since(since),
        outcomes=outcomes_of(format_, check_outcomes(outcome)),
        annotator=annotator,
        min_iou=min_iou,
    )
    query = {
        **{name: value for name, value in asdict(chosen).items() if value not in (None, ())},
        "since": chosen.since.isoformat() if chosen.since else None,
        "split": split, "seed": seed, "merge": merge, "images": images, "polygons": polygons,
    }  # fmt: skip
    plan = ExportPlan(
        format=format_,
        out=out.resolve(),
        query=json.loads(json.dumps(query)),
        split=parse_split(split, seed),
        images=images,  # type: ignore[arg-type]
        merge=merge,
        polygons=polygons,
        categories=_read_categories(categories),
        licence=licence,
        skip_missing=skip_missing,
    )
    if not chosen.outcomes:
        raise InvalidRequest(
            f"{format_} holds none of these outcomes.", "grefcoco and huggingface hold no_referent."
        )
    with open_books() as books, closing(build_fetcher(books.settings)) as fetcher:
        summary = _run(books, fetcher, plan, chosen, dry_run=dry_run, quiet=as_json)
    if as_json:
        print(json.dumps(asdict(summary), indent=2))
    else:
        _print(summary, plan, dry_run=dry_run)


def _run(
    books: Books,
    fetcher: PhotoFetcher,
    plan: ExportPlan,
    chosen: RecordFilter,
    *,
    dry_run: bool,
    quiet: bool,
) -> ExportSummary:
    unreadable = _read_unknown_photos(books, fetcher, plan, chosen, quiet=quiet)
    groups = books.ledger.by_photo(chosen, known_only=plan.skip_missing)
    total = books.ledger.count(chosen)
    done = 0
    with progress_bar("counting" if dry_run else f"writing {plan.out.name}", quiet=quiet) as bar:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            bar(done, total)

        if dry_run:
            return count_export(plan, groups, progress)
        return run_export(
            plan,
            groups,
            lambda record: fetcher.fetch(record.photo, record.task_id),
            books.settings.data_dir / "photos",
            progress,
            unreadable,
        )


def _read_unknown_photos(
    books: Books, fetcher: PhotoFetcher, plan: ExportPlan, chosen: RecordFilter, *, quiet: bool
) -> list[str]:
    """Hash photos that no worker ever saw: split and name come from the content."""
    unknown = books.ledger.unread_photos(chosen)
    left_out = []
    with progress_bar("reading photos", quiet=quiet or not unknown) as bar:
        for number, (photo, task_id) in enumerate(unknown, 1):
            try:
                data = fetcher.fetch(photo, task_id)
            except SaymaskError as error:
                if not plan.skip_missing:
                    raise
                left_out.append(f"{photo[:120]}: {error.cause}")
            else:
                books.ledger.learn_photo(photo, hashlib.sha256(data).hexdigest())
            bar(number, len(unknown))
    return left_out


def _read_categories(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}.", "Write a JSON object.") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise InvalidRequest(f"{path} is no object of texts.", '{"kitty": "cat"}')
    return {noun.lower(): category for noun, category in content.items()}


def _print(summary: ExportSummary, plan: ExportPlan, *, dry_run: bool) -> None:
    what = "would hold" if dry_run else "holds"
    console.print(
        f"{plan.out} {what} {summary.referents} referents with {summary.expressions} expressions on"
        f" {summary.photos} photos"
        + (f", {summary.no_referent} without a referent" if summary.no_referent else ""),
        highlight=False,
    )
    for name, count in summary.per_split.items():
        console.print(f"  {count:7d}  photos in {name}", highlight=False)
    for name, count in summary.per_outcome.items():
        console.print(f"  {count:7d}  {name}", highlight=False)
    if summary.shared:
        iou = "" if summary.agreement_iou is None else f", mean IoU {summary.agreement_iou:.3f}"
        console.print(
            f"{summary.shared} expressions by several annotators{iou}; on {summary.contradictions}"
            f" one found a referent and another none (--merge {plan.merge})",
            highlight=False,
        )
    for line in summary.left_out[:20]:
        console.print(f"[red]left out:[/red] {line}", highlight=False)
