"""``saymask-worker train`` and ``tune``: learning from recorded decisions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saymask.command_line import JsonOption, finish, show_progress, show_step, stderr
from saymask.datasets import DatasetName
from saymask.errors import InvalidRequest, counted
from saymask_worker.config.settings import load_worker_settings

if TYPE_CHECKING:
    from saymask_worker.evaluation.tuning.tune import Tuning

DataOption = Annotated[
    Path, typer.Option(help="The folder of an export in RefCOCO's layout, or of a published set.")
]
DatasetOption = Annotated[DatasetName, typer.Option(help="Layout of the data.")]


def train(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder of the run; repeat to continue.")],
    dataset: DatasetOption = "export",
    split: Annotated[str | None, typer.Option(help="Train on this split; by default all.")] = None,
    backbone: Annotated[
        Literal["starter", "RN50", "RN101"],
        typer.Option(help="The starter's towers, or CLIP's from the hub."),
    ] = "starter",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 50,
    batch: Annotated[int, typer.Option(min=2, help="Refs in each step.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a step is computed.")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-4,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better IoU.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train CRIS on recorded decisions, and measure it on a fifth of the photos.

    Writes OUT/model, history.csv, tensorboard/ and report.html. To use several GPUs, run
    torchrun --nproc-per-node N -m saymask_worker.cli train ...

    Example: saymask-worker train --data export --out runs/first --epochs 30
    """
    from saymask_worker.training.config import TrainingConfig, require_training_packages

    with require_training_packages():
        from saymask_worker.training.command import TrainingRequest, run_training

    if batch < 2 * accumulate:
        raise InvalidRequest("--batch must be at least twice --accumulate: batch norm needs two.")
    config = TrainingConfig(
        backbone=backbone, epochs=epochs, batch=batch, accumulate=accumulate,
        rate=rate, patience=patience, seed=seed,
    )  # fmt: skip
    request = TrainingRequest(dataset, data, split, out, config)
    summary = run_training(request, load_worker_settings(), stderr)
    text = (
        f"{summary['model']}: held-out IoU {summary['held_out_iou']:.3f} on"
        f" {counted(summary['held_out_refs'], 'ref')}, best after epoch {summary['best_epoch'] + 1}"
    )
    finish(summary, text, as_json=as_json, failed=summary["failed"])


def tune(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The file to write, for SAYMASK_SCORING.")],
    dataset: DatasetOption = "export",
    split: Annotated[str | None, typer.Option(help="Fit to this split; by default all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit the scoring weights of the encoder in use to recorded decisions.

    Weights change only if that improves photos that they were not fitted to; the confidence is
    always fitted. Export as grefcoco to include decisions that there is no referent.

    Example: saymask-worker tune --data export --out scoring.json
    """
    from saymask.datasets import load_dataset
    from saymask_worker.config.scoring import write_scoring
    from saymask_worker.evaluation.tuning.tune import require_tunable
    from saymask_worker.evaluation.tuning.tune import tune as tune_scoring

    # From the encoder's own weights, not from some that were fitted to the same photos.
    settings = load_worker_settings(scoring=None)
    require_tunable(settings.method)
    read = load_dataset(dataset, data, split)
    with show_step("loading models"):
        from saymask_worker.pipeline.build import build_pipeline

        pipeline = build_pipeline(settings)
    with show_progress("preparing photos", quiet=as_json) as update:
        tuning = tune_scoring(pipeline, read, update)
    provenance = {"data": str(data), "split": split or "all", **asdict(tuning)}
    del provenance["scoring"], provenance["failed"]
    write_scoring(out, tuning.scoring, pipeline.encoder.weights_hash, provenance)
    finish(asdict(tuning), _describe(tuning, out), as_json=as_json, failed=tuning.failed)


def _describe(tuning: Tuning, out: Path) -> str:
    with_mask, without = tuning.decisions
    before, after = tuning.calibration_error
    lines = [
        f"{counted(with_mask, 'decision')} with a mask, {without} without a referent,"
        f" {counted(tuning.images, 'photo')}",
        f"IoU of rank 1 on photos not fitted to: {_show(tuning.gain)}",
        f"share of rank 1 above IoU .5: {_show(tuning.gain_right)}",
        "The gain is certain: the weights are changed."
        if tuning.is_sure
        else "The gain is uncertain: the weights stay as they are.",
        f"calibration error of the confidence: {before:.3f} before, {after:.3f} after",
    ]
    if tuning.no_referent is None:
        lines.append("Too few decisions without a referent: their threshold stays as it is.")
    else:
        lines.append(
            f"below probability {tuning.scoring.no_referent_below:.3f} nothing is meant:"
            f" right for {tuning.no_referent[0]:.2f} of such expressions, and"
            f" {tuning.no_referent[1]:.2f} of the others stay answered, on these decisions"
        )
    lines.append(f"Wrote {out}; use it with SAYMASK_SCORING={out}")
    return "\n".join(lines)


def _show(gain: object) -> str:
    mean, low, high = (getattr(gain, name) for name in ("mean", "low", "high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
