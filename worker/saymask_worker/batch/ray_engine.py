"""A batch on Ray Data: images are read on CPUs, answered by actors with one model each, written.

Stages stream: while an actor answers one chunk, the next are read. Every chunk becomes one part;
a chunk whose actor dies is answered again by another and gives the part of the same name.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from saymask.errors import DatasetError, SaymaskError
from saymask.left_out import OnProgress
from saymask_worker.batch.folders import ImageFolder, PartFolder
from saymask_worker.batch.local import (
    BatchReport,
    Collected,
    answer_chunk,
    read_chunk,
    report_chunk,
)
from saymask_worker.batch.plan import BatchPlan, Chunk, Work, describe_run
from saymask_worker.batch.rows import Key, build_part
from saymask_worker.config.settings import WorkerSettings

# A share of a processor: reading and writing mostly wait.
_LIGHT_CPUS = 0.25


@dataclass(frozen=True)
class Cluster:
    """Where actors run.

    Attributes:
        actors: each with its own models.
        gpus_per_actor: 0 for the CPU; a half puts two actors on one GPU.
        cpus_per_actor: that Ray sets aside for each.
        address: of a Ray cluster; empty starts one on this machine.
    """

    actors: int = 1
    gpus_per_actor: float = 0.0
    cpus_per_actor: float = 1.0
    address: str = ""


class _Actor:
    """Answers chunks with one pipeline."""

    def __init__(self, settings: dict[str, Any], plan: BatchPlan, work_sha256: str) -> None:
        import torch

        from saymask_worker.pipeline.build import build_pipeline

        torch.set_num_threads(1)
        self._pipeline = build_pipeline(WorkerSettings(**settings))
        self._plan = plan
        run = describe_run(plan, Work((), work_sha256), self._pipeline.model_version)
        PartFolder(plan.out).begin(run)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = _decode_chunk(row["chunk"])
        images = list(zip(row["names"], row["data"], row["failures"], strict=True))
        answered = answer_chunk(self._pipeline, self._plan, chunk, images)
        name, part = build_part(answered)
        report = json.dumps(report_chunk(chunk, answered))
        return {"name": name, "part": part, "report": report}


def _decode_chunk(text: str) -> Chunk:
    return Chunk(tuple((str(name), tuple(texts)) for name, texts in json.loads(text)))


def _read(row: dict[str, Any], source: ImageFolder, done: Any) -> dict[str, Any]:
    done_images: frozenset[Key] = ray.get(done)
    images = read_chunk(source, _decode_chunk(row["chunk"]), done_images)
    return {
        "chunk": row["chunk"],
        "names": [name for name, _, _ in images],
        "data": [data for _, data, _ in images],
        "failures": [failure for _, _, failure in images],
    }


def _write(row: dict[str, Any], out: str) -> dict[str, Any]:
    """Write a part where it was answered; masks do not travel to the driver."""
    if row["name"]:
        PartFolder(out).write(row["name"], row["part"])
    return {"report": row["report"]}


def run_ray(
    settings: WorkerSettings,
    plan: BatchPlan,
    work: Work,
    cluster: Cluster,
    progress: OnProgress,
) -> BatchReport:
    """Run a batch, or continue one.

    Raises:
        SaymaskError: what an actor raised, for example that the target belongs to another run.
        DatasetError: the cluster failed; what was written stays, and the next run continues.
    """
    _connect(cluster)
    try:
        target = PartFolder(plan.out)
        done = ray.put(frozenset(target.read_done()))
        items = [{"chunk": json.dumps(chunk.images)} for chunk in work.chunks]
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        answered = (
            rows.map(
                partial(_read, source=ImageFolder(plan.source), done=done), num_cpus=_LIGHT_CPUS
            )
            .map(
                _Actor,
                fn_constructor_args=(settings.model_dump(), plan, work.expressions_sha256),
                compute=ActorPoolStrategy(size=cluster.actors),
                num_cpus=cluster.cpus_per_actor,
                num_gpus=cluster.gpus_per_actor or None,
            )
            .map(partial(_write, out=plan.out), num_cpus=_LIGHT_CPUS)
        )
        collected = Collected(work.refused)
        for row in answered.iter_rows():
            collected.add(**json.loads(row["report"]))
            progress(collected.finished, work.images_count)
        return collected.finish(target)
    except RayError as error:
        raise _find_cause(error) from error
    finally:
        ray.shutdown()


def _connect(cluster: Cluster) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The command shows its own progress.
    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if cluster.address:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        return
    # Logical processors: the actors' own, and one for reading and writing.
    processors = int(cluster.actors * cluster.cpus_per_actor) + 1
    ray.init(
        num_cpus=processors, include_dashboard=False, log_to_driver=False,
        logging_level=logging.WARNING,
    )  # fmt: skip


def _find_cause(error: BaseException) -> SaymaskError:
    """What an actor raised, or an error about the cluster."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SaymaskError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    reason = (str(error).strip() or repr(error)).splitlines()[-1]
    return DatasetError(
        f"Ray could not finish the batch: {reason}", "Run the same command again: it continues."
    )
