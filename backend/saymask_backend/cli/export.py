"""``saymask export``: records to datasets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from saymask.command_line import DryRunOption, JsonOption, finish, parse_one_of, show_progress
from saymask.errors import InvalidRequest, counted
from saymask_backend.cli.context import (
    AnnotatorOption,
    OpenRecords,
    OutcomeOption,
    ProjectOption,
    SinceOption,
    open_records,
    parse_since,
)
from saymask_backend.context import build_fetcher
from saymask_backend.export.merge import MergeRule
from saymask_backend.export.plan import (
    FORMATS_WITH_NO_REFERENT,
    Coordinates,
    ExportPlan,
    ExportSummary,
    Format,
    Images,
    parse_split,
    select_outcomes,
)
from saymask_backend.records.types import PROVENANCE_LABELS, RecordFilter
from saymask_backend.records.verifications import summarise
from saymask_backend.services.export import Exporter


def export(
    format_: Annotated[Format, typer.Argument(metavar="FORMAT", help="Layout of the dataset.")],
    out: Annotated[Path, typer.Argument(help="The directory to create; see also --replace.")],
    project: ProjectOption = None,
    since: SinceOption = None,
    outcome: OutcomeOption = None,
    min_iou: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Only where the accepted candidate has at least this IoU with the final mask.",
        ),
    ] = None,
    annotator: AnnotatorOption = None,
    provenance: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only this provenance: {', '.join(PROVENANCE_LABELS)}; can be repeated.",
            parser=parse_one_of(PROVENANCE_LABELS),
            metavar="PROVENANCE",
        ),
    ] = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="Only records that a second annotator confirmed.")
    ] = False,
    split: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "80/10/10",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    images: Annotated[
        Images, typer.Option(help="Copy the photos, link to one store of all exports, or neither.")
    ] = "copy",
    merge: Annotated[
        MergeRule,
        typer.Option(help="With several annotators: the latest, a vote per pixel, or all."),
    ] = "latest",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Write polygons where they reproduce the mask.")
    ] = False,
    coordinates: Annotated[
        Coordinates, typer.Option(help="Of grounding: pixels, or thousandths of width and height.")
    ] = "pixels",
    categories: Annotated[
        Path | None, typer.Option(help='JSON from head noun to category: {"kitty": "cat"}.')
    ] = None,
    licence: Annotated[str | None, typer.Option(help="The licence of the photos.")] = None,
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Leave out photos that cannot be read."),
    ] = False,
    replace_: Annotated[
        bool,
        typer.Option(
            "--replace", help="Replace an earlier export; its categories keep their numbers."
        ),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the records as a dataset.

    Photos whose records contradict each other are left out and named, and the exit status is 1.

    Example: saymask export refcoco ./cats --project 1 --split 80/10/10 --merge majority
    """
    record_filter = RecordFilter(
        project_id=project,
        since=parse_since(since),
        outcomes=select_outcomes(format_, tuple(outcome or ())),
        annotator=annotator,
        min_iou=min_iou,
        provenances=tuple(provenance or ()),
        is_verified=verified,
    )
    if not record_filter.outcomes:
        raise InvalidRequest(
            f"{format_} holds none of these outcomes.",
            f"Formats that hold no_referent: {', '.join(FORMATS_WITH_NO_REFERENT)}.",
        )
    query = {
        "split": split, "seed": seed, "merge": merge, "images": images, "polygons": polygons,
        "coordinates": coordinates,
    }  # fmt: skip
    plan = ExportPlan(
        format=format_,
        out=out.resolve(),
        query=_describe_query(record_filter, query),
        split=parse_split(split, seed),
        images=images,
        merge=merge,
        polygons=polygons,
        coordinates=coordinates,
        categories=_read_categories(categories),
        licence=licence,
        skip_missing=skip_missing,
        replace=replace_,
    )
    with open_records() as opened:
        plan = replace(plan, verification=summarise(opened.stores.verifications.load(project)))
        summary = _run(opened, plan, record_filter, dry_run=dry_run, quiet=as_json)
    text = _describe(summary, plan, dry_run=dry_run)
    finish(summary, text, as_json=as_json, failed=summary.failed)


def _describe_query(record_filter: RecordFilter, options: dict[str, Any]) -> dict[str, Any]:
    """What was selected, for the manifest."""
    restrictions = {n: v for n, v in asdict(record_filter).items() if v not in (None, (), False)}
    since = record_filter.since.isoformat() if record_filter.since else None
    query: dict[str, Any] = json.loads(json.dumps({**restrictions, "since": since, **options}))
    return query


def _run(
    opened: OpenRecords,
    plan: ExportPlan,
    record_filter: RecordFilter,
    *,
    dry_run: bool,
    quiet: bool,
) -> ExportSummary:
    fetcher = build_fetcher(opened.settings)
    exporter = Exporter(opened.stores, fetcher, opened.settings.image_dir)
    with show_progress("reading photos", quiet=quiet) as bar:
        left_out = exporter.hash_unread_images(record_filter, bar, skip_missing=plan.skip_missing)
    with show_progress("counting" if dry_run else f"writing {plan.out.name}", quiet=quiet) as bar:
        if dry_run:
            return exporter.count(plan, record_filter, bar)
        return exporter.write(plan, record_filter, bar, left_out)


def _read_categories(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}.", "Write a JSON object.") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise InvalidRequest(f"{path} is not an object of texts.", '{"kitty": "cat"}')
    return {noun.lower(): category for noun, category in content.items()}


def _describe(summary: ExportSummary, plan: ExportPlan, *, dry_run: bool) -> str:
    lines = [
        f"{plan.out} {'would hold' if dry_run else 'holds'}"
        f" {counted(summary.referents, 'referent')} with"
        f" {counted(summary.expressions, 'expression')} on {counted(summary.photos, 'photo')}"
        + (f", {summary.no_referent} without a referent" if summary.no_referent else ""),
        *(f"  {count:7d}  photos in {name}" for name, count in summary.per_split.items()),
        *(f"  {count:7d}  {name}" for name, count in summary.per_outcome.items()),
    ]
    if summary.shared:
        iou = "" if summary.agreement_iou is None else f", mean IoU {summary.agreement_iou:.3f}"
        lines.append(
            f"{counted(summary.shared, 'expression')} by several annotators{iou};"
            f" on {summary.contradictions} one found a referent and another none"
            f" (--merge {plan.merge})"
        )
    if summary.turned:
        lines.append(f"{counted(summary.turned, 'photo')} written upright, as their EXIF says")
    if summary.converted:
        lines.append(f"{counted(summary.converted, 'photo')} written as JPEG, all that LISA finds")
    if summary.inexact:
        lines.append(
            f"{counted(summary.inexact, 'mask')} without exact polygons, kept as run lengths"
        )
    return "\n".join(lines)
