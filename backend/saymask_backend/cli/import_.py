"""``saymask import``: published datasets, to check or extend in Label Studio."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from saymask.command_line import DryRunOption, JsonOption, finish, show_progress
from saymask.datasets import RowChoice
from saymask.errors import InvalidRequest, counted
from saymask_backend.cli.context import RequiredProject, log_in, one_at_a_time
from saymask_backend.config import load_settings
from saymask_backend.services.import_dataset import (
    COCO_FORMAT,
    PARQUET_FORMAT,
    ImportFormat,
    ImportReport,
    import_dataset,
    read_import,
)


def import_(
    format_: Annotated[
        ImportFormat, typer.Argument(metavar="FORMAT", help="Layout of the dataset.")
    ],
    root: Annotated[
        str,
        typer.Argument(
            help="The dataset's directory, a COCO file, or what saymask-worker batch wrote."
        ),
    ],
    project: RequiredProject,
    split: Annotated[str | None, typer.Option(help="Only this split of a RefCOCO set.")] = None,
    as_annotations: Annotated[
        bool,
        typer.Option(
            "--as-annotations", help="Create annotations instead of predictions to check."
        ),
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="With parquet: only this many rows, at random.")
    ] = None,
    doubtful: Annotated[
        float | None, typer.Option(help="With parquet: only rows below this confidence.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    unannotated: Annotated[
        bool, typer.Option("--unannotated", help="With coco: photos without annotations too.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create Label Studio tasks from a dataset, with expressions and masks.

    Repeating it adds only what is missing. Photos and annotations that cannot be used are left out
    and named, and the exit status is then 1.

    Example: saymask import refcoco ./refcoco --project 3 --split val

    Example: saymask import parquet rows --project 3 --doubtful 0.6 --sample 200
    """
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
            show_progress("counting" if dry_run else "importing", quiet=as_json) as bar,
        ):
            report = import_dataset(
                client, project, dataset, bar, as_annotations=as_annotations, dry_run=dry_run
            )
    text = _describe(report, dry_run=dry_run)
    if as_annotations and report.tasks and not dry_run:
        text += (
            "\nLabel Studio sends no webhook for imported annotations: read them with"
            f" saymask sync --project {project}"
        )
    finish(report, text, as_json=as_json, failed=report.failed)


def _describe(report: ImportReport, *, dry_run: bool) -> str:
    return (
        f"{'would create' if dry_run else 'created'} {counted(report.tasks, 'task')} of"
        f" {counted(report.photos, 'photo')} with {counted(report.expressions, 'expression')}"
        + (f", {report.no_referent} without a referent" if report.no_referent else "")
        + (
            f", {counted(report.unannotated, 'photo')} without annotations"
            if report.unannotated
            else ""
        )
        + (f"; before: {counted(report.existing, 'task')}" if report.existing else "")
    )
