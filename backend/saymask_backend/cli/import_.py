"""``saymask import``: published datasets, to check or extend in Label Studio."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from saymask.datasets import RowChoice
from saymask.errors import InvalidRequest
from saymask_backend.cli.context import (
    DryRunOption,
    JsonOption,
    log_in,
    one_at_a_time,
    print_json,
    print_line,
    print_problems,
    progress_bar,
)
from saymask_backend.config import load_settings
from saymask_backend.services.import_dataset import (
    COCO_FORMAT,
    IMPORT_FORMATS,
    PARQUET_FORMAT,
    ImportReport,
    import_dataset,
    read_import,
)


def import_(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(IMPORT_FORMATS))],
    root: Annotated[
        str,
        typer.Argument(
            help="The dataset's directory, a COCO file, or the rows of saymask-worker batch."
        ),
    ],
    project: Annotated[int, typer.Option(help="The Label Studio project to import into.")],
    split: Annotated[str | None, typer.Option(help="Only this split of a RefCOCO set.")] = None,
    as_annotations: Annotated[
        bool,
        typer.Option(
            "--as-annotations", help="As finished work; by default as predictions to check."
        ),
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Of parquet rows: so many, chosen at random.")
    ] = None,
    doubtful: Annotated[
        float | None, typer.Option(help="Of parquet rows: only those of less confidence.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    unannotated: Annotated[
        bool, typer.Option("--unannotated", help="Of coco: photos without annotations too.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create Label Studio tasks from a dataset, with expressions and masks.

    It can be repeated at any time; what exists stays as it is. What cannot be used is left out and
    named, and the exit status is then 1.

    Example: saymask import refcoco ./refcoco --project 3 --split val

    Example: saymask import parquet rows --project 3 --doubtful 0.6 --sample 200
    """
    if format_ not in IMPORT_FORMATS:
        raise InvalidRequest(
            f"There is no format {format_!r}.", f"Use {', '.join(IMPORT_FORMATS)}."
        )
    choice = RowChoice(sample, doubtful, seed)
    if format_ != PARQUET_FORMAT and choice != RowChoice():
        raise InvalidRequest(f"--sample, --doubtful and --seed are for {PARQUET_FORMAT}.")
    if unannotated and format_ != COCO_FORMAT:
        raise InvalidRequest(f"--unannotated is for {COCO_FORMAT}.")
    with TemporaryDirectory() as scratch:
        dataset = read_import(
            format_, root, split, choice, Path(scratch), with_unannotated=unannotated
        )
        settings = load_settings()
        with (
            log_in(settings) as client,
            one_at_a_time(settings, project),
            progress_bar("counting" if dry_run else "importing", quiet=as_json) as bar,
        ):
            report = import_dataset(
                client, project, dataset, bar, as_annotations=as_annotations, dry_run=dry_run
            )
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report, as_annotations=as_annotations, dry_run=dry_run, project=project)
    raise typer.Exit(1 if report.left_out else 0)


def _print_report(
    report: ImportReport, *, as_annotations: bool, dry_run: bool, project: int
) -> None:
    print_line(
        f"{'would create' if dry_run else 'created'} {report.tasks} tasks of {report.photos}"
        f" photos with {report.expressions} expressions"
        + (f", {report.no_referent} without a referent" if report.no_referent else "")
        + (f", {report.unannotated} photos without annotations" if report.unannotated else "")
        + (f"; {report.existing} tasks exist already" if report.existing else "")
    )
    if as_annotations and report.tasks and not dry_run:
        print_line(
            "Label Studio sends no webhook for imported annotations: read them with"
            f" saymask sync --project {project}"
        )
    print_problems("left out", report.left_out)
