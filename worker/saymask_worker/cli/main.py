"""``saymask-worker``: the worker's command line."""

from __future__ import annotations

from typing import Annotated

import typer

from saymask.command_line import (
    JsonOption,
    build_app,
    build_table,
    console,
    finish,
    print_json,
    print_line,
    run_command_line,
    show_progress,
    show_step,
)
from saymask.logs import configure_logging
from saymask_worker.cli import batch, evaluation, photos, training
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.weights import CHECKPOINTS, DEFAULT, WeightStore, find_checkpoint
from saymask_worker.weights.hub import HUB_MODELS, HubStore

app = build_app(
    "saymask-worker: proposals, CLIP and ranking. Settings come from SAYMASK_... variables."
)
models = build_app("Weights: list, pull, verify.")


@app.command()
def run(
    burst: Annotated[bool, typer.Option(help="Stop when the queues are empty.")] = False,
) -> None:
    """Serve the queue.

    Example: SAYMASK_REDIS_URL=redis://localhost:6379/0 saymask-worker run
    """
    settings = load_worker_settings()
    configure_logging(settings.log_format)
    if settings.queues == "training":
        from saymask_worker.serving.main import run_training_worker

        run_training_worker(settings, burst=burst)
        return
    from saymask_worker.pipeline.build import build_pipeline
    from saymask_worker.serving.main import run_worker

    run_worker(settings, build_pipeline, burst=burst)


@app.command()
def health(as_json: JsonOption = False) -> None:
    """Check whether a worker on this machine serves the queue. Exit status 0 means that it does.

    Example: saymask-worker health --json
    """
    from saymask_worker.serving.main import check_own_worker

    status = check_own_worker(load_worker_settings())
    finish(status.model_dump(), f"{status.name}: {status.state}, {status.encoder}", as_json=as_json)


@models.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the weights that can be pulled, and which are here.

    Example: saymask-worker models list --json
    """
    store = _store()
    rows: list[dict[str, object]] = [
        {
            "name": c.name,
            "what": c.what,
            "licence": c.licence,
            "bytes": c.bytes,
            "sha256": c.sha256,
            "source": str(c.source),
            "path": str(store.path(c.name)),
            "present": store.is_present(c.name),
        }
        for c in CHECKPOINTS.values()
    ]
    hub = HubStore(store.directory.parent)
    rows += [
        {
            "name": model.name,
            "what": model.what,
            "licence": model.licence,
            "bytes": None,
            "sha256": None,
            "source": f"model hub {model.repository}",
            "path": str(hub.path(model)),
            "present": hub.is_present(model),
        }
        for model in HUB_MODELS.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = build_table("name", "here", "MB", "licence", "what", "source")
    for row in rows:
        here = "yes" if row["present"] else "no"
        size = f"{row['bytes'] / 1e6:.0f}" if isinstance(row["bytes"], int) else ""
        table.add_row(
            str(row["name"]), here, size, str(row["licence"]), str(row["what"]), str(row["source"])
        )
    console.print(table)
    settings = load_worker_settings()
    print_line(
        f"Encoder in use: {settings.encoder_name} (SAYMASK_ENCODER={settings.encoder}). Genuine"
        " CLIP pairs come from the model hub by name."
    )


@models.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="By default those for a CPU.")] = None,
    accept_licence: Annotated[
        str | None,
        typer.Option(help="Name of the model's licence, which you have read and accept."),
    ] = None,
) -> None:
    """Fetch weights.

    Example: saymask-worker models pull mobile-sam

    Example: saymask-worker models pull sam3 --accept-licence "SAM License"
    """
    store = _store()
    wanted = [name for name in names or DEFAULT if name not in HUB_MODELS]
    # Unknown names are reported before anything is downloaded.
    for name in wanted:
        find_checkpoint(name)
    for name in wanted:
        if store.is_present(name):
            print_line(f"{name}: already here")
            continue
        with show_progress(name, in_bytes=True) as bar:
            store.pull(name, bar)
        print_line(f"{name}: {store.path(name)}")
    hub = HubStore(store.directory.parent)
    for model in (HUB_MODELS[name] for name in names or () if name in HUB_MODELS):
        with show_step(f"fetching {model.repository}"):
            folder = hub.pull(model, accept_licence)
        print_line(f"{model.name}: {folder}")


@models.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="By default all that are here.")] = None,
) -> None:
    """Check stored weights against their hashes.

    Example: saymask-worker models verify
    """
    store = _store()
    for name in names or [name for name in CHECKPOINTS if store.is_present(name)]:
        print_line(f"{name}: sha256 {store.verify(name)}")


def _store() -> WeightStore:
    return WeightStore(load_worker_settings().cache_dir)


app.command()(batch.batch)
app.command()(evaluation.evaluate)
app.command()(evaluation.endpoint)
app.command()(photos.segment)
app.command()(photos.explain)
app.command()(batch.propose)
app.command()(training.train)
app.command()(training.tune)
app.add_typer(models, name="models")


def main() -> None:
    """Run the command line."""
    run_command_line(app)
