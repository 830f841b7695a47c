"""``saymask-worker train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from saymask.errors import InvalidRequest
from saymask_worker.cli.app import app, console, print_failed
from saymask_worker.config.settings import load_worker_settings


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="An export in RefCOCO's layout, or a public set.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run continues.")],
    dataset: Annotated[
        str, typer.Option(help="export, refcoco, refcoco+, refcocog, grefcoco or phrasecut.")
    ] = "export",
    split: Annotated[str | None, typer.Option(help="Train on this split; by default all.")] = None,
    backbone: Annotated[
        str, typer.Option(help="starter, or CLIP's RN50 or RN101 from the hub.")
    ] = "starter",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 50,
    batch: Annotated[int, typer.Option(min=2, help="Refs per step, at least 2.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts a step is computed in.")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-4,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better IoU.")] = 10,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Train CRIS on recorded decisions; a fifth of the photos is held out to measure.

    Writes OUT/model, history.csv, tensorboard/ and report.html. Several GPUs: start it with
    torchrun --nproc-per-node N -m saymask_worker.cli train ...

    Example: saymask-worker train --data export --out runs/first --epochs 30
    """
    from saymask_worker.training.config import (
        BackboneName,
        TrainingConfig,
        require_training_packages,
    )

    with require_training_packages():
        from saymask_worker.training.command import TrainingRequest, run_training

    if backbone not in get_args(BackboneName):
        raise InvalidRequest(
            f"There is no backbone {backbone!r}.", f"Use {', '.join(get_args(BackboneName))}."
        )
    if batch < 2 * accumulate:
        raise InvalidRequest("--batch must be at least twice --accumulate: batch norm needs two.")
    config = TrainingConfig(
        backbone=cast(BackboneName, backbone), epochs=epochs, batch=batch, accumulate=accumulate,
        rate=rate, patience=patience, seed=seed,
    )  # fmt: skip
    request = TrainingRequest(dataset, data, split, out, config)
    summary = run_training(request, load_worker_settings(), console)
    print(json.dumps(summary, indent=2) if as_json else _describe_run(summary))
    print_failed(summary["failed"])
    raise typer.Exit(1 if summary["failed"] else 0)


def _describe_run(summary: dict[str, Any]) -> str:
    return (
        f"{summary['model']}: held-out IoU {summary['held_out_iou']:.3f} on"
        f" {summary['held_out_refs']} refs, best after epoch {summary['best_epoch'] + 1}"
    )
