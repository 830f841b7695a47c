"""``saymask-worker batch`` and ``propose``: folders of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from saymask.command_line import DryRunOption, JsonOption, finish, show_progress, show_step
from saymask.contract import MAX_K, Describer
from saymask.errors import ConfigError, InvalidRequest, counted
from saymask_worker.config.settings import load_worker_settings

PerImageOption = Annotated[
    int, typer.Option(min=1, max=MAX_K, help="At most this many proposed objects for each photo.")
]
ConfidenceOption = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out proposals below this confidence.")
]
DescriberOption = Annotated[
    Describer,
    typer.Option(help="What writes expressions: rules, or the chat server SAYMASK_ENDPOINT_URL."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the choice of proposed wordings.")]


def batch(
    source: Annotated[str, typer.Argument(help="Folder of photos: a path, s3://..., gs://...")],
    out: Annotated[str, typer.Option(help="Folder to write rows to; repeat to continue.")],
    expressions: Annotated[
        str, typer.Option(help="CSV or JSON lines with image (its name below SOURCE), expression.")
    ] = "",
    propose: Annotated[
        bool, typer.Option("--propose", help="Propose expressions instead.")
    ] = False,
    k: Annotated[
        int, typer.Option("-k", min=1, max=MAX_K, help="Candidates for each expression.")
    ] = 3,
    per_image: PerImageOption = 2,
    confidence: ConfidenceOption = 0.6,
    seed: SeedOption = 0,
    describer: DescriberOption = "rules",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="This process, or Ray actors on a cluster or this machine."),
    ] = "local",
    actors: Annotated[int, typer.Option(min=1, help="With ray: processes with models.")] = 1,
    gpus_per_actor: Annotated[
        float, typer.Option(min=0, help="With ray: 0 for the CPU; 0.5 puts two on one GPU.")
    ] = 0.0,
    cpus_per_actor: Annotated[float, typer.Option(min=0.1, help="With ray: reserved CPUs.")] = 1.0,
    ray_address: Annotated[
        str, typer.Option(help="With ray: the cluster; by default one is started here.")
    ] = "",
    images_per_part: Annotated[int, typer.Option(min=1, help="Photos in each Parquet file.")] = 16,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Segment or propose expressions for many photos, and write Parquet files.

    Run the same command again to continue. Every process computes on one CPU thread, so
    that the masks of both engines are equal.

    Example: saymask-worker batch photos --expressions texts.csv --out rows

    Example: saymask-worker batch s3://bucket/photos --propose --out s3://bucket/rows --engine ray
    --actors 8 --gpus-per-actor 1
    """
    if bool(expressions) == propose:
        raise InvalidRequest("Give either --expressions FILE or --propose.")
    _require_packages(engine)
    from saymask_worker.batch.coco_folder import ProposeOptions
    from saymask_worker.batch.plan import BatchPlan, list_work

    options = ProposeOptions(per_image, confidence, seed, describer)
    source, out, expressions = map(_to_absolute, (source, out, expressions))
    plan = BatchPlan(source, out, expressions, k, options, images_per_part)
    work = list_work(plan)
    if dry_run:
        count = work.images_count
        finish({"photos": count}, f"{counted(count, 'photo')} of {source}", as_json=as_json)
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
    text = (
        f"{counted(report.rows, 'row')} of {counted(report.images, 'photo')},"
        f" {counted(report.before, 'photo')} done before; in {out}"
    )
    finish(report, text, as_json=as_json, failed=report.failed)


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


def propose(
    folder: Annotated[Path, typer.Argument(help="A folder of photos.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder of the dataset; repeat to continue.")],
    per_image: PerImageOption = 2,
    confidence: ConfidenceOption = 0.6,
    seed: SeedOption = 0,
    describer: DescriberOption = "rules",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Propose expressions and masks for a folder of photos, as a COCO dataset to check.

    Import it into Label Studio to have it confirmed: saymask import coco OUT --project N

    Example: saymask-worker propose photos --out proposed
    """
    from saymask_worker.batch.coco_folder import ProposeOptions, list_images, propose_folder

    if dry_run:
        count = len(list_images(folder))
        finish({"photos": count}, f"{counted(count, 'photo')} in {folder}", as_json=as_json)
    with show_step("loading models"):
        from saymask_worker.pipeline.build import build_pipeline

        pipeline = build_pipeline(load_worker_settings())
    with show_progress("photos", quiet=as_json) as update:
        options = ProposeOptions(per_image, confidence, seed, describer)
        report = propose_folder(pipeline, folder, out, options, update)
    text = (
        f"{counted(report.expressions, 'expression')} proposed for"
        f" {counted(report.photos, 'photo')}, none confident enough in {report.empty};"
        f" {counted(report.before, 'photo')} done before; in {out}"
    )
    finish(report, text, as_json=as_json, failed=report.failed)
