"""``saymask import``: data sets others made, to check or extend in Label Studio."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.cli_records import log_in, progress_bar
from backend.config import load_settings
from backend.errors import InvalidRequest
from backend.importing import IMPORT_FORMATS, import_dataset, read_import

console = Console()


def import_(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(IMPORT_FORMATS))],
    root: Annotated[Path, typer.Argument(help="The data set's directory, or a COCO file.")],
    project: Annotated[int, typer.Option(help="The Label Studio project to put it in.")],
    split: Annotated[str | None, typer.Option(help="Only this split of a RefCOCO set.")] = None,
    as_annotations: Annotated[
        bool,
        typer.Option(
            "--as-annotations", help="As finished work; by default as predictions to check."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, make nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Make Label Studio tasks of a data set, with expressions and masks. Safe to repeat.

    Example: saymask import refcoco ./refcoco --project 3 --split val
    """
    if format_ not in IMPORT_FORMATS:
        raise InvalidRequest(
            f"There is no format {format_!r}.", f"Use {', '.join(IMPORT_FORMATS)}."
        )
    dataset = read_import(format_, root, split)
    with (
        log_in(load_settings()) as client,
        progress_bar("counting" if dry_run else "importing", quiet=as_json) as bar,
    ):
        report = import_dataset(
            client, project, dataset, bar, as_annotations=as_annotations, dry_run=dry_run
        )
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    console.print(
        f"{'would make' if dry_run else 'made'} {report.tasks} tasks of {report.photos} photos with"
        f" {report.expressions} expressions"
        + (f", {report.no_referent} without a referent" if report.no_referent else "")
        + (f"; {report.there} tasks were there already" if report.there else ""),
        highlight=False,
    )
    if as_annotations and report.tasks and not dry_run:
        console.print(
            "Label Studio tells nobody about imported annotations: read them with"
            f" saymask sync --project {project}",
            highlight=False,
        )
