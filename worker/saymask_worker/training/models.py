"""Building CRIS, and the folder that holds a trained one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from saymask_worker.encoders.build import load_starter_tower, starter_head_path
from saymask_worker.encoders.starter_text import MiniLm, StarterHead
from saymask_worker.training.checkpoint import get_trained_state, load_trained_state, write_folder
from saymask_worker.training.config import BackboneName, TrainingConfig
from saymask_worker.training.cris import Cris, CrisConfig
from saymask_worker.training.cris.backbone import load_resnet_backbone
from saymask_worker.training.cris.starter_backbone import STARTER_CRIS, StarterBackbone
from saymask_worker.weights import WeightStore

_RESNETS = {
    "RN50": CrisConfig(),
    "RN101": CrisConfig(maps=(512, 1024, 512), neck=(256, 512, 1024), state=512),
}
MODEL_FILE, DESCRIPTION_FILE = "model.safetensors", "model.json"


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


def save_trained(
    folder: Path, model: Cris, config: TrainingConfig, metrics: dict[str, Any]
) -> None:
    """Write a model for use."""
    described = {"kind": "cris", "training": asdict(config), "metrics": metrics}

    def write(part: Path) -> None:
        save_file(get_trained_state(model), part / MODEL_FILE)
        (part / DESCRIPTION_FILE).write_text(json.dumps(described, indent=2), "utf-8")

    write_folder(folder, write)


def load_best(folder: Path, model: Cris) -> None:
    """Give a model of the same run the weights of its best epoch."""
    load_trained_state(model, load_file(folder / MODEL_FILE), folder)
