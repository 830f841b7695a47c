"""``saymask-worker tune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saymask_worker.cli.app import app, console, print_failed
from saymask_worker.config.settings import load_worker_settings

if TYPE_CHECKING:
    from saymask_worker.evaluation.tuning.tune import Tuning


@app.command()
def tune(
    data: Annotated[Path, typer.Option(help="An export in RefCOCO's layout, or a public set.")],
    out: Annotated[Path, typer.Option(help="File to write, for SAYMASK_SCORING.")],
    dataset: Annotated[
        str, typer.Option(help="export, refcoco, refcoco+, refcocog, grefcoco or phrasecut.")
    ] = "export",
    split: Annotated[str | None, typer.Option(help="Fit to this split; by default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Fit the score of the encoder in use to recorded decisions.

    Weights change only if they gain on photos that they were not fitted to; the confidence is
    fitted in any case. Export as grefcoco to have decisions that nothing was meant fitted too.

    Example: saymask-worker tune --data export --out scoring.json
    """
    from saymask.datasets import load_dataset
    from saymask_worker.config.scoring import write_scoring
    from saymask_worker.evaluation.tuning.tune import require_tunable
    from saymask_worker.evaluation.tuning.tune import tune as tune_scoring
    from saymask_worker.pipeline.build import build_pipeline

    # From the encoder's own weights, not from some that were fitted to the same photos.
    settings = load_worker_settings(scoring=None)
    require_tunable(settings.method)
    read = load_dataset(dataset, data, split)
    with console.status("loading models"):
        pipeline = build_pipeline(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=as_json) as progress:
        task = progress.add_task("preparing photos", total=len(read.images))
        tuning = tune_scoring(
            pipeline, read, lambda done, total: progress.update(task, completed=done, total=total)
        )
    provenance = {"data": str(data), "split": split or "all", **asdict(tuning)}
    del provenance["scoring"], provenance["failed"]
    write_scoring(out, tuning.scoring, pipeline.encoder.weights_hash, provenance)
    print(json.dumps(asdict(tuning), indent=2) if as_json else _describe(tuning, out))
    print_failed(tuning.failed)
    raise typer.Exit(1 if tuning.failed else 0)


def _describe(tuning: Tuning, out: Path) -> str:
    with_mask, without = tuning.decisions
    before, after = tuning.calibration_error
    lines = [
        f"{with_mask} decisions with a mask, {without} without a referent, {tuning.images} photos",
        f"IoU of rank 1 on photos not fitted to: {_show(tuning.gain)}",
        f"share of rank 1 above IoU .5: {_show(tuning.gain_right)}",
        "The gain is sure, and the weights are changed."
        if tuning.is_sure
        else "The gain is not sure, and the weights stay as they are.",
        f"calibration error of the confidence: {before:.3f} before, {after:.3f} after",
    ]
    if tuning.no_referent is None:
        lines.append("Too few decisions that nothing was meant: that threshold stays.")
    else:
        lines.append(
            f"below probability {tuning.scoring.no_referent_below:.3f} nothing is meant:"
            f" right for {tuning.no_referent[0]:.2f} of such expressions, and"
            f" {tuning.no_referent[1]:.2f} of the others stay answered, on these decisions"
        )
    lines.append(f"{out} is written; use it with SAYMASK_SCORING={out}")
    return "\n".join(lines)


def _show(gain: object) -> str:
    mean, low, high = (getattr(gain, name) for name in ("mean", "low", "high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
