"""Checkpoints that a kill in mid-write cannot damage, and from which training resumes exactly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saymask.errors import ConfigError
from saymask.private_files import replace_folder

_STATE, _MODEL, _OPTIMISER = "state.json", "model.safetensors", "optimiser.pt"


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        epoch: the current one, from 0.
        step: steps done in it.
        best: best held-out IoU so far, or None.
        best_epoch: when that was.
        loss_sum: over the steps done in the epoch.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    loss_sum: float = 0.0


def get_trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what training can change: frozen towers are not kept with every model."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    frozen_towers = {name.rsplit(".", 1)[0] for name in frozen}
    return {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if name not in frozen and name.rsplit(".", 1)[0] not in frozen_towers
    }


def load_trained_state(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load what ``get_trained_state`` returned.

    Raises:
        ConfigError: it is of another model.
    """
    expected = set(get_trained_state(model))
    if set(state) != expected:
        odd = sorted(set(state) ^ expected)[:3]
        raise ConfigError(
            f"{source} is of another model: {', '.join(odd)} ...",
            "Continue with the settings it was trained with, or train into another folder.",
        )
    model.load_state_dict(state, strict=False)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace a folder by a new one that ``write`` fills; a kill leaves the old or the new one."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    # The disk must hold every file before the folder takes its place.
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    replace_folder(part, folder)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    position: Position,
    config: dict[str, Any],
) -> None:
    """Write a checkpoint in the place of the last one."""

    def write(part: Path) -> None:
        save_file(get_trained_state(model), part / _MODEL)
        chance = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            chance["cuda"] = torch.cuda.get_rng_state()
        torch.save({"optimiser": optimiser.state_dict(), "chance": chance}, part / _OPTIMISER)
        state = {"progress": asdict(position), "config": config}
        (part / _STATE).write_text(json.dumps(state, indent=2), "utf-8")

    write_folder(folder, write)


def load_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, config: dict[str, Any]
) -> Position:
    """Restore model, optimiser and chance; returns where the run was.

    Raises:
        ConfigError: the checkpoint was made with other settings, or is damaged.
    """
    try:
        state = json.loads((folder / _STATE).read_text("utf-8"))
        stored = torch.load(folder / _OPTIMISER, weights_only=True, map_location="cpu")
        weights = load_file(folder / _MODEL)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(
            f"The checkpoint {folder} is damaged: {error}.", "Delete it to begin anew."
        ) from error
    differing = [
        k for k, v in json.loads(json.dumps(config)).items() if state["config"].get(k) != v
    ]
    if differing:
        raise ConfigError(
            f"{folder} was trained with other values of {', '.join(differing)}.",
            "Continue with the same settings and data, or choose another --out.",
        )
    load_trained_state(model, weights, folder)
    optimiser.load_state_dict(stored["optimiser"])
    torch.set_rng_state(stored["chance"]["cpu"])
    if torch.cuda.is_available() and "cuda" in stored["chance"]:
        torch.cuda.set_rng_state(stored["chance"]["cuda"])
    return Position(**state["progress"])
