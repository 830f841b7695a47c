"""``saymask-worker batch``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from saymask.contract import MAX_K
from saymask.errors import ConfigError, InvalidRequest
from saymask.image_files import to_printable
from saymask_worker.cli.app import app, print_failed, show_progress
from saymask_worker.config.settings import load_worker_settings


@app.command()
def batch(
    source: Annotated[str, typer.Argument(help="Folder of photos: a path, s3://..., gs://...")],
    out: Annotated[str, typer.Option(help="Folder of the rows; an interrupted run goes on.")],
    expressions: Annotated[
        str, typer.Option(help="CSV or JSON lines of image (its name below SOURCE), expression.")
    ] = "",
    propose: Annotated[
        bool, typer.Option("--propose", help="Propose expressions, instead of --expressions.")
    ] = False,
    k: Annotated[
        int, typer.Option("-k", min=1, max=MAX_K, help="Candidates for an expression.")
    ] = 3,
    per_image: Annotated[
        int, typer.Option(min=1, max=MAX_K, help="With --propose: objects of a photo, at most.")
    ] = 2,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="With --propose: less confident ones are left out.")
    ] = 0.6,
    seed: Annotated[int, typer.Option(min=0, help="With --propose: of the wordings.")] = 0,
    engine: Annotated[
        str, typer.Option(help="local: this process; ray: actors on a cluster or this machine.")
    ] = "local",
    actors: Annotated[int, typer.Option(min=1, help="With ray: each loads the models.")] = 1,
    gpus_per_actor: Annotated[
        float, typer.Option(min=0, help="With ray: 0 for the CPU, 0.5 for two on one GPU.")
    ] = 0.0,
    cpus_per_actor: Annotated[float, typer.Option(min=0.1, help="With ray: set aside.")] = 1.0,
    ray_address: Annotated[
        str, typer.Option(help="With ray: of a cluster; empty starts one on this machine.")
    ] = "",
    images_per_part: Annotated[
        int, typer.Option(min=1, help="Photos of a Parquet file; what an interruption costs.")
    ] = 16,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Segment expressions about many photos, or propose some, into Parquet files.

    Run the same command again to continue. Every process computes on one CPU thread, so
    that the masks of both engines are equal.

    Example: saymask-worker batch photos --expressions texts.csv --out rows

    Example: saymask-worker batch s3://bucket/photos --propose --out s3://bucket/rows --engine ray
    --actors 8 --gpus-per-actor 1
    """
    if bool(expressions) == propose:
        raise InvalidRequest("Give either --expressions FILE or --propose.")
    if engine not in ("local", "ray"):
        raise InvalidRequest(f"There is no engine {engine!r}.", "Use local or ray.")
    _require_packages(engine)
    from saymask_worker.batch.plan import BatchPlan, ProposeOptions, list_work

    options = ProposeOptions(per_image, confidence, seed)
    source, out, expressions = map(_to_absolute, (source, out, expressions))
    plan = BatchPlan(source, out, expressions, k, options, images_per_part)
    work = list_work(plan)
    if dry_run:
        count = work.images_count
        text = f"{count} photos of {to_printable(source)}"
        print(json.dumps({"photos": count}) if as_json else text)
        return
    settings = load_worker_settings()
    with show_progress("photos", quiet=as_json) as update:
        if engine == "ray":
            from saymask_worker.batch.ray_engine import Cluster, run_ray

            cluster = Cluster(actors, gpus_per_actor, cpus_per_actor, ray_address)
            report = run_ray(settings, plan, work, cluster, update)
        else:
            import torch

            from saymask_worker.batch.local import run_local
            from saymask_worker.pipeline.build import build_pipeline

            torch.set_num_threads(1)
            report = run_local(build_pipeline(settings), plan, work, update)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(
            f"{report.rows} rows of {report.images} photos ({report.before} photos done before) in"
            f" {to_printable(out)}"
        )
        print_failed(report.failed)
    raise typer.Exit(1 if report.failed else 0)


def _to_absolute(place: str) -> str:
    """Make a path independent of the folder in which a process runs; addresses stay."""
    return place if not place or "://" in place else str(Path(place).expanduser().resolve())


def _require_packages(engine: str) -> None:
    """Raise ConfigError where a package of the extra ``batch`` is missing."""
    try:
        import fsspec  # noqa: F401
        import pyarrow  # noqa: F401

        if engine == "ray":
            import ray.data  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error}.", "pip install 'saymask[batch,ray]'") from error
