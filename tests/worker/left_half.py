"""A real CRIS that was taught one thing: to answer with the left half of a photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console

from saymask.masks import encode_coco_rle
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.models import build_cris
from saymask_worker.training.samples import Sample
from saymask_worker.training.trainer import Trainer
from saymask_worker.weights import WeightStore

SENTENCE = "the left half"


def train_left_half(photo: Path, out: Path) -> float:
    """Train until it answers so on one photo; returns the IoU. Writes ``out/model``."""
    with Image.open(photo) as image:
        width, height = image.size
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    target = encode_coco_rle(mask)
    samples = [Sample(str(number), photo, target, (SENTENCE,)) for number in range(24)]
    config = TrainingConfig(side_px=128, epochs=3, batch=4, rate=1e-3, flip_share=0.0, patience=3)
    model = build_cris("starter", WeightStore())
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = Trainer(model, config, samples, samples[:4], out, fabric, Console(quiet=True))
    return trainer.run().best_iou
