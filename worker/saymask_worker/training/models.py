"""Building CRIS for training, and reading a trained one back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from saymask.errors import ConfigError
from saymask_worker.encoders.build import load_starter_tower, starter_head_path
from saymask_worker.encoders.starter_text import MiniLm, StarterHead
from saymask_worker.ranking.logistic import Curve
from saymask_worker.training.checkpoint import (
    get_trained_state,
    load_trained_state,
    write_folder,
)
from saymask_worker.training.config import BackboneName, TrainingConfig
from saymask_worker.training.cris import Cris, CrisConfig
from saymask_worker.training.cris.backbone import load_resnet_backbone
from saymask_worker.training.cris.starter_backbone import STARTER_CRIS, StarterBackbone
from saymask_worker.weights import WeightStore

_RESNETS = {
    "RN50": CrisConfig(),
    "RN101": CrisConfig(maps=(512, 1024, 512), neck=(256, 512, 1024), state=512),
}
_MODEL, _DESCRIPTION = "model.safetensors", "model.json"


def build_cris(backbone: BackboneName, store: WeightStore) -> Cris:
    """Build an untrained CRIS on pretrained towers.

    Raises:
        WeightsError: the towers' weights are missing.
    """
    if backbone != "starter":
        return Cris(load_resnet_backbone(backbone, "openai"), _RESNETS[backbone])
    tower, head = load_starter_tower(store), StarterHead.load(starter_head_path())
    tokenizer = Tokenizer.from_file(str(store.require_verified("starter-tokenizer")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    minilm = MiniLm.load(store.require_verified("starter-text"))
    towers = StarterBackbone(tower, minilm, head, tokenizer, STARTER_CRIS.width)
    return Cris(towers, STARTER_CRIS)


@dataclass(frozen=True)
class TrainedCris:
    """A trained model; its ``curve`` leads from a mask's certainty to a probability."""

    model: Cris
    config: TrainingConfig
    curve: Curve


def save_trained(
    folder: Path, model: Cris, config: TrainingConfig, metrics: dict[str, Any]
) -> None:
    """Write a model for use."""
    described = {"kind": "cris", "training": asdict(config), "metrics": metrics}

    def write(part: Path) -> None:
        save_file(get_trained_state(model), part / _MODEL)
        (part / _DESCRIPTION).write_text(json.dumps(described, indent=2), "utf-8")

    write_folder(folder, write)


def load_best(folder: Path, model: Cris) -> None:
    """Give a model of the same run the weights of its best epoch."""
    load_trained_state(model, load_file(folder / _MODEL), folder)


def load_trained(folder: Path, store: WeightStore, device: str = "cpu") -> TrainedCris:
    """Read a model that ``saymask-worker train`` wrote.

    Raises:
        ConfigError: there is none, or it is damaged.
        WeightsError: the towers' weights are missing.
    """
    try:
        described = json.loads((folder / _DESCRIPTION).read_text("utf-8"))
        training = described["training"]
        config = TrainingConfig(**{**training, "milestones": tuple(training["milestones"])})
        curve = Curve(**described["metrics"]["curve"])
        weights = load_file(folder / _MODEL)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"There is no trained model in {folder}: {error}.",
            "Train one: saymask-worker train --data EXPORT_DIR --out DIR",
        ) from error
    model = build_cris(config.backbone, store)
    load_trained_state(model, weights, folder)
    return TrainedCris(model.to(torch.device(device)).eval(), config, curve)
