"""A training run of a tiny CRIS that dies when told to: ``OUT DATA [SAVES BEFORE DEATH]``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from saymask.datasets import load_dataset
from saymask.left_out import LeftOut
from saymask_worker.training import trainer as module
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.cris import Cris, CrisConfig
from saymask_worker.training.cris.backbone import ResnetBackbone
from saymask_worker.training.samples import read_samples, split_samples
from saymask_worker.training.trainer import Trainer

VISION = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
SHAPES = CrisConfig((64, 128, 64), (32, 64, 96), 64, 64, 1, 4, 128, 0.1)


def build(freeze_below: int) -> tuple[Cris, TrainingConfig]:
    torch.manual_seed(5)
    config = TrainingConfig(
        backbone="RN50", side_px=64, words=17, epochs=3, batch=4, rate=1e-3, patience=50,
        freeze_below=freeze_below, accumulate=2,
    )  # fmt: skip
    return Cris(ResnetBackbone(64, VISION, TEXT), SHAPES), config


def build_trainer(
    out: Path, data: Path, freeze_below: int = 0, every_s: float = 1e9, **changes: Any
) -> tuple[Trainer, Cris]:
    model, config = build(freeze_below)
    config = replace(config, **changes)
    samples = read_samples(load_dataset("refcoco", data, None), LeftOut())
    split = split_samples(samples, config.held_out_share, config.reserved_share, config.seed)
    train, held_out = split.train, split.held_out
    fabric = Fabric(accelerator="cpu", devices=1)
    return Trainer(
        model,
        config,
        train,
        held_out,
        out,
        fabric,
        Console(quiet=True),
        checkpoint_every_s=every_s,
    ), model


def main() -> None:
    torch.set_num_threads(1)
    out, data = Path(sys.argv[1]), Path(sys.argv[2])
    # Every step is saved.
    trainer, _ = build_trainer(out, data, every_s=0.0)
    if len(sys.argv) > 3:
        saves, original = int(sys.argv[3]), module.save_checkpoint

        def save_and_die(*arguments: object) -> None:
            nonlocal saves
            saves -= 1
            if saves == 0:
                # In the middle of writing: a part of the new checkpoint exists next to the old one.
                part = Path(str(arguments[0]) + ".part")
                part.mkdir(parents=True, exist_ok=True)
                (part / "model.safetensors").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments)  # type: ignore[arg-type]

        module.save_checkpoint = save_and_die
    trainer.run()


if __name__ == "__main__":
    main()
