"""``saymask-worker propose``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from saymask.contract import MAX_K
from saymask.image_files import to_printable
from saymask_worker.cli.app import app, console, print_failed, show_progress
from saymask_worker.config.settings import load_worker_settings


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
    from saymask_worker.batch.coco_folder import FolderOptions, list_images, propose_folder

    if dry_run:
        count = len(list_images(folder))
        text = f"{count} photos in {to_printable(str(folder))}"
        print(json.dumps({"photos": count}) if as_json else text)
        return
    from saymask_worker.pipeline.build import build_pipeline

    with console.status("loading models"):
        pipeline = build_pipeline(load_worker_settings())
    with show_progress("photos", quiet=as_json) as update:
        options = FolderOptions(per_image, confidence, seed)
        report = propose_folder(pipeline, folder, out, options, update)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(
            f"{report.expressions} expressions proposed for {report.photos} photos, none confident"
            f" enough in {report.empty}; {report.before} photos done before;"
            f" in {to_printable(str(out))}"
        )
        print_failed(report.failed)
    raise typer.Exit(1 if report.failed else 0)
