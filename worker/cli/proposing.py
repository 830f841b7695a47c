"""``saymask-worker propose``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from saymask.contract import MAX_K
from worker.cli.app import app, console
from worker.settings import load_worker_settings

_MAX_LINES = 20


@app.command()
def propose(
    folder: Annotated[Path, typer.Argument(help="A folder of photos.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder of the dataset; an interrupted run goes on.")],
    per_image: Annotated[
        int, typer.Option(min=1, max=MAX_K, help="At most so many expressions for a photo.")
    ] = 2,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Expressions of less confidence are left out.")
    ] = 0.6,
    seed: Annotated[int, typer.Option(min=0, help="Another seed chooses other wordings.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the photos, do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Propose expressions with their masks for a folder of photos, as a COCO dataset to check.

    Nobody has confirmed what it holds: import it into Label Studio (saymask import coco OUT) and
    have it confirmed there.

    Example: saymask-worker propose photos --out proposed
    """
    from worker.folder_proposals import FolderOptions, list_images, propose_folder

    if dry_run:
        count = len(list_images(folder))
        print(json.dumps({"photos": count}) if as_json else f"{count} photos in {folder}")
        return
    from worker.pipeline.build import build_pipeline

    with console.status("loading models"):
        pipeline = build_pipeline(load_worker_settings())
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=as_json) as progress:
        task = progress.add_task("photos", total=None)
        report = propose_folder(
            pipeline,
            folder,
            out,
            FolderOptions(per_image, confidence, seed),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(
            f"{report.expressions} expressions proposed for {report.photos} photos ({report.before}"
            f" were done before); of {report.empty} nothing is sure enough; in {out}"
        )
        for line in report.failed[:_MAX_LINES]:
            console.print(f"[red]failed:[/red] {line}", highlight=False)
    raise typer.Exit(1 if report.failed else 0)
