"""How a model is trained, as data; imports neither PyTorch nor training's packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from saymask.errors import ConfigError

BackboneName = Literal["starter", "RN50", "RN101"]


@dataclass(frozen=True)
class TrainingConfig:
    """Numbers of one training run; the defaults are CRIS's, changed for small data.

    They are stored with the model and in every checkpoint.

    Attributes:
        backbone: ``starter``, or CLIP's ``RN50`` or ``RN101`` with OpenAI's weights.
        side_px: of the square that the model sees.
        words: longest sentence, tokens; CRIS takes 17 for RefCOCO and 22 for RefCOCOg.
        epochs: passes over the training refs.
        batch: refs per step of the optimiser.
        accumulate: parts of a step, for devices with little memory.
        rate: learning rate behind the backbone.
        backbone_share: the backbone's learning rate as a share of ``rate``.
        milestones: shares of the epochs after which the rates fall to a tenth.
        flip_share: how many samples are mirrored.
        held_out_share: share of the photos that choose the best epoch and are never trained on.
        reserved_share: share of the photos kept for comparisons with other models.
        patience: epochs without a better held-out IoU after which training ends.
        freeze_below: with fewer refs the backbone and its statistics do not change.
    """

    backbone: BackboneName = "starter"
    side_px: int = 416
    words: int = 22
    epochs: int = 50
    batch: int = 8
    accumulate: int = 1
    rate: float = 1e-4
    backbone_share: float = 0.1
    milestones: tuple[float, ...] = (0.7,)
    flip_share: float = 0.5
    held_out_share: float = 0.2
    reserved_share: float = 0.0
    patience: int = 10
    freeze_below: int = 2000
    seed: int = 0


@contextmanager
def require_training_packages() -> Iterator[None]:
    """Surround an import of training code: a worker can be installed without its packages.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Training needs the package {error.name}.", "pip install 'saymask[worker,train]'"
        ) from error
