"""What each epoch came to: a CSV file and TensorBoard's, in the folder of the run."""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tensorboardX import SummaryWriter


@dataclass(frozen=True)
class Epoch:
    """One line of the history.

    Attributes:
        epoch: from 0.
        loss: mean over its steps.
        held_out_iou: mean IoU after it.
        held_out_right: share of sentences above IoU .5.
        rate: learning rate behind the backbone.
        seconds: training and measuring.
        refs_per_s: trained on.
    """

    epoch: int
    loss: float
    held_out_iou: float
    held_out_right: float
    rate: float
    seconds: float
    refs_per_s: float


class History:
    """Writes one line per epoch.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "history.csv"
        self._folder = folder / "tensorboard"

    def add(self, epoch: Epoch) -> None:
        """Append an epoch."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow([field.name for field in fields(Epoch)])
            writer.writerow(astuple(epoch))
        with SummaryWriter(str(self._folder)) as board:
            for field in fields(Epoch)[1:]:
                board.add_scalar(field.name, getattr(epoch, field.name), epoch.epoch)

    def read(self) -> list[Epoch]:
        """Return all epochs so far."""
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            Epoch(int(row["epoch"]), *(float(row[f.name]) for f in fields(Epoch)[1:]))
            for row in rows
        ]

    def cut(self, epoch: int) -> None:
        """Forget what a killed run had written after its last checkpoint."""
        kept = [one for one in self.read() if one.epoch < epoch]
        self._path.unlink(missing_ok=True)
        for one in kept:
            self.add(one)
