"""``saymask train`` and ``saymask models``: learn from records; which model is served."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated

import typer
from rich.markup import escape

from saymask.command_line import (
    JsonOption,
    build_app,
    build_table,
    console,
    print_json,
    print_line,
    print_problems,
    show_progress,
)
from saymask.contract import TrainingStatus
from saymask.errors import ConfigError, InvalidRequest, SaymaskError, WorkerUnavailable, counted
from saymask.model_registry import ModelEntry, ModelRegistry
from saymask_backend.cli.context import ProjectOption, open_records
from saymask_backend.config import load_settings
from saymask_backend.context import build_fetcher
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.services.export import Exporter
from saymask_backend.services.train import StartedRun, TrainingStarter

_POLL_S = 1.0

models = build_app("Models trained from records.")


class TrainingFailed(SaymaskError):
    """A run ended with an error."""


def train(
    project: ProjectOption = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Passes over the records.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue this run, which failed or was lost.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the current run.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the run has ended.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Train a model on the records, and serve it if its masks are better.

    This needs a worker with SAYMASK_QUEUES=training; `make up` starts one.

    Example: saymask train --project 1
    """
    with open_records() as opened:
        settings = opened.settings
        queue = JobQueue(settings.redis_url, settings.deadline_s)
        with closing(queue):
            exporter = Exporter(opened.stores, build_fetcher(settings), settings.image_dir)
            starter = TrainingStarter(
                settings.effective_models_dir, exporter, opened.recorder, queue.training
            )
            if stop:
                print_line(f"{starter.stop()} is stopped, at the latest after the step it is at")
                return
            with show_progress("writing records", quiet=as_json) as bar:
                started = starter.resume(resume) if resume else starter.start(project, epochs, bar)
            if not as_json:
                _print_start(started, queue)
            status = _wait(queue, started.run, quiet=as_json) if wait else None
    if as_json:
        print_json(status.model_dump() if status else {"run": started.run})
    elif status is not None:
        print_line(f"{status.run} is {status.state}: {status.text}")
    if status is not None and status.state == "failed":
        raise TrainingFailed(f"The run {status.run} failed: {status.text}")


@models.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the trained models, and which of them is served.

    Example: saymask models list
    """
    registry = _open_registry()
    entries = registry.list_models()
    damaged = [f"{entry.name}: {entry.damage}" for entry in entries if entry.damage]
    try:
        registry.read_served()
    except ConfigError as error:
        damaged.append(str(error))
    if as_json:
        print_json(entries)
    else:
        texts = ("model", "served", "refs", "IoU alone", "first suggestion", "against")
        table = build_table(*texts)
        for entry in entries:
            table.add_row(*(escape(cell) for cell in _to_cells(entry)))
        console.print(table)
        print_problems("damaged", damaged)
    if damaged:
        raise typer.Exit(1)


@models.command()
def serve(name: Annotated[str, typer.Argument(help="A model of `saymask models list`.")]) -> None:
    """Offer a model's candidates, beginning with the next expression.

    Example: saymask models serve run-0002
    """
    _open_registry().serve(name)
    print_line(f"{name} is served")


@models.command()
def rollback() -> None:
    """Serve the newest usable model that was served before.

    Example: saymask models rollback
    """
    name = _open_registry().roll_back()
    print_line(f"{name} is served" if name else "no trained model is served any more")


def _open_registry() -> ModelRegistry:
    return ModelRegistry(load_settings().effective_models_dir)


def _print_start(started: StartedRun, queue: JobQueue) -> None:
    if started.export is not None:
        print_line(
            f"{started.run}: {counted(started.export.referents, 'referent')} on"
            f" {counted(started.export.photos, 'photo')}"
        )
    if not any(worker.queues == "training" for worker in queue.list_workers()):
        print_line("No training worker runs yet: SAYMASK_QUEUES=training saymask-worker run")


def _wait(queue: JobQueue, run: str, *, quiet: bool) -> TrainingStatus:
    """Show how far a run is until it is over.

    Raises:
        WorkerUnavailable: the run is gone from the queue.
        InvalidRequest: another run has taken its place.
    """
    with show_progress("waiting", quiet=quiet) as bar:
        while True:
            # In this order: a run that ends in between is over.
            is_training = queue.training.is_training()
            status = queue.get_training_status()
            if status is None or status.run != run:
                raise InvalidRequest(
                    f"The run {run} is no longer the newest one.", "See: saymask models list"
                )
            if status.is_over:
                return status
            if not is_training:
                raise WorkerUnavailable(
                    f"The run {run} is gone from the queue.",
                    f"Continue it: saymask train --resume {run}",
                )
            bar(status.epoch, status.epochs or None, _describe_progress(status), status.state)
            time.sleep(_POLL_S)


def _describe_progress(status: TrainingStatus) -> str:
    if status.loss is None or status.held_out_iou is None:
        return ""
    return f"loss {status.loss:.3f}  held-out IoU {status.held_out_iou:.3f}"


def _to_cells(entry: ModelEntry) -> list[str]:
    verdict, metrics = entry.verdict, entry.metrics
    return [
        entry.name,
        "yes" if entry.is_served else "",
        "" if metrics.get("refs") is None else str(metrics["refs"]),
        "" if metrics.get("held_out_iou") is None else f"{metrics['held_out_iou']:.3f}",
        f"{verdict.difference:+.3f} [{verdict.low:+.3f}, {verdict.high:+.3f}]" if verdict else "",
        (verdict.against or "proposals alone") if verdict else "",
    ]
