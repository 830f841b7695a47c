"""``saymask-worker train``: from a folder of records to a model that can be served."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from numpy.typing import NDArray
from rich.console import Console

from saymask.datasets import load_dataset
from saymask.errors import ConfigError, counted
from saymask.left_out import LeftOut
from saymask.masks import Mask
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.history import History
from saymask_worker.training.models import build_cris, load_best
from saymask_worker.training.predictor import CrisPredictor
from saymask_worker.training.report import write_report
from saymask_worker.training.samples import Sample, read_samples, split_samples
from saymask_worker.training.trainer import NO_HOOKS, Hooks, Trainer
from saymask_worker.weights import WeightStore, default_cache_dir
from saymask_worker.weights.device import choose_device


@dataclass(frozen=True)
class TrainingRequest:
    """What to train on, and where to.

    Attributes:
        dataset: one of ``saymask.datasets.DATASETS``.
        root: its folder.
        split: to train on; None takes all.
        out: folder of the run; an interrupted run in it continues.
    """

    dataset: str
    root: Path
    split: str | None
    out: Path
    config: TrainingConfig


def run_training(
    request: TrainingRequest, settings: WorkerSettings, console: Console, hooks: Hooks = NO_HOOKS
) -> dict[str, Any]:
    """Train, and write model, logs and report; returns a summary for machines.

    Photos that cannot be read are left out; ``failed`` of the summary names them.

    Raises:
        DatasetError: the data is damaged, or there is too little of it.
        ConfigError: the folder holds a run with other settings; the device is missing.
        WeightsError: the towers' weights are missing.
    """
    config = request.config
    dataset = load_dataset(request.dataset, request.root, request.split)
    left_out = LeftOut()
    samples = read_samples(dataset, left_out)
    split = split_samples(samples, config.held_out_share, config.reserved_share, config.seed)
    train, held_out = split.train, split.held_out
    fabric = build_fabric(settings)
    if len(train) // fabric.world_size < 2:
        raise ConfigError(
            f"{counted(len(train), 'ref')}: too few for {fabric.world_size} processes.",
            "Start fewer.",
        )
    model = build_cris(config.backbone, WeightStore(settings.cache_dir or default_cache_dir()))
    trainer = Trainer(model, config, train, held_out, request.out, fabric, console, hooks)
    if fabric.is_global_zero:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        console.print(
            f"{counted(len(train), 'ref')} on {_count_photos(train)} to train on,"
            f" {len(held_out)} on {_count_photos(held_out)} held out;"
            f" {trainable / 1e6:.1f} million parameters, on {fabric.device}"
        )
    outcome = trainer.run()
    if fabric.is_global_zero:
        load_best(request.out / "model", model)
        write_report(
            request.out / "report.html", config, outcome, History(request.out).read(),
            list(trainer.predict(held_out)),
        )  # fmt: skip
    return {
        "model": str(request.out / "model"),
        "refs": len(train),
        "held_out_refs": len(held_out),
        "held_out_iou": round(outcome.best_iou, 4),
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
        "stopped_early": outcome.stopped_early,
        "failed": (*dataset.left_out, *left_out.lines),
    }


def train_and_load(
    samples: Sequence[Sample], config: TrainingConfig, out: Path, settings: WorkerSettings
) -> Callable[[NDArray[np.uint8], str], Mask]:
    """Train on samples without holding any back, and return what segments with the model.

    The best epoch is chosen by the samples themselves.

    Raises:
        WeightsError: the towers' weights are missing.
    """
    fabric, store = build_fabric(settings), WeightStore(settings.cache_dir)
    own = list({sample.id.partition("#")[0]: sample for sample in samples}.values())
    model = build_cris(config.backbone, store)
    Trainer(model, config, samples, own, out, fabric, Console(quiet=True)).run()
    return CrisPredictor.load(out / "model", store, str(fabric.device)).segment


def build_fabric(settings: WorkerSettings) -> Fabric:
    """Set up the device, its precision, and the processes that ``torchrun`` started."""
    device = choose_device(settings.device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    is_cuda = device.startswith("cuda")
    mixes = is_cuda and torch.cuda.is_bf16_supported()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if is_cuda else "cpu",
        devices=local if processes > 1 else 1,
        num_nodes=max(processes // local, 1),
        # CLIP's scale is a parameter that segmentation does not use.
        strategy=DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto",
        precision="bf16-mixed" if mixes else "32-true",
    )
    fabric.launch()
    return fabric


def _count_photos(samples: Sequence[Sample]) -> str:
    return counted(len({sample.image for sample in samples}), "photo")
